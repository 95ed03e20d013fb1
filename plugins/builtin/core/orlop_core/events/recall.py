# SPDX-License-Identifier: Apache-2.0
"""What clients missed while the daemon was away.

Containers go on without the daemon, and their shims keep events until it is back. Clients come back as well, but later:
those made with containerd's library wait up to 3 seconds between two tries. An exit that a shim tells in between would
reach nobody, and a client such as dockerd would take the container for running for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from orlop.values import Event
from orlop_core.events.view import View

_TASKS = "/tasks/"
_CREATE = "/tasks/create"
_CONTAINER = ("event", "container_id")


class Recall:
    """Events of tasks that an earlier daemon left, kept for *seconds* after `begin`; at most *limit*, the newest."""

    def __init__(self, limit: int, seconds: float) -> None:
        self._seconds = seconds
        self._kept: deque[Event] = deque(maxlen=limit)
        self._new: set[tuple[str, str]] = set()
        self._keeping = True
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Count the time from here."""
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self.end)

    def end(self) -> None:
        """Forget everything, and keep nothing any more. May be called twice."""
        self._keeping = False
        self._kept.clear()
        self._new.clear()
        if self._timer is not None:
            self._timer.cancel()

    def keep(self, event: Event, view: View) -> None:
        """Keep an event, unless its task came under this daemon: who made it was there to hear of it."""
        if not self._keeping or not event.topic.startswith(_TASKS):
            return
        key = (event.namespace, view(_CONTAINER) or "")
        if event.topic == _CREATE:
            self._new.add(key)
        if key not in self._new:
            self._kept.append(event)

    def events(self) -> Iterable[Event]:
        """What is kept, in the order it came."""
        return tuple(self._kept)
