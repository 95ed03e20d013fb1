# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.events.v1.Events``, and its small twin for shims, over the event exchange."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from orlop.interfaces.event import EventExchange
from orlop_sdk.api.services.events.v1 import events_pb2 as pb
from orlop_sdk.api.services.ttrpc.events.v1 import events_pb2 as ttrpc_pb
from orlop_sdk.api.types.event_pb2 import Envelope
from orlop_sdk.convert.common import payload_from_wire
from orlop_sdk.convert.events import event_from_wire, event_to_wire
from orlop_sdk.rpc.service import Service


class EventsService(Service):
    """Publish, forward and subscribe to events."""

    service = "containerd.services.events.v1.Events"

    def __init__(self, exchange: EventExchange) -> None:
        self._exchange = exchange

    async def Publish(self, request: pb.PublishRequest) -> Empty:
        await self._exchange.publish(request.topic, payload_from_wire(request.event))
        return Empty()

    async def Forward(self, request: pb.ForwardRequest) -> Empty:
        await self._exchange.forward(event_from_wire(request.envelope))
        return Empty()

    async def Subscribe(self, request: pb.SubscribeRequest) -> AsyncIterator[Envelope]:
        async with self._exchange.subscribe(list(request.filters)) as stream:
            async for event in stream:
                yield event_to_wire(event)


class ShimEventsService(Service):
    """Where shims send their events."""

    service = "containerd.services.events.ttrpc.v1.Events"

    def __init__(self, exchange: EventExchange) -> None:
        self._exchange = exchange

    async def Forward(self, request: ttrpc_pb.ForwardRequest) -> Empty:
        await self._exchange.forward(event_from_wire(request.envelope))
        return Empty()
