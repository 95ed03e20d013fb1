# SPDX-License-Identifier: Apache-2.0
"""Child processes: starting them without a fork of this one, and the ends of all, orphans included.

The anchor is a subreaper, so the processes of containers become its children when the OCI runtime that started them
ends; it reaps them, and tells (`Children.note`). Which of them matter is known only when the runtime has told the pid,
and by then a short-lived one has ended already: while a start is under way (`Children.starting`) ends that nobody asked
for are kept.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from orlop_sdk.hints import Any, Final, NamedTuple
from orlop_shim.bag import Bag
from orlop_shim.loop import Loop, Promise

# Descriptors are passed on from here on, above all numbers that they may get.
_ABOVE: Final = 16
# More ends than this are not kept for one start.
_MOST_KEPT: Final = 4096
_GONE: Final = -1
_UNKNOWN: Final = -2


# What programs inherit: a plain dictionary, which need not be made anew for each.
_environment: Final = dict(os.environb)


class End(NamedTuple):
    """How a process ended: exit status (128 and the signal for one that was killed), and when, in ns since 1970."""

    status: int
    at: int


class Target:
    """A process to send signals to, and never to another that got its pid after it."""

    def __init__(self, pid: int, fd: int) -> None:
        self._pid = pid
        self._fd = fd

    @classmethod
    def of(cls, pid: int) -> Target:
        """The process that has this pid, which must not have been waited for yet."""
        try:
            return cls(pid, os.pidfd_open(pid))
        except ProcessLookupError:
            return cls(pid, _GONE)
        except OSError:
            # A kernel before 5.3, which knows pids alone.
            return cls(pid, _UNKNOWN)

    def save(self, bag: Bag) -> int:
        """What `restored` takes, besides the pid."""
        return bag.put(self._fd) if self._fd >= 0 else self._fd

    @classmethod
    def restored(cls, pid: int, saved: int, bag: Bag) -> Target:
        """The same process as another worker's; it may have ended meanwhile."""
        return cls(pid, bag.take(saved) if saved >= 0 else saved)

    def send(self, number: int) -> None:
        """Send one. Raises ProcessLookupError when it has ended, OSError for a signal that there is not."""
        if self._fd == _GONE:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        if self._fd == _UNKNOWN:
            os.kill(self._pid, number)
        else:
            signal.pidfd_send_signal(self._fd, number)

    def close(self) -> None:
        """Forget it. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = _GONE


class Children:
    """The children of this process, and those of its anchor."""

    def __init__(self, loop: Loop) -> None:
        self._watched: dict[int, Promise] = {}
        self._kept: dict[int, End] = {}
        self._starts = 0
        loop.on_signal(signal.SIGCHLD, self.reap)

    @property
    def busy(self) -> bool:
        """Whether somebody waits for the end of a child."""
        return bool(self._watched)

    def reap(self) -> None:
        """Take note of every child that has ended."""
        while True:
            try:
                pid, code = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self.note(pid, os.WEXITSTATUS(code) if os.WIFEXITED(code) else 128 + os.WTERMSIG(code), time.time_ns())

    def note(self, pid: int, status: int, at: int) -> None:
        """Take note of one that ended, and was reaped, by us or by the anchor."""
        end = End(status, at)
        promise = self._watched.pop(pid, None)
        if promise is not None:
            promise.set(end)
        elif self._starts and len(self._kept) < _MOST_KEPT:
            self._kept[pid] = end

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While this lasts, `ended` may be called for processes that have ended already."""
        self._starts += 1
        try:
            yield
        finally:
            self._starts -= 1
            if not self._starts:
                self._kept.clear()

    def ended(self, pid: int) -> Promise:
        """A promise of the `End` of a child. To be called once for each."""
        promise = Promise()
        end = self._kept.pop(pid, None)
        if end is not None:
            promise.set(end)
        else:
            self._watched[pid] = promise
        return promise

    def spawn(
        self,
        argv: list[str],
        fds: Mapping[int, int],
        environment: Mapping[str, str] | None = None,
        program: str = "",
        group: int | None = None,
    ) -> tuple[int, Promise]:
        """Start *program*, or else the first of *argv*; *fds* maps its descriptors to ours, and it has no others.

        It is in this process's group, which ends as one, or in *group*: 0 is one of its own.

        Returns its pid and the promise of its `End`. Raises OSError when there is no such program.
        """
        more: dict[str, Any] = {} if group is None else {"setpgroup": group}
        copies = {target: fcntl.fcntl(own, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for target, own in fds.items()}
        try:
            pid = os.posix_spawnp(
                program or argv[0],
                argv,
                _environment if environment is None else environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, own, target) for target, own in copies.items()],
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
                setsigmask=(),
                **more,
            )
        finally:
            for own in copies.values():
                os.close(own)
        # No turn of the loop lies between: its end cannot have been taken note of yet.
        promise = self._watched[pid] = Promise()
        return pid, promise
