# SPDX-License-Identifier: Apache-2.0
"""Hands messages to a receiver that may be slow, or away, without making a container wait for it for long.

One thread reads what a container writes, another sends. Between them are at most so many bytes. What does not fit is
dropped: at once, or, for those who would rather wait, once the receiver has taken nothing for `STUCK` seconds. What was
dropped is counted, and told to the receiver and to the daemon's log.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from logging import Logger
from typing import Final, Protocol

from orlop_sdk.logs.losses import Losses

#: Seconds without any progress after which a receiver is waited for no more, while output comes.
STUCK: Final = 10.0
#: The same when all output has come. A shim kills its logger soon after.
LAST: Final = 5.0
#: Seconds that a call of `Outlet.send` may take, so that ends are noticed.
SLICE: Final = 0.5
# Seconds between two attempts to reach a receiver, and between two complaints that it cannot be.
_RETRY: Final = 1.0
_COMPLAIN: Final = 60.0


class Outlet(Protocol):
    """A connection that messages go out by."""

    def send(self, messages: deque[bytes]) -> None:
        """Send from the left, and take away what was sent: some of it, or all.

        Raises TimeoutError when nothing more went out within `SLICE`, and other OSError when the connection is broken;
        what is left then goes out by a new one.
        """

    def close(self) -> None:
        """Close it."""


class Relay:
    """Sends messages in their order, by a thread of its own.

    *name* is what words call the receiver; *dial* makes a connection to it, or raises OSError. *room* is how many bytes
    may wait to be sent. With *waits*, `put` waits for room as long as the receiver takes anything. *notice* makes a
    message out of words, for the receiver.
    """

    def __init__(
        self,
        name: str,
        dial: Callable[[], Outlet],
        room: int,
        waits: bool,
        notice: Callable[[str], bytes],
        log: Logger,
    ) -> None:
        self._name = name
        self._dial = dial
        self._room = room
        self._waits = waits
        self._notice = notice
        self._log = log
        self._changed = threading.Condition()
        self._queue: deque[tuple[deque[bytes], int]] = deque()
        self._size = 0
        self._moved = time.monotonic()
        self._ends = False
        self._losses = Losses(name, log, "messages")
        self._complained = -_COMPLAIN
        self._unreachable = False
        self._thread = threading.Thread(target=self._run, name="log-relay", daemon=True)
        self._thread.start()

    def put(self, messages: Sequence[bytes]) -> None:
        """Have messages sent after those that wait, or drop those for which there is no room."""
        at = 0
        with self._changed:
            while at < len(messages):
                if count := self._add(messages[at:]):
                    at += count
                elif not self._wait():
                    self._drop(messages[at:])
                    return

    def end(self) -> None:
        """Wait until everything is sent, or the receiver takes nothing any more. To be called once."""
        with self._changed:
            self._ends = True
            self._tell(now=True)
            self._changed.notify_all()
            while self._queue and time.monotonic() - self._moved < LAST:
                self._changed.wait(SLICE)
            for messages, _ in self._queue:
                # A copy, for the other thread may still take some away.
                self._drop(list(messages))
            self._queue.clear()
            self._changed.notify_all()
            self._losses.tell(now=True)
        self._thread.join(LAST)

    # ---- with the lock held ----

    def _add(self, messages: Sequence[bytes]) -> int:
        """Take the first, as many as there is room for, but one of any size if nothing waits; returns how many."""
        sizes = list(accumulate(map(len, messages)))
        count = len(sizes)
        if self._size + sizes[-1] > self._room:
            count = bisect_right(sizes, self._room - self._size) or int(not self._queue)
        if count:
            self._tell()
            self._queue_up(deque(messages[:count]), sizes[count - 1])
        return count

    def _wait(self) -> bool:
        """Whether there may be room now; returns at once if nobody shall wait."""
        if not self._waits or time.monotonic() - self._moved >= STUCK:
            return False
        self._changed.wait(SLICE)
        return True

    def _queue_up(self, messages: deque[bytes], size: int) -> None:
        if not self._queue:
            self._moved = time.monotonic()
        self._queue.append((messages, size))
        self._size += size
        self._changed.notify_all()

    def _drop(self, messages: Sequence[bytes]) -> None:
        self._losses.add(len(messages), sum(map(len, messages)), "nobody takes it as fast as it comes")

    def _tell(self, *, now: bool = False) -> None:
        """Say how much was dropped since this was said last: to the log, and to the receiver too."""
        if words := self._losses.tell(now=now):
            message = self._notice(words)
            self._queue_up(deque([message]), len(message))

    # ---- the thread ----

    def _run(self) -> None:
        outlet: Outlet | None = None
        while True:
            with self._changed:
                while not self._queue and not self._ends:
                    self._changed.wait()
                if not self._queue:
                    break
                messages, size = self._queue[0]
            outlet = self._send(outlet, messages)
            if not messages:
                self._sent(messages, size)
        if outlet is not None:
            with suppress(OSError):
                outlet.close()

    def _sent(self, messages: deque[bytes], size: int) -> None:
        with self._changed:
            # `end` may have cleared the queue meanwhile.
            if self._queue and self._queue[0][0] is messages:
                self._queue.popleft()
            self._size -= size
            self._changed.notify_all()

    def _send(self, outlet: Outlet | None, messages: deque[bytes]) -> Outlet | None:
        """Send some; returns the connection to go on with."""
        before = len(messages)
        try:
            outlet = outlet or self._dial()
            outlet.send(messages)
            self._reached()
        except OSError as error:
            # The number tells a connection that the kernel gave up from a slice that is over.
            if outlet is None or error.errno or not isinstance(error, TimeoutError):
                self._broken(outlet, error)
                return None
            if len(messages) != before:
                self._moved = time.monotonic()
        return outlet

    def _reached(self) -> None:
        self._moved = time.monotonic()
        if self._unreachable:
            self._log.warning("%s: reached again", self._name)
            self._unreachable = False

    def _broken(self, outlet: Outlet | None, error: OSError) -> None:
        if not self._unreachable and time.monotonic() - self._complained >= _COMPLAIN:
            self._log.warning("%s: %s; trying again", self._name, error.strerror or error)
            self._complained = time.monotonic()
            self._unreachable = True
        if outlet is not None:
            with suppress(OSError):
                outlet.close()
        with self._changed:
            self._changed.wait_for(lambda: self._ends and not self._queue, _RETRY)
