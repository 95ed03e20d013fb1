# SPDX-License-Identifier: Apache-2.0
"""A daemon's events over a channel.

::

    async with events.subscribe(['topic~="^/tasks/"']) as stream:
        async for event in stream:
            print(event.topic, event.namespace)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from google.protobuf.empty_pb2 import Empty

from orlop.interfaces.event import EventExchange
from orlop.values import AnyMessage, Event
from orlop_sdk.api.services.events.v1 import events_pb2
from orlop_sdk.convert.common import any_to_wire
from orlop_sdk.convert.events import event_from_wire, event_to_wire
from orlop_sdk.rpc.channel import Channel
from orlop_sdk.rpc.stub import Responses, Stub


class RemoteEvents:
    """The event exchange of a daemon."""

    def __init__(self, channel: Channel) -> None:
        self._stub = Stub(channel, "containerd.services.events.v1.Events")
        self._version = Stub(channel, "containerd.services.version.v1.Version")

    async def publish(self, topic: str, payload: AnyMessage) -> None:
        await self._stub.Publish(events_pb2.PublishRequest(topic=topic, event=any_to_wire(payload)))

    async def forward(self, event: Event) -> None:
        await self._stub.Forward(events_pb2.ForwardRequest(envelope=event_to_wire(event)))

    @asynccontextmanager
    async def subscribe(self, filters: Sequence[str] = ()) -> AsyncIterator[AsyncIterator[Event]]:
        async with self._stub.Subscribe(events_pb2.SubscribeRequest(filters=filters)) as messages:
            # The wire has no answer to a subscription. One to a later call means that the daemon has got ours, too.
            await self._version.Version(Empty())
            yield _events(messages)


async def _events(messages: Responses) -> AsyncIterator[Event]:
    async for message in messages:
        yield event_from_wire(message)


_: type[EventExchange] = RemoteEvents
