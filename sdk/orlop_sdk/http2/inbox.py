# SPDX-License-Identifier: Apache-2.0
"""The messages of one call, cut out of its stream's content as they become whole."""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from orlop.blocking import run_blocking
from orlop.errors import Internal, InvalidArgument, OrlopError, ResourceExhausted
from orlop_sdk.http2.stream import Stream

#: Each message is preceded by a flag, whether it is compressed, and its size.
PREFIX: Final = 5


def prefix(size: int) -> bytes:
    """What precedes a message of *size* bytes that is not compressed."""
    return b"\x00" + size.to_bytes(4, "big")


class Inbox(AsyncIterator[bytes]):
    """For one reader. What waits here counts against the windows of its stream, whose sender so keeps its pace.

    While nothing waits, the reader wants the message that is on its way: that one may be as long as *limit*, which is
    more than a window.
    """

    __slots__ = (
        "_ended",
        "_error",
        "_gzip",
        "_intake",
        "_limit",
        "_messages",
        "_owed",
        "_partial",
        "_stream",
        "_waiter",
    )

    def __init__(self, stream: Stream, limit: int, *, gzip: bool) -> None:
        self._stream = stream
        self._intake = stream.connection.intake
        self._limit = limit
        self._gzip = gzip
        # Whether a message is compressed, and the message.
        self._messages: deque[tuple[bool, bytes]] = deque()
        self._partial = bytearray()
        # Bytes that came, and that the stream was not told to be consumed.
        self._owed = 0
        self._ended = False
        self._error: OrlopError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """How many whole messages wait."""
        return len(self._messages)

    def feed(self, data: bytes) -> None:
        """Add content. Raises `ResourceExhausted` for a message that is too long, `Internal` for what is none."""
        if self._ended:
            return
        self._owed += len(data)
        if not self._partial and len(data) >= PREFIX and self._size(data) == len(data):
            self._add(data[0], data[PREFIX:])
        else:
            self._feed_part(data)
        if not self._messages:
            self._consume(self._owed)

    def end(self, error: OrlopError | None = None) -> None:
        """No message follows; the reader gets *error* after those that are here. The first end counts."""
        if not self._ended:
            self._ended = True
            self._error = error
            if error is None and self._partial:
                self._error = Internal("message: cut short by the end of its stream")
            self._wake()

    def drop(self) -> None:
        """Forget everything: nobody reads any more."""
        self.end()
        if not self._partial and not self._messages:
            return
        self._intake.partial(-len(self._partial))
        self._intake.unread(-sum(len(message) for _, message in self._messages))
        self._partial.clear()
        self._messages.clear()

    async def __anext__(self) -> bytes:
        while not self._messages:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        compressed, message = self._messages.popleft()
        self._intake.unread(-len(message))
        self._consume(min(self._owed, len(message) + PREFIX) if self._messages else self._owed)
        return await run_blocking(_inflate, message, self._limit) if compressed else message

    def _feed_part(self, data: bytes) -> None:
        before = len(self._partial)
        self._intake.partial(len(data))
        self._partial += data
        at = 0
        while len(self._partial) - at >= PREFIX:
            end = at + self._size(self._partial, at)
            if len(self._partial) < end:
                break
            self._add(self._partial[at], bytes(memoryview(self._partial)[at + PREFIX : end]))
            at = end
        del self._partial[:at]
        self._intake.partial(len(self._partial) - before - len(data))

    def _size(self, data: bytes | bytearray, at: int = 0) -> int:
        """How long the message at *at* is with its prefix."""
        size = int.from_bytes(data[at + 1 : at + PREFIX], "big")
        if size > self._limit:
            raise ResourceExhausted(f"message of {size} bytes: the most is {self._limit}")
        return PREFIX + size

    def _add(self, flag: int, message: bytes) -> None:
        if flag > 1 or (flag and not self._gzip):
            raise Internal("message: compressed, though its call named no way of compressing")
        self._messages.append((flag == 1, message))
        self._intake.unread(len(message))
        self._wake()

    def _consume(self, size: int) -> None:
        self._owed -= size
        self._stream.consumed(size)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _inflate(data: bytes, limit: int) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        message = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise InvalidArgument("message: not gzip, though said to be") from error
    if len(message) > limit:
        raise ResourceExhausted(f"message: more than {limit} bytes once decompressed")
    if not inflater.eof:
        raise InvalidArgument("message: its gzip is cut short")
    return message
