# SPDX-License-Identifier: Apache-2.0
"""Looking into the payload of an event, for filters such as ``event.container_id==demo``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message


def field(message: Message, path: Sequence[str]) -> str | None:
    """The field at a path through nested messages and string maps, as text. None if it is unset or does not exist."""
    current = message
    for position, name in enumerate(path):
        descriptor = current.DESCRIPTOR.fields_by_name.get(name)
        if descriptor is None:
            return None
        value = getattr(current, name)
        if _is_map(descriptor):
            entry = value.get(".".join(path[position + 1 :]))
            return None if entry is None else str(entry)
        if descriptor.is_repeated:
            return None
        if descriptor.message_type is not None:
            current = value
            continue
        if position + 1 < len(path):
            return None
        return _text(value)
    return None


def _is_map(descriptor: Any) -> bool:
    return descriptor.message_type is not None and bool(descriptor.message_type.GetOptions().map_entry)


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode(errors="replace") or None
    return str(value) or None
