# SPDX-License-Identifier: Apache-2.0
"""Decompression as plain functions from one binary file to another, used by workers.

Only the standard library and the codec itself are imported, and the latter when it is needed: gzip by isal, which is
twice as fast, else by zlib; zstd by Python's own module or its backport.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, BinaryIO, Final, cast

from orlop_images.worker.fault import damaged

GZIP_MAGIC: Final = b"\x1f\x8b\x08"
ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"

_INPUT: Final = 1 << 16
_MOST_HEADER: Final = 1 << 20
# One step of input can swell a thousandfold, so the output of a step is bounded.
_OUTPUT: Final = 1 << 21

Errors = tuple[type[Exception], ...]


def gunzip(source: BinaryIO) -> BinaryIO:
    """Inflate gzip data of any number of members; zero bytes may follow the last one."""
    library: ModuleType
    try:
        library = importlib.import_module("isal.isal_zlib")
    except ImportError:
        library = importlib.import_module("zlib")
    # 31: with a gzip header, and its checksum verified.
    return _file(_inflated(source, lambda: library.decompressobj(31)), (library.error,), "gzip")


def unzstd(source: BinaryIO) -> BinaryIO:
    """Decompress zstd data of any number of frames."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return _file(_unzstd(source, zstd.ZstdDecompressor), (zstd.ZstdError, EOFError), "zstd")


def sniff(source: BinaryIO) -> BinaryIO:
    """Decompress by what the first bytes say: gzip, zstd, or neither, which passes through."""
    head = b""
    while len(head) < 4 and (more := source.read(4 - len(head))):
        head += more
    whole = cast(BinaryIO, _Prefixed(head, source))
    if head.startswith(GZIP_MAGIC):
        return gunzip(whole)
    if head == ZSTD_MAGIC or is_skippable(head):
        return unzstd(whole)
    return whole


def is_skippable(head: bytes) -> bool:
    """Whether a zstd skippable frame starts here: 0x184D2A50 to 0x184D2A5F in little endian."""
    return head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50


def _inflated(source: BinaryIO, start: Callable[[], Any]) -> Iterator[bytes]:
    pending = _header(source, source.read(_INPUT))
    if not pending:
        raise damaged("layer: gzip data ends too early")
    while pending:
        member = start()
        while not member.eof:
            pending = pending or source.read(_INPUT)
            data = member.decompress(pending, _OUTPUT)
            if data:
                yield data
            elif not pending and not member.eof:
                raise damaged("layer: gzip data ends too early")
            pending = member.unconsumed_tail
        pending = _header(source, _after_padding(source, member.unused_data))


def _header(source: BinaryIO, pending: bytes) -> bytes:
    """Input that starts with a whole gzip header, as isal trips over some that come in pieces; empty at the end."""
    while len(pending) < _MOST_HEADER and not _header_complete(pending):
        more = source.read(_INPUT)
        if not more:
            break
        pending += more
    if pending and not pending.startswith(GZIP_MAGIC):
        raise damaged("layer: not gzip data, or followed by something that is not")
    return pending


def _header_complete(data: bytes) -> bool:
    """Whether a gzip header (RFC 1952) ends within *data*; True as well for what is none."""
    if not data.startswith(GZIP_MAGIC):
        return len(data) >= len(GZIP_MAGIC)
    if len(data) < 10:
        return False
    flags, end = data[3], 10
    if flags & 4:  # extra field, with its length before it
        end += 2 + int.from_bytes(data[end : end + 2], "little")
    for text in (8, 16):  # file name, comment: up to a zero byte
        if flags & text:
            found = data.find(b"\0", end)
            if found < 0:
                return False
            end = found + 1
    return len(data) >= end + flags // 2 % 2 * 2  # checksum of the header


def _after_padding(source: BinaryIO, pending: bytes) -> bytes:
    while not (pending := pending.lstrip(b"\0")):
        pending = source.read(_INPUT)
        if not pending:
            break
    return pending


def _unzstd(source: BinaryIO, start: Callable[[], Any]) -> Iterator[bytes]:
    pending = source.read(_INPUT)
    if not pending:
        raise damaged("layer: zstd data ends too early")
    while pending:
        frame = start()
        while not frame.eof:
            if frame.needs_input and not pending:
                pending = source.read(_INPUT)
                if not pending:
                    raise damaged("layer: zstd data ends too early")
            data = frame.decompress(pending, _OUTPUT)
            pending = b""  # what it did not use yet it keeps itself
            if data:
                yield data
        pending = frame.unused_data or source.read(_INPUT)


def _file(chunks: Iterator[bytes], errors: Errors, what: str) -> BinaryIO:
    return cast(BinaryIO, _Decoded(chunks, errors, what))


class _Decoded(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes], errors: Errors, what: str) -> None:
        super().__init__()
        self._chunks = chunks
        self._errors = errors
        self._what = what

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """What one step of decompression gives, whatever *size* is (this project's workers want no more)."""
        try:
            return next(self._chunks, b"")
        except self._errors as error:
            raise damaged(f"layer: damaged {self._what} data: {error}") from None


class _Prefixed(io.RawIOBase):
    """Bytes that were read already, and then the rest."""

    def __init__(self, head: bytes, source: BinaryIO) -> None:
        super().__init__()
        self._head = head
        self._source = source

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        return self._source.read(size)
