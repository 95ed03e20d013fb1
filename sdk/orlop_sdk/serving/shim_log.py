# SPDX-License-Identifier: Apache-2.0
"""What shims write about themselves, copied into the daemon's log.

A shim opens the FIFO ``log`` in its bundle for writing and waits until somebody reads, so the reader has to be there
before the shim starts. It must never block and never poll.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

log = logging.getLogger("orlop.shim")

_CHUNK: Final = 64 << 10
# A line longer than this is logged in pieces.
_MOST: Final = 16 << 10
_LEVEL: Final = re.compile(rb"\blevel=\"?(\w+)")
_LEVELS: Final = {
    b"trace": logging.DEBUG,
    b"debug": logging.DEBUG,
    b"info": logging.INFO,
    b"warn": logging.WARNING,
    b"warning": logging.WARNING,
    b"error": logging.ERROR,
    b"fatal": logging.CRITICAL,
    b"panic": logging.CRITICAL,
}


def open_log_blocking(bundle: Path) -> int:
    """Make the FIFO unless it is there, and open it for reading without waiting for a writer."""
    path = bundle / "log"
    try:
        os.mkfifo(path, 0o700)
    except FileExistsError:
        if not stat.S_ISFIFO(path.lstat().st_mode):
            raise
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)


def level_of(line: bytes) -> int:
    """The level that a shim gave a line of its log, in terms of `logging`; that of information without any."""
    level = _LEVEL.search(line)
    return _LEVELS.get(level[1].lower(), logging.INFO) if level else logging.INFO


class ShimLogs:
    """The logs that are being read, by bundle. All methods are for the event loop's thread."""

    def __init__(self) -> None:
        self._readers: dict[Path, _Reader] = {}

    def watch(self, bundle: Path, fd: int) -> None:
        """Copy what arrives until the shim closes its end, or `close`. Takes *fd* over."""
        self.close(bundle)
        self._readers[bundle] = _Reader(bundle, fd, self._ended)

    def close(self, bundle: Path) -> None:
        """Read no more of a bundle's log. Nothing happens if it is not being read."""
        reader = self._readers.pop(bundle, None)
        if reader is not None:
            reader.close()

    def close_all(self) -> None:
        """Read no more logs at all."""
        for bundle in list(self._readers):
            self.close(bundle)

    def _ended(self, reader: _Reader) -> None:
        if self._readers.get(reader.bundle) is reader:
            del self._readers[reader.bundle]


class _Reader:
    def __init__(self, bundle: Path, fd: int, ended: Callable[[_Reader], None]) -> None:
        self.bundle = bundle
        self._fd = fd
        self._ended = ended
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        # A FIFO that never had a writer is not readable; one whose writer left is, and reads as empty.
        self._loop.add_reader(fd, self._read)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._emit(self._rest)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("log of %s: %s", self.bundle, error)
            data = b""
        if not data:
            self.close()
            self._ended(self)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._emit(line)
        if len(self._rest) > _MOST:
            self._emit(self._rest)
            self._rest = b""

    def _emit(self, line: bytes) -> None:
        if not line:
            return
        log.log(level_of(line), "%s/%s: %s", self.bundle.parent.name, self.bundle.name, line.decode(errors="replace"))
