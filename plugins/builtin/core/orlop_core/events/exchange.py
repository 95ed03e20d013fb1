# SPDX-License-Identifier: Apache-2.0
"""The event exchange: every subscriber has a bounded queue, and a publisher only ever appends to queues."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final

from orlop import context
from orlop.errors import InvalidArgument, ResourceExhausted
from orlop.interfaces.event import EventExchange
from orlop.values import EPOCH, AnyMessage, Event, now
from orlop_core.events.recall import Recall
from orlop_core.events.view import View
from orlop_sdk.filters import Filters, parse

#: Events a subscriber may lag behind.
QUEUE_LIMIT: Final = 16384
# The share of a new queue that recalled events may fill, which must leave room for those to come.
_RECALLED: Final = 4


class Exchange:
    """Passes events between publishers and subscribers in this process. To be used on one event loop."""

    def __init__(self, limit: int = QUEUE_LIMIT, recall: float = 0.0) -> None:
        self._limit = limit
        self._recall = Recall(limit // _RECALLED, recall) if recall else None
        self._subscriptions: dict[Subscription, None] = {}

    async def start(self) -> None:
        """From now on clients can come back, and have the time of *recall* to do so."""
        if self._recall is not None:
            self._recall.begin()

    async def close(self) -> None:
        """Keep nothing any more. May be called twice."""
        if self._recall is not None:
            self._recall.end()

    async def publish(self, topic: str, payload: AnyMessage) -> None:
        await self.forward(Event(topic, payload, namespace=context.namespace(), timestamp=now()))

    async def forward(self, event: Event) -> None:
        check(event)
        view = View(event)
        if self._recall is not None:
            self._recall.keep(event, view)
        for subscription in list(self._subscriptions):
            subscription.offer(event, view)

    def subscribe(self, filters: Sequence[str] = ()) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        made = Subscription(self._subscriptions, parse(filters), self._limit)
        for event in self._recall.events() if self._recall is not None else ():
            made.offer(event, View(event))
        return made


class Subscription:
    """One subscriber's stream, from ``async with`` on."""

    def __init__(self, registry: dict[Subscription, None], wanted: Filters, limit: int) -> None:
        self._registry = registry
        self._filters = wanted
        self._limit = limit
        self._queue: deque[Event] = deque()
        self._ready = asyncio.Event()
        self._lost = False

    async def __aenter__(self) -> AsyncIterator[Event]:
        self._registry[self] = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._registry.pop(self, None)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._queue:
            if self._lost:
                raise ResourceExhausted(f"event stream: subscriber lagged {self._limit} events behind; subscribe again")
            self._ready.clear()
            await self._ready.wait()
        return self._queue.popleft()

    def offer(self, event: Event, view: View) -> None:
        """Queue the event if it is wanted. When the queue is full the stream ends with what is in it."""
        if not self._filters.match(view):
            return
        if len(self._queue) >= self._limit:
            self._lost = True
            self._registry.pop(self, None)
        else:
            self._queue.append(event)
        self._ready.set()


def check(event: Event) -> None:
    """Raise `InvalidArgument` for an event without namespace, timestamp or a well-formed topic."""
    context.check_identifier(event.namespace, "event namespace")
    if event.timestamp == EPOCH:
        raise InvalidArgument(f'event "{event.topic}": timestamp must be set')
    if len(event.topic) < 2 or not event.topic.startswith("/"):
        raise InvalidArgument(f'event topic "{event.topic}": must start with "/" and have a name')
    for component in event.topic[1:].split("/"):
        context.check_identifier(component, f'event topic "{event.topic}": component')


_: type[EventExchange] = Exchange
