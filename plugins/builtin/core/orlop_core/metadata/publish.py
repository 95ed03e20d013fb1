# SPDX-License-Identifier: Apache-2.0
"""The events that changes of records give rise to."""

from __future__ import annotations

from google.protobuf.message import Message

from orlop.values import AnyMessage, Event, now


def event(namespace: str, topic: str, message: Message) -> Event:
    """An event in its envelope, of this moment."""
    payload = AnyMessage(message.DESCRIPTOR.full_name, message.SerializeToString(deterministic=True))
    return Event(topic, payload, namespace=namespace, timestamp=now())
