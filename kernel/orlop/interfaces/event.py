# SPDX-License-Identifier: Apache-2.0
"""The event exchange."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, runtime_checkable

from orlop.plugin import PluginType
from orlop.values import AnyMessage, Event


@runtime_checkable
class EventExchange(Protocol):
    """Passes events from publishers to subscribers, in order, without ever making a publisher wait.

    A subscriber that is too slow has a bounded queue; when that is full its stream ends with `ResourceExhausted`,
    so that it knows it missed something.
    """

    async def publish(self, topic: str, payload: AnyMessage) -> None:
        """Publish in the namespace of `orlop.context`. Raises `InvalidArgument` for a malformed topic."""

    async def forward(self, event: Event) -> None:
        """Pass on an event with its own namespace and timestamp, both required."""

    def subscribe(self, filters: Sequence[str] = ()) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Events of all namespaces from this call on that match any of the filters.

        Fields: namespace, topic, ``event.<field>`` of the payload. Raises `InvalidArgument` for a bad filter::

            async with events.subscribe(['topic~="^/tasks/"']) as stream:
                async for event in stream: ...
        """


EVENT: Final = PluginType("io.containerd.event.v1", EventExchange, group="orlop.event.v1")
event_exchange = EVENT.plugin
"""Decorator that declares an event exchange."""
