# SPDX-License-Identifier: Apache-2.0
"""Notices when the kernel kills processes of a container for want of memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress

from orlop_sdk.hints import Final
from orlop_shim import files
from orlop_shim.bag import Bag
from orlop_shim.cgroup import Cgroup
from orlop_shim.loop import READ, Loop
from orlop_shim.text_log import Log
from orlop_shim.wire import Values

#: Descriptors, kills so far, and times that nobody was told of.
Inherited = tuple[list[int], int, int]

_IN_MODIFY: Final = 2
_libc: Final = ctypes.CDLL(None, use_errno=True)


def inherited(saved: Values, bag: Bag) -> Inherited:
    """What another worker's `OomWatch` has saved."""
    return [bag.take(place) for place in saved["fds"]], saved["kills"], saved["times"]


class OomWatch:
    """Counts the times, and calls *happened* when there is something to `take`. Without a memory controller nothing
    happens.
    """

    def __init__(
        self, loop: Loop, cgroup: Cgroup, log: Log, happened: Callable[[], None], inherited: Inherited | None = None
    ) -> None:
        self._loop = loop
        self._cgroup = cgroup
        self._happened = happened
        self._fds: list[int] = []
        self._look: Callable[[], bool] = lambda: False
        self._kills = 0
        self._times = 0
        try:
            if inherited is not None:
                self._inherit(*inherited)
            elif cgroup.unified:
                self._watch_unified()
            else:
                self._watch_v1()
        except OSError as error:
            self.close()
            log.warning(f"out of memory will not be noticed: {error}")

    def take(self) -> int:
        """How often it happened since this was called last."""
        times, self._times = self._times, 0
        return times

    def look(self) -> None:
        """Have *happened* called now, if it happened, and not when the loop comes to it."""
        if self._fds and self._look():
            self._times += 1
            self._happened()

    def save(self, bag: Bag) -> Values:
        """What `inherited` takes."""
        return {"fds": [bag.put(fd) for fd in self._fds], "kills": self._kills, "times": self._times}

    def close(self) -> None:
        """Watch no more. May be called twice."""
        for fd in self._fds:
            self._loop.unwatch(fd)
            os.close(fd)
        self._fds.clear()

    def _watch_v1(self) -> None:
        path = self._cgroup.path("memory", "memory.oom_control")
        if not path:
            return
        control = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # A counter that the kernel increments; it is told which by the numbers of both descriptors.
            counter = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._fds.append(counter)
            files.order(self._cgroup.path("memory", "cgroup.event_control"), b"%d %d" % (counter, control))
        finally:
            os.close(control)
        self._watch_counter(counter)

    def _watch_counter(self, counter: int) -> None:
        self._look = lambda: self._counted(counter)
        self._loop.watch(counter, READ, lambda _: self.look())

    def _counted(self, counter: int) -> bool:
        try:
            os.eventfd_read(counter)
        except BlockingIOError:
            return False
        # The counter also moves when the group is removed.
        if os.path.exists(self._cgroup.path("memory", "cgroup.event_control")):
            return True
        self.close()
        return False

    def _watch_unified(self) -> None:
        path = self._cgroup.path("memory", "memory.events")
        if not path or not os.path.exists(path):
            return
        fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if fd < 0 or _libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY) < 0:
            number = ctypes.get_errno()
            if fd >= 0:
                os.close(fd)
            raise OSError(number, f"inotify: {os.strerror(number)}", path)
        self._fds.append(fd)
        self._kills = self._killed()
        self._watch_notices(fd)

    def _watch_notices(self, fd: int) -> None:
        self._look = lambda: self._modified(fd)
        self._loop.watch(fd, READ, lambda _: self.look())

    def _inherit(self, fds: list[int], kills: int, times: int) -> None:
        self._fds, self._kills, self._times = fds, kills, times
        for fd in fds:
            if self._cgroup.unified:
                self._watch_notices(fd)
            else:
                self._watch_counter(fd)

    def _modified(self, fd: int) -> bool:
        with suppress(BlockingIOError):
            os.read(fd, 4096)
        before, self._kills = self._kills, self._killed()
        return self._kills > before

    def _killed(self) -> int:
        for line in self._cgroup.read("memory", "memory.events").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        return 0
