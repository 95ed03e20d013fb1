# SPDX-License-Identifier: Apache-2.0
"""The wait before a process can be moved into a control group, begun before there is a process to move.

Every OCI runtime moves the process that it makes into the container's control group. Such a move keeps all forks and
exits of the host out by a lock that is cheap for these and dear for it: after some 10 ms without any move, the next one
has to wait for a grace period of RCU, which takes 5 to 25 ms (``cgroup_threadgroup_rwsem``, of the kind that the
kernel's ``kernel/locking/percpu-rwsem.c`` describes). A move of the daemon's own process to where it is does the same
waiting while bundle, shim and runtime are being started. Hosts that mount their control groups with ``favordynmods``
have nothing to wait for.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

from orlop.blocking import Pool
from orlop.errors import ResourceExhausted
from orlop.interfaces.event import EventExchange
from orlop_sdk.linux.cgroup import MOUNTS, UNIFIED, Hierarchy, hierarchies, membership

_GROUPS: Final = Path("/proc/self/cgroup")
# The events that say that a container record was made.
_NEW_CONTAINERS: Final = ('topic=="/containers/create"',)
# Seconds for which moves do not wait any more once one has been waited for, at least.
_LAST: Final = 0.005


class Moves:
    """Waits ahead of processes that are about to be made, in a thread of *pool*."""

    def __init__(self, pool: Pool, events: EventExchange) -> None:
        self._pool = pool
        self._events = events
        #: The latest wait; None before the first.
        self.waiting: asyncio.Task[None] | None = None
        self._began = -_LAST
        self._anticipating: asyncio.Task[None] | None = None

    def expect(self) -> None:
        """Begin the wait, unless it is under way or has just been begun. Returns at once."""
        now = asyncio.get_running_loop().time()
        if (self.waiting is None or self.waiting.done()) and now >= self._began + _LAST:
            self._began = now
            self.waiting = asyncio.create_task(self._pool.run(wait_for_moves))

    def anticipate(self) -> None:
        """From now on take a new container record as the sign of a process to come."""
        self._anticipating = asyncio.create_task(self._anticipate())

    async def close(self) -> None:
        """Begin no more, and wait for what is waiting. May be called twice."""
        if self._anticipating is not None:
            self._anticipating.cancel()
        tasks = [task for task in (self._anticipating, self.waiting) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _anticipate(self) -> None:
        while True:
            # Should this ever lag behind, what it missed is of no use any more.
            with suppress(ResourceExhausted):
                async with self._events.subscribe(_NEW_CONTAINERS) as events:
                    async for _ in events:
                        self.expect()


def wait_for_moves() -> None:
    """Return when moves of processes between control groups need not wait. Changes nothing. Blocks.

    Where the daemon may not write to its own group, it returns at once.
    """
    with suppress(OSError):
        own = own_group(_GROUPS.read_text(), mounted())
        if own is not None:
            # Opened anew each time: a descriptor kept would move the daemon back to where it once was.
            fd = os.open(own / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)


def own_group(groups: str, places: Mapping[str, Hierarchy]) -> Path | None:
    """The directory of one of a process's groups, by the text of ``/proc/PID/cgroup``; version 2 is preferred.

    None where no hierarchy is mounted.
    """
    found = {name: places[name].directory(path) for name, path in membership(groups).items() if name in places}
    directory = found.get(UNIFIED) or next(iter(found.values()), None)
    return Path(directory) if directory else None


@cache
def mounted() -> dict[str, Hierarchy]:
    """The hierarchies of this host, which stay where they are while it runs. Raises OSError."""
    return hierarchies(Path(MOUNTS).read_bytes())
