# SPDX-License-Identifier: Apache-2.0
"""Frames of ttrpc: ten bytes of header (data length, stream, kind, flags; big endian), then the data.

Plain functions over bytes. Streams are opened by clients only and have odd numbers that never decrease.
"""

from __future__ import annotations

import struct

from orlop.errors import ResourceExhausted
from orlop_sdk.hints import Final, NamedTuple

#: Most bytes of data in a frame.
MAX_DATA: Final = 4 << 20

#: Kinds of frames. Receivers ignore all others.
REQUEST: Final = 1
RESPONSE: Final = 2
DATA: Final = 3

#: The sender will send no more data on this stream.
REMOTE_CLOSED: Final = 1
#: The client will send data after its request.
REMOTE_OPEN: Final = 2
#: The frame carries no message, as opposed to an empty one.
NO_DATA: Final = 4

HEADER: Final = struct.Struct(">IIBB")


class Frame(NamedTuple):
    """A frame as received. ``dropped`` is the length of data that was too long, and is not kept; otherwise 0."""

    stream: int
    kind: int
    flags: int
    data: bytes
    dropped: int = 0


def encode(stream: int, kind: int, flags: int = 0, data: bytes = b"") -> bytes:
    """The bytes of a frame. Raises `ResourceExhausted` for data of more than `MAX_DATA` bytes."""
    check_size(len(data))
    return HEADER.pack(len(data), stream, kind, flags) + data


def check_size(size: int) -> None:
    """Raise `ResourceExhausted` for a length that no frame may have."""
    if size > MAX_DATA:
        raise ResourceExhausted(f"message of {size} bytes: ttrpc carries at most {MAX_DATA}; send less at once")


class Decoder:
    """Cuts a stream of bytes into frames, whatever pieces it arrives in. Keeps at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0

    @property
    def is_within(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return bool(self._buffer) or self._skip > 0

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that *data* completes, in order."""
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        start = self._skipped(0)
        while len(buffer) - start >= HEADER.size:
            length, stream, kind, flags = HEADER.unpack_from(buffer, start)
            if length > MAX_DATA:
                frames.append(Frame(stream, kind, flags, b"", length))
                self._skip = length
                start = self._skipped(start + HEADER.size)
                continue
            end = start + HEADER.size + length
            if end > len(buffer):
                break
            frames.append(Frame(stream, kind, flags, bytes(memoryview(buffer)[start + HEADER.size : end])))
            start = end
        del buffer[:start]
        return frames

    def _skipped(self, start: int) -> int:
        # Oversized data is thrown away as it comes; it never fills the buffer.
        step = min(self._skip, len(self._buffer) - start)
        self._skip -= step
        return start + step
