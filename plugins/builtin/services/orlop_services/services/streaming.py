# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.streaming.v1.Streaming`` over the stream manager."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty

from orlop.errors import Cancelled, InvalidArgument, OrlopError
from orlop.interfaces.streaming import Stream, StreamManager
from orlop.values import AnyMessage
from orlop_sdk.api.services.streaming.v1.streaming_pb2 import StreamInit
from orlop_sdk.convert.common import pack, payload_from_wire, unpack, write_any
from orlop_sdk.mailbox import Mailbox
from orlop_sdk.rpc.service import Service


class StreamingService(Service):
    """Opens streams. A stream is known until either side ends the call."""

    service = "containerd.services.streaming.v1.Streaming"

    def __init__(self, manager: StreamManager) -> None:
        self._manager = manager

    async def Stream(self, requests: AsyncIterable[Any]) -> AsyncIterator[Any]:
        messages = aiter(requests)
        first = await anext(messages, None)
        if first is None:
            raise InvalidArgument("stream: ended before it said its id; send a StreamInit first")
        id = unpack(payload_from_wire(first), StreamInit).id
        stream = ServedStream()
        await self._manager.register(id, stream)
        reader = asyncio.create_task(stream.read(messages))
        try:
            # Whoever opened it may name it in other calls from now on.
            yield _wire(pack(Empty()))
            async for message in stream.outgoing:
                yield _wire(message)
        finally:
            await self._manager.release(id, stream)
            stream.end(Cancelled(f'stream "{id}": its client went away'))
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)


class ServedStream:
    """The daemon's end of a stream."""

    def __init__(self) -> None:
        self.outgoing: Mailbox[AnyMessage] = Mailbox()
        self._incoming: Mailbox[AnyMessage] = Mailbox()

    async def send(self, message: AnyMessage) -> None:
        await self.outgoing.put(message)

    async def receive(self) -> AnyMessage | None:
        return await self._incoming.get()

    async def close(self) -> None:
        self._incoming.end()
        self.outgoing.end()

    async def read(self, messages: AsyncIterator[Any]) -> None:
        """Take in what the client sends, until it says that nothing follows."""
        try:
            async for message in messages:
                await self._incoming.put(payload_from_wire(message))
            self._incoming.end()
        except OrlopError as error:
            self._incoming.end(error)

    def end(self, error: OrlopError) -> None:
        """The call has ended; whoever still waits for a message gets *error*, unless the end had come before."""
        self._incoming.end(error)
        self.outgoing.end()


def _wire(message: AnyMessage) -> Any:
    wire = Any()
    write_any(message, wire)
    return wire


_: type[Stream] = ServedStream
