# SPDX-License-Identifier: Apache-2.0
"""Notices containers that exceed their memory limit: a line in the log, and a number for who watches the daemon.

The shim of a container tells by an event ``/tasks/oom``; this hears of it under every runtime whose shim does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from orlop.errors import ResourceExhausted
from orlop.interfaces.event import EventExchange
from orlop.interfaces.introspection import Part
from orlop.interfaces.observer import Figure, Figures
from orlop_sdk.api.events.task_pb2 import TaskDelete, TaskOOM

log = logging.getLogger("orlop.memory")

_OOM = "/tasks/oom"
_DELETE = "/tasks/delete"


class MemoryMonitor:
    """Counts the times, by namespace and container, while the container has a task. *show*: among the figures, too."""

    def __init__(self, events: EventExchange, *, show: bool = True) -> None:
        self._events = events
        self._show = show
        self._counts: Counter[tuple[str, str]] = Counter()
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen."""
        self._following = asyncio.create_task(self._follow(), name="memory-monitor")

    async def close(self) -> None:
        """Listen no more. May be called twice."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    def figures(self) -> Sequence[Figure]:
        """See `orlop.interfaces.observer.Figures`."""
        if not self._show:
            return ()
        samples = [
            ({"namespace": namespace, "container_id": id}, float(times))
            for (namespace, id), times in sorted(self._counts.items())
        ]
        return (
            Figure(
                "orlop_task_oom_total",
                "Times that the kernel killed a process of a container for want of memory",
                "counter",
                [(labels, value) for labels, value in samples],
            ),
        )

    async def _follow(self) -> None:
        while True:
            try:
                async with self._events.subscribe([f'topic=="{_OOM}"', f'topic=="{_DELETE}"']) as stream:
                    async for event in stream:
                        self._take(event.topic, event.namespace, event.payload.value)
            except ResourceExhausted as error:
                log.warning("out of memory may not have been noticed: %s", error)

    def _take(self, topic: str, namespace: str, payload: bytes) -> None:
        kind = TaskOOM if topic == _OOM else TaskDelete
        try:
            id = kind.FromString(payload).container_id
        except DecodeError:
            return
        if topic == _DELETE:
            self._counts.pop((namespace, id), None)
        else:
            self._counts[namespace, id] += 1
            log.warning(
                'container "%s" in namespace "%s": out of memory; the kernel killed a process of it. '
                "Raise its limit, or see what it uses",
                id,
                namespace,
            )


_part: type[Part] = MemoryMonitor
_figures: type[Figures] = MemoryMonitor
