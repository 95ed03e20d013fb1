# SPDX-License-Identifier: Apache-2.0
"""Events and ``containerd.types.Envelope``, and what is in their payloads."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message

from orlop.values import AnyMessage, Event
from orlop_sdk.api.types import event_pb2
from orlop_sdk.convert.common import any_to_wire, payload_from_wire, time_from_wire, time_to_wire
from orlop_sdk.rpc import descriptors


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


def decode(payload: AnyMessage) -> Message | None:
    """The message in a payload, or None for a type that the wire API does not define, or damaged bytes."""
    kind = _message(payload.type_url.rpartition("/")[2])
    if kind is None:
        return None
    try:
        return kind.FromString(payload.value)
    except DecodeError:
        return None


def payload_fields(payload: AnyMessage) -> dict[str, Any]:
    """A payload as JSON would show it; only its type and size when it cannot be decoded."""
    message = decode(payload)
    if message is None:
        return {"type_url": payload.type_url, "bytes": len(payload.value)}
    return MessageToDict(message, preserving_proto_field_name=True)


@lru_cache(maxsize=256)
def _message(name: str) -> type[Message] | None:
    try:
        return descriptors.message(name)
    except KeyError:
        return None
