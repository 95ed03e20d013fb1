# SPDX-License-Identifier: Apache-2.0
"""Streams to a daemon, which other calls refer to by their ids.

::

    streams = RemoteStreams(channel)
    async with streams.open("import") as (id, stream):
        await send_bytes(stream, source)
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from orlop.errors import FailedPrecondition, OrlopError
from orlop.interfaces.streaming import Stream
from orlop.values import AnyMessage
from orlop_sdk.api.services.streaming.v1.streaming_pb2 import StreamInit
from orlop_sdk.convert.common import any_to_wire, pack, payload_from_wire
from orlop_sdk.mailbox import Mailbox
from orlop_sdk.rpc.channel import Channel
from orlop_sdk.rpc.stub import Responses, Stub

#: Messages that wait to be sent. Bytes are bounded by what their receiver granted; a call that has ended takes none.
_ROOM: Final = 1024


class RemoteStream:
    """The client's end of a stream. `close` says that no more messages come from here; the daemon's may still come."""

    def __init__(self, stub: Stub, id: str) -> None:
        self._id = id
        self._outgoing = Mailbox[Any](_ROOM)
        self._incoming: Responses = stub.Stream(self._outgoing)
        self._reading: asyncio.Future[Any] | None = None

    async def open(self) -> None:
        """Make the id known to the daemon. Raises `AlreadyExists` for one in use."""
        await self._outgoing.put(any_to_wire(pack(StreamInit(id=self._id))))
        if await self._next() is None:
            raise FailedPrecondition(f'stream "{self._id}": the daemon ended it at once')

    async def send(self, message: AnyMessage) -> None:
        await self._outgoing.put(any_to_wire(message))

    async def receive(self) -> AnyMessage | None:
        try:
            message = await self._next()
        except OrlopError:
            self._outgoing.end()
            raise
        if message is None:
            self._outgoing.end()
            return None
        return payload_from_wire(message)

    async def close(self) -> None:
        self._outgoing.end()

    async def aclose(self) -> None:
        """Give the stream up, with what is under way on it. May be called twice."""
        self._outgoing.end()
        await self._incoming.aclose()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _next(self) -> Any:
        # A caller who is cancelled stops waiting; the call, which cancelling the wait itself would end, goes on.
        self._reading = self._reading or asyncio.ensure_future(anext(self._incoming, None))
        message = await asyncio.shield(self._reading)
        self._reading = None
        return message


class RemoteStreams:
    """Opens streams to the daemon at the other end of a channel, in the namespace and lease of the call."""

    def __init__(self, channel: Channel) -> None:
        self._stub = Stub(channel, "containerd.services.streaming.v1.Streaming")

    @asynccontextmanager
    async def open(self, prefix: str = "stream", id: str = "") -> AsyncIterator[tuple[str, RemoteStream]]:
        """A new stream, given with its id, which is made of *prefix* and chance unless one is named."""
        name = id or f"{prefix}-{time.time_ns()}-{base64.urlsafe_b64encode(os.urandom(6)).decode()}"
        stream = RemoteStream(self._stub, name)
        try:
            await stream.open()
            yield name, stream
        finally:
            await stream.aclose()


_: type[Stream] = RemoteStream
