# SPDX-License-Identifier: Apache-2.0
"""Moves bytes from one descriptor to another on the loop, inside the kernel where it can."""

from __future__ import annotations

import errno
import os

from orlop_sdk.hints import Final
from orlop_shim.bag import Bag
from orlop_shim.loop import READ, WRITE, Loop, Promise
from orlop_shim.relief import Losses

_CHUNK: Final = 64 << 10
# What is read and written at once where splice(2) cannot be used. A file's pages come in pieces of this size, and the
# kernel keeps free ones of up to 32 KiB (PAGE_ALLOC_COSTLY_ORDER) at hand, still warm; larger ones it has to look for.
_PIECE: Final = 32 << 10
# How many of those in one turn of the loop: other containers of the process get theirs within a millisecond.
_PIECES: Final = 16
# From <fcntl.h>; Python has the call, but not its flags.
_SPLICE_F_MOVE: Final = 1
_SPLICE_F_NONBLOCK: Final = 2
# What splice(2) says where it cannot: neither end a pipe, a file to append to, a terminal of an old kernel.
_NO_SPLICE: Final = (errno.EINVAL, errno.ENOSYS)

# One for all pumps of the process, and none before the first of them copies. What a target did not take is kept
# elsewhere.
_piece = bytearray()


class Pump:
    """Copies *source* to *target* until the source ends or the target is gone, then closes both.

    With *losses*, what the target cannot take (a full disk, say) is dropped and counted instead, and what comes next
    is tried again.

    Descriptors become non-blocking and are owned by the pump; a terminal that is used both ways is given as two
    duplicates. A target that takes nothing makes the source wait: what is in between is in pipes, not in memory.
    """

    def __init__(self, loop: Loop, source: int, target: int, losses: Losses | None = None) -> None:
        self._loop = loop
        self._losses = losses
        self._source = source
        self._target = target
        self._rest = b""
        self._splices = True
        self._held_up = False
        self.done = Promise()
        os.set_blocking(source, False)
        os.set_blocking(target, False)
        loop.watch(source, READ, lambda _: self._move())

    @property
    def rests(self) -> bool:
        """Whether it waits for its source."""
        return self.done.done or not (self._rest or self._held_up)

    def save(self, bag: Bag) -> tuple[int, int]:
        """The places of both its ends, to make another pump of."""
        return bag.put(self._source), bag.put(self._target)

    def stop(self) -> None:
        """Copy no more, and close both ends. May be called twice."""
        if not self.done.done:
            for fd in (self._source, self._target):
                self._loop.unwatch(fd)
                os.close(fd)
            self.done.set()

    def _move(self) -> None:
        try:
            moved = self._spliced() if self._splices else self._copied()
        except BlockingIOError:
            # The source has something, or we would not be here.
            self._wait_for_target()
        except OSError as error:
            if self._splices and error.errno in _NO_SPLICE:
                self._splices = False
                self._move()
            elif self._losses is None or not self._dropped(self._losses, error):
                # EIO: a terminal that nobody has open any more. EPIPE: nobody reads.
                self.stop()
        else:
            if not moved:
                self.stop()

    def _spliced(self) -> int:
        return os.splice(self._source, self._target, _CHUNK, flags=_SPLICE_F_MOVE | _SPLICE_F_NONBLOCK)

    def _copied(self) -> int:
        """Copy what there is, but no more than a turn's worth; 0 at the end of the source."""
        if self._rest:
            self._write(memoryview(self._rest))
        for _ in range(_PIECES):
            try:
                count = os.readv(self._source, [_shared()])
            except BlockingIOError:
                # Nothing more for now, which is not the target's fault.
                return 1
            if not count:
                return 0
            self._write(memoryview(_piece)[:count])
        return 1

    def _write(self, piece: memoryview) -> None:
        """Write all of it, or as much as the target takes until it says why no more: it is full, or its disk is."""
        try:
            while piece:
                piece = piece[os.write(self._target, piece) :]
        finally:
            self._rest = bytes(piece)

    def _dropped(self, losses: Losses, error: OSError) -> bool:
        """Drop what the target refused; whether there was anything, for else the source is what failed."""
        lost, self._rest = len(self._rest), b""
        try:
            lost = lost or len(os.read(self._source, _CHUNK))
        except BlockingIOError:
            return True
        except OSError:
            return False
        if lost:
            losses.add(lost, error.strerror or "unknown error")
        return lost > 0

    def _wait_for_target(self) -> None:
        self._held_up = True
        self._loop.unwatch(self._source)
        try:
            self._loop.watch(self._target, WRITE, lambda _: self._resume())
        except PermissionError:
            # A plain file is always ready, so it was the source that had nothing after all.
            self._resume()

    def _resume(self) -> None:
        self._held_up = False
        self._loop.unwatch(self._target)
        self._loop.watch(self._source, READ, lambda _: self._move())
        if self._rest:
            # The source may have nothing more to say for long.
            self._move()


def _shared() -> bytearray:
    if not _piece:
        _piece.extend(bytes(_PIECE))
    return _piece
