# SPDX-License-Identifier: Apache-2.0
"""What keeps a container from waiting for ever for somebody who takes its output no more.

A process that writes to a full pipe stands still. Where the other side is gone for good (a named pipe without a reader,
a logger that died), or a logger does nothing any more, the shim takes what is in the pipe out and drops it, counts, and
says so in its log. A reader of a named pipe that is there but slow is waited for, as clients expect.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
from collections.abc import Callable
from contextlib import suppress

from orlop_sdk.hints import Final
from orlop_shim.bag import Bag
from orlop_shim.loop import READ, Loop, Timer
from orlop_shim.text_log import Log
from orlop_shim.wire import Values

#: Seconds between two looks at a pipe; one that stands still from one look to the next but one is relieved.
CHECK: Final = 5.0
_LOOKS: Final = 2
_CHUNK: Final = 1 << 20
_SPLICE_F_NONBLOCK: Final = 2

#: What tells that the other side lives: another value each time it has done something. None: it is gone.
Sign = Callable[[], object]


class Losses:
    """How much output of one process was dropped: *count* bytes since it was told last."""

    def __init__(self, log: Log, whose: str) -> None:
        self._log = log
        self._whose = whose
        self.count = 0

    def add(self, count: int, why: str) -> None:
        """Count bytes. The first are told at once."""
        if not self.count:
            self._log.warning(f"{self._whose}: its output is being dropped: {why}")
        self.count += count

    def tell(self) -> None:
        """Say how many bytes were dropped since this was called last, if any were."""
        if self.count:
            self._log.warning(f"{self._whose}: {self.count} bytes of its output were dropped")
            self.count = 0


class Relief:
    """Watches over one pipe. Owns *pipe*, a descriptor of its own to read from that does not block."""

    def __init__(self, loop: Loop, pipe: int, sign: Sign, losses: Losses, why: str) -> None:
        self._loop = loop
        self._pipe = pipe
        self._sign = sign
        self._losses = losses
        self._why = why
        self._seen: object = None
        self._looks = 0
        self._drops = False
        self._timer: Timer | None = loop.later(CHECK, self._check, idle=True)
        self._is_over = False

    def over(self) -> None:
        """The other side has ended: drop all that comes from now on."""
        if self._timer is not None:
            self._timer.stop()
            self._is_over = True
            self._start_dropping()

    @property
    def rests(self) -> bool:
        """Whether it can be left alone until the pipe has filled, or for good."""
        if self._is_over or self._timer is None:
            return True
        return not (self._drops or self._looks or self._seen or _is_full(self._pipe))

    def save(self, bag: Bag) -> Values | None:
        """What `restore` takes, besides the pipe; None for one that is closed."""
        if self._timer is None:
            return None
        place = bag.put(self._pipe)
        if not self._is_over:
            held = _held(self._pipe)
            # It may have filled a moment ago. What comes after this look is more than was held before.
            bag.looks.append((place, 0 if _is_full(self._pipe) else held))
        return {"pipe": place, "over": self._is_over}

    def restore(self, saved: Values) -> None:
        """Go on where another worker left: a look is due."""
        if saved["over"]:
            self.over()
        else:
            self._check()

    def close(self) -> None:
        """Leave the pipe alone. May be called twice."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
            self._loop.unwatch(self._pipe)
            os.close(self._pipe)

    def _check(self) -> None:
        assert self._timer is not None
        self._timer.stop()
        self._timer = self._loop.later(CHECK, self._check, idle=True)
        held = _held(self._pipe)
        if not self._drops and not (held and _is_full(self._pipe)):
            self._seen, self._looks = None, 0
            return
        sign = self._sign()
        # While we take it out, what is in the pipe says nothing.
        seen = (sign, None if self._drops else held)
        self._looks = self._looks + 1 if seen == self._seen else 0
        self._seen = seen
        if self._drops and not self._looks and sign is not None:
            self._drops = False
            self._loop.unwatch(self._pipe)
            self._losses.tell()
        elif not self._drops and self._looks >= _LOOKS:
            self._start_dropping()
            self._seen = (sign, None)

    def _start_dropping(self) -> None:
        self._drops = True
        self._loop.watch(self._pipe, READ, lambda _: self._drop())

    def _drop(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            count = os.splice(self._pipe, null, _CHUNK, flags=_SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return  # the other side was faster
        finally:
            os.close(null)
        if count:
            self._losses.add(count, self._why)
        else:
            self.close()


def reader_of(path: str, pipe: int) -> object:
    """The sign of a named pipe's reader: a new one each time while another process has it open to read, else None.

    Processes of other pid namespaces that cannot be seen from here do not count.
    """
    # The anchor holds what a worker left until the next one has begun.
    name, own = os.path.basename(path), (os.getpid(), os.getppid())
    wanted = os.fstat(pipe)
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) not in own:
            # Processes come and go.
            with suppress(OSError):
                for entry in os.scandir(f"/proc/{pid}/fd"):
                    # The link first: a look at the file behind it may hang, on a network that is down.
                    if name in os.readlink(entry.path) and entry.stat(follow_symlinks=False).st_mode & 0o400:
                        found = os.stat(entry.path)
                        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                            return object()
    return None


def own_end(pipe: int) -> int:
    """Another descriptor to read from a pipe, with modes of its own."""
    return os.open(f"/proc/self/fd/{pipe}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _held(pipe: int) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]
    return count


def _is_full(pipe: int) -> bool:
    # Only the end to write to can tell, since the pages of a pipe need not be full when it is.
    try:
        writer = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        poll = select.poll()
        poll.register(writer, select.POLLOUT)
        return not any(events & select.POLLOUT for _, events in poll.poll(0))
    finally:
        os.close(writer)
