# SPDX-License-Identifier: Apache-2.0
"""The streams that are open, by namespace and id, as things that take part in garbage collection."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orlop import context
from orlop.errors import AlreadyExists, InvalidArgument, NotFound
from orlop.interfaces.gc import Attached, Attachment
from orlop.interfaces.metadata import Collectible
from orlop.interfaces.streaming import Stream, StreamManager
from orlop.values import AnyMessage, LeaseResource
from orlop_core.metadata.links import LEASES

_Key = tuple[str, str]
"""Namespace and id."""


@dataclass(frozen=True, slots=True)
class _Entry:
    stream: Stream
    lease: str | None


class Streams:
    """All open streams. One without a lease is in use by definition; one with a lease ends with it."""

    label: Final = "stream"

    def __init__(self) -> None:
        self._entries: dict[_Key, _Entry] = {}

    async def register(self, id: str, stream: Stream) -> None:
        key = (context.namespace(), id)
        if not id:
            raise InvalidArgument("stream: the id must not be empty")
        if key in self._entries:
            raise AlreadyExists(f'stream "{id}": already exists')
        self._entries[key] = _Entry(stream, context.lease())

    async def release(self, id: str, stream: Stream) -> None:
        key = (context.namespace(), id)
        entry = self._entries.get(key)
        if entry is not None and entry.stream is stream:
            del self._entries[key]

    async def get(self, id: str) -> Stream:
        key = (context.namespace(), id)
        entry = self._entries.get(key)
        if entry is None:
            raise NotFound(f'stream "{id}": not found; it must be open before a call names it')
        return _Known(self, key, entry)

    async def close(self) -> None:
        """End all streams. May be called twice."""
        await self.remove(list(self._entries))

    # What garbage collection asks; see `orlop.interfaces.metadata.Collectible`.

    async def all(self) -> Sequence[_Key]:
        """Every open stream."""
        return list(self._entries)

    async def active(self) -> Sequence[_Key]:
        """Those that no lease was named for."""
        return [key for key, entry in self._entries.items() if entry.lease is None]

    async def attachments(self) -> Sequence[Attachment]:
        """The others, each with its lease."""
        return [
            Attachment(namespace, id, LeaseResource(entry.lease, LEASES))
            for (namespace, id), entry in self._entries.items()
            if entry.lease is not None
        ]

    async def remove(self, items: Sequence[_Key]) -> None:
        """End these streams."""
        ended = [self._entries.pop(key) for key in items if key in self._entries]
        await asyncio.gather(*(entry.stream.close() for entry in ended))

    def forget(self, key: _Key, entry: _Entry) -> None:
        """Drop an entry unless the id has a new owner by now."""
        if self._entries.get(key) is entry:
            del self._entries[key]


class _Known:
    """A stream that somebody was given: closing it makes its id free as well."""

    def __init__(self, manager: Streams, key: _Key, entry: _Entry) -> None:
        self._manager, self._key, self._entry = manager, key, entry

    async def send(self, message: AnyMessage) -> None:
        await self._entry.stream.send(message)

    async def receive(self) -> AnyMessage | None:
        return await self._entry.stream.receive()

    async def close(self) -> None:
        self._manager.forget(self._key, self._entry)
        await self._entry.stream.close()


_manager: type[StreamManager] = Streams
_collectible: type[Collectible] = Streams
_attached: type[Attached] = Streams
_stream: type[Stream] = _Known
