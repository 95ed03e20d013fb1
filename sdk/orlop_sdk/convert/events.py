# SPDX-License-Identifier: Apache-2.0
"""Events and ``containerd.types.Envelope``."""

from __future__ import annotations

from orlop.values import Event
from orlop_sdk.api.types import event_pb2
from orlop_sdk.convert.common import any_to_wire, payload_from_wire, time_from_wire, time_to_wire


def event_to_wire(event: Event) -> event_pb2.Envelope:
    """The envelope of an event."""
    return event_pb2.Envelope(
        timestamp=time_to_wire(event.timestamp),
        namespace=event.namespace,
        topic=event.topic,
        event=any_to_wire(event.payload),
    )


def event_from_wire(message: event_pb2.Envelope) -> Event:
    """The event in an envelope; nothing is checked."""
    return Event(
        topic=message.topic,
        payload=payload_from_wire(message.event),
        namespace=message.namespace,
        timestamp=time_from_wire(message.timestamp),
    )
