# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 frames (RFC 9113): bytes to frames and back, and how a peer's mistakes are told apart. No input or output."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE: Final = 9
#: The frame size that every peer takes until its settings allow more, and the most that settings can allow.
DEFAULT_FRAME: Final = 1 << 14
LARGEST_FRAME: Final = (1 << 24) - 1
#: The window that every stream and connection begins with, and the most that one can grow to.
DEFAULT_WINDOW: Final = (1 << 16) - 1
LARGEST_WINDOW: Final = (1 << 31) - 1

# Kinds of frames.
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

# Settings.
HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

_HEADER: Final = struct.Struct(">HBBBI")
_NUMBER: Final = struct.Struct(">I")
_SETTING: Final = struct.Struct(">HI")
_STREAM_BITS: Final = (1 << 31) - 1


class ErrorCode(IntEnum):
    """Why a stream or a connection ended."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionFault(Exception):
    """The peer broke a rule that ends the connection."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class StreamFault(Exception):
    """The peer broke a rule that ends one stream."""

    def __init__(self, stream: int, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.stream = stream
        self.code = code


def header(kind: int, flags: int, stream: int, size: int) -> bytes:
    """The first nine bytes of a frame with *size* bytes of payload."""
    return _HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream)


def encode(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return header(kind, flags, stream, len(payload)) + payload


def encode_settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    return encode(SETTINGS, 0, 0, b"".join(_SETTING.pack(*each) for each in values.items()))


def encode_window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection's window."""
    return encode(WINDOW_UPDATE, 0, stream, _NUMBER.pack(increment))


def encode_reset(stream: int, code: ErrorCode) -> bytes:
    """A RST_STREAM frame."""
    return encode(RST_STREAM, 0, stream, _NUMBER.pack(code))


def encode_goaway(last: int, code: ErrorCode, text: str = "") -> bytes:
    """A GOAWAY frame; *last* is the highest stream that is still answered."""
    return encode(GOAWAY, 0, 0, _NUMBER.pack(last) + _NUMBER.pack(code) + text.encode())


def decode_number(payload: bytes, what: str) -> int:
    """The one 32-bit number that a frame consists of. Raises `ConnectionFault` for another size."""
    if len(payload) != 4:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"{what}: {len(payload)} bytes instead of 4")
    return int.from_bytes(payload, "big")


def decode_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """The settings in a payload, checked. Raises `ConnectionFault` for a value that is not allowed."""
    if len(payload) % _SETTING.size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS: {len(payload)} bytes are no multiple of 6")
    for name, value in _SETTING.iter_unpack(payload):
        if name == ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH: {value} is neither 0 nor 1")
        if name == INITIAL_WINDOW_SIZE and value > LARGEST_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE: {value} is too large")
        if name == MAX_FRAME_SIZE and not DEFAULT_FRAME <= value <= LARGEST_FRAME:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE: {value} is out of range")
        yield name, value


def unpadded(flags: int, payload: bytes) -> bytes:
    """What is left of a DATA or HEADERS payload without its padding. Raises `ConnectionFault` for too much of it."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding: longer than its frame")
    return payload[1 : len(payload) - payload[0]]


class Decoder:
    """Cuts a stream of bytes into frames of at most *largest* bytes."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._preface = True
        self._rest = bytearray()
        self._needed = len(PREFACE)

    @property
    def is_within(self) -> bool:
        """Whether a frame, or the preface, has begun and is not complete."""
        return bool(self._rest)

    def feed(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """The frames that are now complete: kind, flags, stream, payload. Raises `ConnectionFault` at one too long.

        Iterate to the end before feeding more.
        """
        if self._rest:
            # Joined once there is a whole frame, so that a peer who sends single bytes does not make us copy all.
            self._rest += data
            if len(self._rest) < self._needed:
                if self._preface:
                    self._check_preface(self._rest)
                return
            data = bytes(self._rest)
            self._rest.clear()
        at, end = 0, len(data)
        if self._preface:
            self._check_preface(data)
            if end < len(PREFACE):
                self._rest += data
                return
            self._preface = False
            at = len(PREFACE)
        while end - at >= HEADER_SIZE:
            high, low, kind, flags, stream = _HEADER.unpack_from(data, at)
            size = high << 8 | low
            if size > self._largest:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"frame of {size} bytes: longer than allowed")
            start = at + HEADER_SIZE
            if end - start < size:
                self._keep(data, at, HEADER_SIZE + size)
                return
            at = start + size
            yield kind, flags, stream & _STREAM_BITS, data[start:at]
        self._keep(data, at, HEADER_SIZE)

    def _keep(self, data: bytes, at: int, needed: int) -> None:
        self._rest += data[at:] if at else data
        self._needed = needed

    def _check_preface(self, data: bytes | bytearray) -> None:
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "connection preface: not HTTP/2")
