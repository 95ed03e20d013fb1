# SPDX-License-Identifier: Apache-2.0
"""Reading blobs that are files."""

from __future__ import annotations

import errno
import io
import os
import threading
from pathlib import Path
from typing import Final, Self

from orlop.blocking import Pool
from orlop.errors import FailedPrecondition, NotFound, OutOfRange
from orlop.interfaces.content import ContentReader, LocalReader
from orlop_sdk.linux.syscalls import RESOLVE_CACHED, openat2

#: Reads up to this size (bytes) are tried in the page cache first, without a thread.
_CACHED: Final = 128 << 10


class FileReader:
    """An open blob file. A blob that is removed meanwhile stays readable."""

    def __init__(self, file: io.FileIO, digest: str, pool: Pool) -> None:
        self._file = file
        self._digest = digest
        self._pool = pool
        self._size = os.fstat(self._file.fileno()).st_size
        # A read whose caller was cancelled goes on in its thread; the descriptor must not be closed under it.
        self._lock = threading.Lock()
        self._reads = 0
        self._closed = False

    @classmethod
    async def open(cls, path: Path, digest: str, pool: Pool) -> Self:
        """A reader of that file. Raises `NotFound`."""
        file = _open_cached(path)
        if file is None:
            file = await pool.run(_open, path, digest)
        return cls(file, digest, pool)

    @property
    def size(self) -> int:
        return self._size

    def fileno(self) -> int:
        return self._file.fileno()

    async def read_at(self, offset: int, size: int) -> bytes:
        if offset < 0 or offset > self._size:
            raise OutOfRange(f'content "{self._digest}": offset {offset} is outside its {self._size} bytes')
        size = min(size, self._size - offset)
        if size <= 0:
            return b""
        self._begin()
        try:
            if size <= _CACHED and (data := self._read_cached(offset, size)) is not None:
                self._end()
                return data
        except BaseException:
            self._end()
            raise
        return await self._pool.run(self._read, offset, size)

    async def close(self) -> None:
        with self._lock:
            self._closed = True
            idle = not self._reads
        if idle:
            self._file.close()

    def _begin(self) -> None:
        with self._lock:
            if self._closed:
                raise FailedPrecondition(f'content "{self._digest}": reader is closed')
            self._reads += 1

    def _end(self) -> None:
        with self._lock:
            self._reads -= 1
            last = self._closed and not self._reads
        if last:
            self._file.close()

    def _read_cached(self, offset: int, size: int) -> bytes | None:
        buffer = bytearray(size)
        try:
            count = os.preadv(self._file.fileno(), [buffer], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
                return None  # not in memory, or a file system that cannot tell
            raise
        return bytes(buffer) if count == size else None

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._file.fileno(), size, offset)
        finally:
            self._end()


def _open(path: Path, digest: str) -> io.FileIO:
    try:
        return io.FileIO(path, "rb")
    except FileNotFoundError as error:
        raise NotFound(f'content "{digest}": not found') from error


def _open_cached(path: Path) -> io.FileIO | None:
    """The file, opened without a thread, if the kernel knows it so well that it need not ask the disk for it.

    Clients read blobs in pieces of 32 KiB, each in a call of its own; a thread is the larger part of what that costs.
    """
    try:
        fd = openat2(path, os.O_RDONLY, resolve=RESOLVE_CACHED)
    except OSError:
        return None  # not in memory, not there, or a kernel before 5.12: `_open` finds out
    return io.FileIO(fd, "rb")


_reader: type[ContentReader] = FileReader
_local: type[LocalReader] = FileReader
