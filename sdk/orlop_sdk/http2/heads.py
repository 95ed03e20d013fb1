# SPDX-License-Identifier: Apache-2.0
"""The header blocks of gRPC over HTTP/2: what a request's fields ask for, and the constant blocks of answers."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from orlop.errors import Internal, OrlopError, Unimplemented
from orlop_sdk.http2.headers import Fields, block, request
from orlop_sdk.rpc.channel import named, traced
from orlop_sdk.rpc.edge import status_text

_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_SECONDS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_CONTENT_TYPE: Final = re.compile(r"application/grpc(?:[+;].*)?", re.IGNORECASE)
#: What passes through a status text as it is; anything else is written as %XX.
_PLAIN: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"

_ANSWER: Final[Fields] = [(":status", "200"), ("content-type", "application/grpc")]
#: The block that begins an answer, and the one that ends it when all is well.
BEGIN: Final = block(_ANSWER)
DONE: Final = block([("grpc-status", "0")])


@dataclass(frozen=True, slots=True)
class Head:
    """What a request asks for.

    ``namespace`` and ``lease`` are what its metadata name. ``timeout`` is in seconds, None for ever. ``gzip`` says that
    messages may be compressed. ``refusal`` is the block that answers a request which cannot be one of gRPC. ``length``
    is the content-length, -1 for none. ``trace`` is what the metadata say of the call's trace.
    """

    path: str
    namespace: str | None = None
    lease: str | None = None
    timeout: float | None = None
    gzip: bool = False
    refusal: bytes = b""
    length: int = -1
    trace: dict[str, str] = field(default_factory=dict)


def parse(fields: Fields) -> Head:
    """The head in a request's fields. Raises `headers.Malformed` for what HTTP/2 does not allow."""
    asked = request(fields)
    values = dict(asked.fields)
    if asked.method != "POST":
        return Head(asked.path, refusal=block([(":status", "405"), ("allow", "POST")]), length=asked.length)
    if not _CONTENT_TYPE.fullmatch(values.get("content-type", "")):
        return Head(asked.path, refusal=block([(":status", "415")]), length=asked.length)
    try:
        timeout = _timeout(values["grpc-timeout"]) if "grpc-timeout" in values else None
        namespace, lease = named((name, _metadatum(name, value)) for name, value in asked.fields)
        gzip = _is_gzip(values.get("grpc-encoding", "identity"))
    except OrlopError as error:
        more: Fields = [("grpc-accept-encoding", "identity,gzip")] if isinstance(error, Unimplemented) else []
        return Head(asked.path, refusal=failed(error, begun=False, more=more), length=asked.length)
    return Head(asked.path, namespace, lease, timeout, gzip, length=asked.length, trace=traced(asked.fields))


def failed(error: OrlopError, *, begun: bool, more: Fields | None = None) -> bytes:
    """The block that ends an answer with an error; it is the whole answer unless that has *begun*."""
    status: Fields = [("grpc-status", str(error.code)), ("grpc-message", quote(status_text(error), safe=_PLAIN))]
    return block([*([] if begun else _ANSWER), *status, *(more or ())])


def _timeout(text: str) -> float:
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise Internal(f'grpc-timeout "{text[:20]}": not up to eight digits and a unit')
    return int(found[1]) * _SECONDS[found[2]]


def _is_gzip(encoding: str) -> bool:
    if encoding not in ("identity", "gzip"):
        raise Unimplemented(f'grpc-encoding "{encoding[:20]}": not supported; use identity or gzip')
    return encoding == "gzip"


def _metadatum(name: str, value: str) -> str | bytes:
    if not name.endswith("-bin"):
        return value
    try:
        # Senders may leave out the padding, and what was repeated may come joined by commas: the first counts.
        first = value.partition(",")[0].rstrip("=")
        return base64.b64decode(first + "=" * (-len(first) % 4), validate=True)
    except binascii.Error as error:
        raise Internal(f"metadata {name[:40]}: not base64") from error
