# SPDX-License-Identifier: Apache-2.0
"""Bytes over streams of messages, as containerd sends archives: ``Data`` one way, and grants of room the other way.

::

    await send_bytes(stream, export.stream())         # one end
    async for chunk in receive_bytes(stream): ...     # the other

The receiver says by ``WindowUpdate`` how many more bytes it takes; the sender never sends more than it was granted. The
end of the stream is the end of the bytes. Both ends work with any `orlop.interfaces.streaming.Stream`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Final

from orlop.errors import InvalidArgument, OrlopError, Unavailable
from orlop.interfaces.streaming import Stream
from orlop.values import AnyMessage
from orlop_sdk.api.types.transfer.streaming_pb2 import Data, WindowUpdate
from orlop_sdk.convert.common import message_name, pack, unpack

#: The most bytes in one message.
CHUNK: Final = 32 << 10
#: How many bytes a receiver grants at first, and keeps granted.
WINDOW: Final = 64 << 10


async def send_bytes(stream: Stream, source: AsyncIterable[bytes]) -> int:
    """Send all of *source* and return how many bytes that were. The stream stays open; closing it says "the end".

    Raises `Unavailable` when the receiver ends the stream before it has everything.
    """
    window = _Window(stream)
    sent = 0
    try:
        async for data in source:
            view = memoryview(data)
            while view:
                size = min(len(view), CHUNK, await window.room())
                await stream.send(pack(Data(data=bytes(view[:size]))))
                window.take(size)
                sent += size
                view = view[size:]
    finally:
        await window.close()
    return sent


async def receive_bytes(stream: Stream) -> AsyncGenerator[bytes, None]:
    """The bytes that the other end sends, until it ends the stream.

    Raises `Cancelled` when it went away before that, `InvalidArgument` for messages that are no bytes.
    """
    granted = 0
    while True:
        if granted < WINDOW:
            try:
                await stream.send(pack(WindowUpdate(update=WINDOW)))
            except Unavailable:
                granted = WINDOW  # the other end has sent all and needs no room; what it sent is still to come
            else:
                granted += WINDOW
        message = await stream.receive()
        if message is None:
            return
        data = unpack(message, Data).data
        granted -= len(data)
        if data:
            yield data


class _Window:
    """What the receiver still takes."""

    def __init__(self, stream: Stream) -> None:
        self._room = 0
        self._ended: OrlopError | None = None
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._follow(stream))

    async def room(self) -> int:
        """How many bytes may be sent, once that is more than none."""
        while self._room <= 0 and self._ended is None:
            self._changed.clear()
            await self._changed.wait()
        if self._ended is not None:
            raise self._ended
        return self._room

    def take(self, size: int) -> None:
        self._room -= size

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self, stream: Stream) -> None:
        try:
            while (message := await stream.receive()) is not None:
                self._room += _update(message)
                self._changed.set()
            self._ended = Unavailable("stream: its receiver wants no more bytes")
        except OrlopError as error:
            self._ended = error
        self._changed.set()


def _update(message: AnyMessage) -> int:
    if message_name(message.type_url) != WindowUpdate.DESCRIPTOR.full_name:
        raise InvalidArgument(f'stream of bytes: unexpected message of type "{message.type_url}"')
    return max(unpack(message, WindowUpdate).update, 0)
