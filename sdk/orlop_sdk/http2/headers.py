# SPDX-License-Identifier: Apache-2.0
"""Header blocks (HPACK, RFC 7541) and what a request's fields must be like (RFC 9113, section 8).

Received blocks are decoded by the library hpack, once: clients repeat themselves to the byte, and as long as the table
of a connection does not change, equal blocks mean equal fields. Sent blocks use no table, so they are constants.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from hpack import Decoder, HPACKError, OversizedHeaderListError

from orlop_sdk.http2.frames import ConnectionFault, ErrorCode

T = TypeVar("T")
Fields = list[tuple[str, str]]

#: Most bytes of the fields of one request, as SETTINGS_MAX_HEADER_LIST_SIZE counts them.
MAX_FIELDS: Final = 1 << 16
# What is remembered of a connection's blocks: few and short ones, as a hostile peer may send as many as it likes.
_MAX_KNOWN: Final = 64
_MAX_KNOWN_SIZE: Final = 2048

_NAME: Final = re.compile(r":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE: Final = re.compile(r"[^\x00\r\n]*")
_DIGITS: Final = re.compile(r"[0-9]{1,15}")
_PSEUDO: Final = frozenset({":method", ":scheme", ":path", ":authority"})
_OF_CONNECTION: Final = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})


class Malformed(Exception):
    """Fields that no request may have; the stream is reset."""


@dataclass(frozen=True, slots=True)
class Request:
    """The checked fields of a request. ``length`` is its content-length, -1 where there is none."""

    method: str
    path: str
    fields: Fields
    length: int = -1


class Blocks(Generic[T]):
    """Decodes the header blocks of one connection, in the order in which they come, into what *parse* makes of them."""

    def __init__(self, parse: Callable[[Fields], T]) -> None:
        self._parse = parse
        self._decoder = Decoder(MAX_FIELDS)
        self._known: dict[bytes, T] = {}

    def decode(self, block: bytes) -> T:
        """What *parse* returned for the fields in *block*, or what it raises.

        Raises `ConnectionFault` for a block that cannot be decoded: the table is unknown from there on.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        before = self._state()
        fields = self.fields(block)
        same = _unchanged(before, self._state())
        if not same or len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        parsed = self._parse(fields)
        if same and len(block) <= _MAX_KNOWN_SIZE:
            self._known[block] = parsed
        return parsed

    def fields(self, block: bytes) -> Fields:
        """The fields in *block*, unchecked. Raises `ConnectionFault` as `decode` does."""
        try:
            found = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError as error:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"header list: more than {MAX_FIELDS} bytes") from error
        except HPACKError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "header block: cannot be decoded") from error
        # Every byte is a character then, and what is allowed is checked later.
        return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in found]

    def _state(self) -> tuple[int, int, object]:
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return table.maxsize, len(entries), entries[0] if entries else None


def _unchanged(before: tuple[int, int, object], after: tuple[int, int, object]) -> bool:
    # What is added to a table comes first, and is an object of its own; what is dropped makes the table shorter.
    return before[:2] == after[:2] and before[2] is after[2]


def request(fields: Fields) -> Request:
    """The request that *fields* make. Raises `Malformed`."""
    pseudo: dict[str, str] = {}
    regular: Fields = []
    length = -1
    for name, value in fields:
        _check(name, value)
        if name[0] == ":":
            if regular or name in pseudo or name not in _PSEUDO:
                raise Malformed(f"field {name}: unknown, repeated, or after a regular one")
            pseudo[name] = value
            continue
        if name == "content-length":
            if not _DIGITS.fullmatch(value) or length not in (-1, int(value)):
                raise Malformed("content-length: not one number")
            length = int(value)
        regular.append((name, value))
    if not pseudo.get(":method") or not pseudo.get(":path") or not pseudo.get(":scheme"):
        raise Malformed("request without :method, :scheme or :path")
    return Request(pseudo[":method"], pseudo[":path"], regular, length)


def check_trailers(fields: Fields) -> None:
    """Raise `Malformed` unless *fields* may follow a request's content."""
    for name, value in fields:
        _check(name, value)
        if name[0] == ":":
            raise Malformed(f"field {name}: not allowed in trailers")


def _check(name: str, value: str) -> None:
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise Malformed("field name or value with characters that are not allowed")
    if name in _OF_CONNECTION or (name == "te" and value.lower() != "trailers"):
        raise Malformed(f"field {name}: not allowed in HTTP/2")


def block(fields: Fields) -> bytes:
    """A header block that any peer decodes whatever its table holds. Names are lower case, values ASCII."""
    return b"".join(_STATUS_200 if field == (":status", "200") else _literal(*field) for field in fields)


# Entry 8 of the static table.
_STATUS_200: Final = b"\x88"


def _literal(name: str, value: str) -> bytes:
    # Literal field without indexing, new name.
    return b"\x00" + _string(name) + _string(value)


def _string(text: str) -> bytes:
    data = text.encode("ascii")
    rest = len(data) - 127
    if rest < 0:
        return bytes((len(data),)) + data
    size = bytearray((127,))
    while rest >= 128:
        size.append(rest & 127 | 128)
        rest >>= 7
    size.append(rest)
    return bytes(size) + data
