# SPDX-License-Identifier: Apache-2.0
"""A bare event loop: epoll, timers, children, and coroutines that wait for a `Promise`.

It does what a shim needs in a tenth of the memory that asyncio takes. There is one thread, nothing is cancelled, and
a coroutine waits for promises only.
"""

from __future__ import annotations

import heapq
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import partial

from orlop_sdk.hints import Any, Final

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
HANG_UP: Final = select.EPOLLHUP
EDGE: Final = select.EPOLLET
_NEVER: Final = float("inf")
#: Seconds without anything to do, after which the loop is quiet.
QUIET: Final = 2.0


class Promise:
    """A value that is there later. The first `set` or `fail` counts, others do nothing."""

    __slots__ = ("_callbacks", "_value", "done", "error")

    def __init__(self) -> None:
        self.done = False
        self._value: Any = None
        self.error: BaseException | None = None
        self._callbacks: list[Callable[[], None]] = []

    def set(self, value: Any = None) -> None:
        """Keep it."""
        if not self.done:
            self._value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        """Break it: whoever waits gets the error."""
        if not self.done:
            self.error = error
            self._finish()

    def then(self, callback: Callable[[], None]) -> None:
        """Call back once it is kept or broken; at once if it is."""
        if self.done:
            callback()
        else:
            self._callbacks.append(callback)

    def result(self) -> Any:
        """The value, or the error raised."""
        if self.error is not None:
            raise self.error
        return self._value

    def __await__(self) -> Generator[Promise, None, Any]:
        if not self.done:
            yield self
        return self.result()

    def _finish(self) -> None:
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class Timer:
    """Something to be called later, unless stopped."""

    __slots__ = ("at", "callback", "idle")

    def __init__(self, at: float, callback: Callable[[], None], idle: bool) -> None:
        self.at = at
        self.callback: Callable[[], None] | None = callback
        self.idle = idle

    def stop(self) -> None:
        """Do not call."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return self.at < other.at


class Loop:
    """The event loop of one process. Signals reach it through `on_signal`.

    One that is made before a fork is for the child: what belongs to a process is there from its first use on.
    """

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._ready: deque[Callable[[], None]] = deque()
        self._signals: dict[int, Callable[[], None]] = {}
        self._stopped = False
        self._running = 0
        self._resting = 0
        self._busy_until = 0.0
        self.on_error: Callable[[BaseException], None] = lambda error: None
        #: Called when nothing has been left to do for `QUIET` seconds, and again after as long.
        self.on_quiet: Callable[[], None] = lambda: None

    @property
    def epoll(self) -> select.epoll:
        """What the loop waits with."""
        if self._epoll is None:
            self._epoll = select.epoll()
            self._receive_signals()
        return self._epoll

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call back with the events of a descriptor. Watching it again changes what for.

        Raises `PermissionError` for a plain file, which is always ready; it is not watched then.
        """
        if fd in self._handlers:
            self.epoll.modify(fd, events)
        else:
            self.epoll.register(fd, events)
        self._handlers[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Call back no more. Nothing happens for a descriptor that is not watched; call it before closing."""
        if self._handlers.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back in the next turn."""
        self._ready.append(callback)

    def later(self, seconds: float, callback: Callable[[], None], *, idle: bool = False) -> Timer:
        """Call back after a time. One that is *idle* need not be waited for before the loop counts as quiet."""
        timer = Timer(time.monotonic() + seconds, callback, idle)
        heapq.heappush(self._timers, timer)
        return timer

    def sleep(self, seconds: float) -> Promise:
        """A promise that is kept after a time."""
        promise = Promise()
        self.later(seconds, promise.set)
        return promise

    def within(self, seconds: float, promise: Promise) -> Promise:
        """A promise of whether the other one is done in time. It does not break."""
        answer = Promise()
        timer = self.later(seconds, lambda: answer.set(False))

        def done() -> None:
            timer.stop()
            answer.set(True)

        promise.then(done)
        return answer

    async def rest(self, promise: Promise) -> Any:
        """Wait for what may not come for days, in a coroutine that can be begun anew if it must.

        While all that run wait like this, the loop counts as quiet.
        """
        self._resting += 1
        try:
            return await promise
        finally:
            self._resting -= 1

    def spawn(self, work: Coroutine[Promise, None, Any]) -> Promise:
        """Run a coroutine up to its first wait now, and on from there as its promises are kept."""
        done = Promise()
        self._running += 1
        self._step(work, done)
        return done

    def begin(self, work: Coroutine[Promise, None, Any]) -> None:
        """Run a coroutine that nobody waits for; `on_error` hears of its failure."""
        done = self.spawn(work)
        done.then(lambda: self.on_error(done.error) if done.error is not None else None)

    def on_signal(self, number: int, callback: Callable[[], None]) -> None:
        """Call back, in a turn of the loop, when a signal arrived; several may have become one."""
        self._signals[number] = callback
        # The handler itself has nothing to do: its number arrives in the pipe.
        signal.signal(number, lambda *_: None)

    def stop(self) -> None:
        """Have `run` return after this turn."""
        self._stopped = True

    def run(self) -> None:
        """Take turns until stopped. `on_error` hears of callbacks that fail; the others go on."""
        while not self._stopped:
            ready = self.epoll.poll(self._patience())
            if ready or not self._is_quiet():
                self._busy_until = time.monotonic() + QUIET
            elif time.monotonic() >= self._busy_until:
                self._busy_until = time.monotonic() + QUIET
                self._succeeds(self.on_quiet)
            for fd, events in ready:
                # A callback before this one may have stopped watching.
                handler = self._handlers.get(fd)
                if handler is not None and not self._succeeds(partial(handler, events)):
                    # It would be called for the same again, at once.
                    self.unwatch(fd)
            self._run_timers()
            for _ in range(len(self._ready)):
                self._succeeds(self._ready.popleft())

    def _succeeds(self, callback: Callable[[], None]) -> bool:
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - one fault must not take all containers of the process along
            self.on_error(error)
            return False
        return True

    def _receive_signals(self) -> None:
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self.watch(read, READ, lambda _: self._signalled(read))
        # A child may have ended before we could hear of it.
        if signal.SIGCHLD in self._signals:
            self.soon(self._signals[signal.SIGCHLD])

    def _is_quiet(self) -> bool:
        waits = any(timer.callback is not None and not timer.idle for timer in self._timers)
        return not (waits or self._ready) and self._running == self._resting

    def _patience(self) -> float:
        if self._ready:
            return 0
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        until = self._busy_until if self._is_quiet() else _NEVER
        if self._timers:
            until = min(until, self._timers[0].at)
        return max(0.0, until - time.monotonic()) if until < _NEVER else -1

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].at <= now:
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                self._succeeds(callback)

    def _signalled(self, fd: int) -> None:
        for number in set(os.read(fd, 512)):
            if number in self._signals:
                self._succeeds(self._signals[number])

    def _step(self, work: Coroutine[Promise, None, Any], done: Promise) -> None:
        try:
            waiting = work.send(None)
        except StopIteration as end:
            self._running -= 1
            done.set(end.value)
        except Exception as error:  # noqa: BLE001 - whoever waits for the promise gets it, whatever it is
            self._running -= 1
            done.fail(error)
        else:
            waiting.then(lambda: self.soon(lambda: self._step(work, done)))


class Lock:
    """One at a time, in order: ``async with lock``."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[Promise] = deque()

    async def __aenter__(self) -> None:
        if self._taken:
            turn = Promise()
            self._waiting.append(turn)
            await turn
        self._taken = True

    async def __aexit__(self, *_: object) -> None:
        if self._waiting:
            # Stays taken, by the next one.
            self._waiting.popleft().set()
        else:
            self._taken = False
