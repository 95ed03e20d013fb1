# SPDX-License-Identifier: Apache-2.0
"""Decides when garbage is collected, by containerd's rule.

The first collection runs `Rule.startup_delay` after the start. After each one, the next is due when the share of time
spent collecting has sunk to `Rule.pause_threshold`; it runs if something was deleted or enough has changed, and else
the same span passes once more. A request, and `Rule.deletion_threshold` deletions, bring it forward.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import Final

from orlop.errors import OrlopError, Unavailable
from orlop.interfaces.metadata import MetadataStore, Scheduler
from orlop.interfaces.observer import Figure
from orlop.values import CollectionStats

_log = logging.getLogger(__name__)

#: A collection counts as at least this long (seconds), so that short ones do not follow each other closely.
_SHORTEST: Final = 0.005
_FIRST_INTERVAL: Final = 1.0


@dataclass(frozen=True, slots=True)
class Rule:
    """When to collect; times in seconds. See `orlop_core.gc.plugin.SchedulerConfig`."""

    pause_threshold: float = 0.02
    deletion_threshold: int = 0
    mutation_threshold: int = 100
    schedule_delay: float = 0.0
    startup_delay: float = 0.1


@dataclass(slots=True)
class Plan:
    """What happened since the last collection, and when the next one is due (in the loop's time)."""

    due: float
    interval: float = _FIRST_INTERVAL
    deletions: int = 0
    mutations: int = 0
    waiters: list[asyncio.Future[CollectionStats]] = field(default_factory=list)
    owed: bool = True
    """Whether to collect when due, whatever happened: the first time, and after a failure."""
    idle: bool = False

    def delay(self, now: float, rule: Rule) -> float | None:
        """Seconds until the next collection; None while there is no reason for one."""
        changed = bool(rule.mutation_threshold) and self.mutations >= rule.mutation_threshold
        if not (self.owed or self.waiters or self.deletions or changed):
            self.idle = True
            return None
        if self.idle and self.due <= now:
            # It was due before there was a reason: as if it had been put off by the interval, again and again.
            self.due += (1 + (now - self.due) // self.interval) * self.interval
        self.idle = False
        hurry = bool(self.waiters) or 0 < rule.deletion_threshold <= self.deletions
        if hurry:
            self.due = min(self.due, now + rule.schedule_delay)
        return max(0.0, self.due - now)

    def begin(self) -> list[asyncio.Future[CollectionStats]]:
        """Count from here. Returns who waits for the collection that is about to run."""
        waiters, self.waiters = self.waiters, []
        self.deletions = self.mutations = 0
        self.owed = False
        return waiters


class CollectionScheduler:
    """Runs the collections of a metadata store, from `start` to `close`."""

    def __init__(self, metadata: MetadataStore, rule: Rule) -> None:
        self._metadata = metadata
        self._rule = rule
        self._plan = Plan(due=0.0)
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._runs = 0
        self._spent = 0.0
        self._seconds = 0.0
        self._failures = 0
        self._closed = False

    async def start(self) -> None:
        """Begin to follow the store's changes. The first collection removes what a crash left behind."""
        loop = asyncio.get_running_loop()
        self._plan.due = loop.time() + self._rule.startup_delay
        self._tasks = [
            asyncio.create_task(self._follow(), name="gc-follow"),
            asyncio.create_task(self._run(), name="gc-run"),
        ]
        self._metadata.delegate_collection(self.collect_now)

    async def collect_now(self) -> CollectionStats:
        if self._closed:
            raise Unavailable("garbage collection: the scheduler is closed")
        if not self._tasks:
            return await self._metadata.collect()
        waiter: asyncio.Future[CollectionStats] = asyncio.get_running_loop().create_future()
        self._plan.waiters.append(waiter)
        self._changed.set()
        return await waiter

    def figures(self) -> list[Figure]:
        """How many collections there were and how long they took, by containerd's names."""
        return [
            Figure(
                "containerd_gc_collections_total",
                "Garbage collections",
                "counter",
                [({"status": "success"}, self._runs), ({"status": "fail"}, self._failures)],
            ),
            Figure(
                "containerd_gc_gc_seconds",
                "How long garbage collections took",
                "summary",
                [({}, self._seconds)],
                counts=[self._runs],
            ),
        ]

    async def close(self) -> None:
        """Stop. A collection under way is given up between two steps; who waits for one gets `Unavailable`."""
        if self._closed:
            return
        self._closed = True
        self._metadata.delegate_collection(None)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiter in self._plan.begin():
            if not waiter.done():
                waiter.set_exception(Unavailable("garbage collection: the scheduler was closed"))

    async def _follow(self) -> None:
        async for removed in self._metadata.mutations():
            self._plan.mutations += 1
            self._plan.deletions += removed
            self._changed.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            delay = self._plan.delay(loop.time(), self._rule)
            if delay == 0:
                await self._collect()
                continue
            # Not wait_for: until Python 3.12 it may lose a cancellation that comes together with what it waits for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._changed.wait()

    async def _collect(self) -> None:
        loop = asyncio.get_running_loop()
        waiters = self._plan.begin()
        try:
            stats = await self._metadata.collect()
        except asyncio.CancelledError:
            self._plan.waiters += waiters
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, collecting has to go on, and waiters have to know
            _log.warning("garbage collection failed, to be tried again: %s", error)
            failure = error if isinstance(error, OrlopError) else Unavailable(f"garbage collection failed: {error}")
            _settle(waiters, failure)
            self._failures += 1
            self._plan.owed = True
            self._plan.interval += 1.0
            self._plan.due = loop.time() + self._plan.interval
            return
        self._runs += 1
        self._seconds += stats.duration
        self._spent += stats.marking or stats.pause
        average = max(_SHORTEST, self._spent / self._runs)
        if self._rule.pause_threshold:
            self._plan.interval = average / self._rule.pause_threshold - average
        self._plan.due = loop.time() + self._plan.interval
        _settle(waiters, stats)
        if stats.removed:
            _log.debug("garbage collected in %.3f s: %s", stats.duration, dict(stats.removed))


def _settle(waiters: list[asyncio.Future[CollectionStats]], result: CollectionStats | OrlopError) -> None:
    for waiter in waiters:
        if waiter.done():
            continue  # its caller was cancelled
        if isinstance(result, OrlopError):
            waiter.set_exception(result)
        else:
            waiter.set_result(result)


_: type[Scheduler] = CollectionScheduler
