# SPDX-License-Identifier: Apache-2.0
"""The fields of an event, by name."""

from __future__ import annotations

from google.protobuf.message import Message

from orlop.values import Event
from orlop_core.events import payload as payloads
from orlop_sdk.convert.events import decode


class View:
    """The fields of an event as filters see them. The payload is decoded once, when the first filter asks."""

    def __init__(self, event: Event) -> None:
        self._event = event
        self._payload: Message | None = None
        self._decoded = False

    def __call__(self, path: tuple[str, ...]) -> str | None:
        match path:
            case ["namespace", *_]:
                return self._event.namespace
            case ["topic", *_]:
                return self._event.topic
            case ["event", *rest]:
                if not self._decoded:
                    self._payload, self._decoded = decode(self._event.payload), True
                return None if self._payload is None else payloads.field(self._payload, rest)
        return None
