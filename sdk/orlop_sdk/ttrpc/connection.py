# SPDX-License-Identifier: Apache-2.0
"""What both ends of a ttrpc connection share: addresses, the framing protocol, queues of received messages."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, cast

from orlop.errors import InvalidArgument, OrlopError, Unavailable
from orlop_sdk.ttrpc.frames import DATA, Decoder, Frame, encode

#: Received bytes that may wait for slow readers before the connection stops reading.
MAX_WAITING: Final = 4 * (4 << 20)


def socket_path(address: str) -> str:
    """What to pass to ``connect`` and ``bind`` for an address: ``unix:///path``, ``/path``, or ``@name`` (abstract).

    Raises `InvalidArgument` for any other scheme or an empty address.
    """
    path = address.removeprefix("unix://")
    if not path or "://" in path:
        raise InvalidArgument(f'address "{address}": not a unix socket; use unix:///path, /path or @name')
    return "\0" + path[1:] if path[0] == "@" else path


class Connection(asyncio.Protocol, ABC):
    """Frames in and out of one transport. Subclasses say what a frame means and what to do at the end."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder()
        self._writable: asyncio.Future[None] | None = None
        self._waiting = 0

    # What a subclass implements.

    @abstractmethod
    def frame_received(self, frame: Frame) -> None:
        """One whole frame has arrived."""

    @abstractmethod
    def ended(self, error: Exception | None) -> None:
        """The connection is gone; called once."""

    # What a subclass uses.

    @property
    def is_open(self) -> bool:
        """Whether frames can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_reading(self) -> bool:
        """Whether frames are read; not while too much waits for readers."""
        return self._waiting <= MAX_WAITING

    def send(self, stream: int, kind: int, flags: int = 0, data: bytes = b"") -> None:
        """Send a frame. Raises `ResourceExhausted` when it is too long, `Unavailable` when the connection is gone."""
        if self._transport is None or self._transport.is_closing():
            raise Unavailable("ttrpc connection: closed")
        self._transport.write(encode(stream, kind, flags, data))

    async def send_data(self, stream: int, data: bytes) -> None:
        """Send a message of a stream once the transport has room."""
        while self._writable is not None:
            await asyncio.shield(self._writable)
        self.send(stream, DATA, 0, data)

    def close(self) -> None:
        """Close after what was sent is written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def account(self, change: int) -> None:
        """Note that this many more (or, negative, fewer) received bytes wait for a reader."""
        before, self._waiting = self._waiting, self._waiting + change
        if self._transport is None or self._transport.is_closing():
            return
        if before <= MAX_WAITING < self._waiting:
            self._transport.pause_reading()
        elif self._waiting <= MAX_WAITING < before:
            self._transport.resume_reading()

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do what asyncio's do, but are no subclasses of them.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            self.frame_received(frame)

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.resume_writing()
        self.ended(exc)


class Inbox(AsyncIterator[bytes]):
    """Received messages of one stream, for one reader. Counts them in its connection until they are read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages: deque[bytes] = deque()
        self._ended = False
        self._error: OrlopError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, message: bytes) -> None:
        """Add a message; ignored after the end."""
        if not self._ended:
            self._messages.append(message)
            self._connection.account(len(message))
            self._wake()

    def end(self, error: OrlopError | None = None) -> None:
        """No message follows; the reader gets *error* after those that are here. The first end counts."""
        if not self._ended:
            self._ended, self._error = True, error
            self._wake()

    def drop(self) -> None:
        """Forget what was not read: nobody will read any more."""
        self.end()
        self._connection.account(-sum(map(len, self._messages)))
        self._messages.clear()

    async def __anext__(self) -> bytes:
        while not self._messages:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._messages.popleft()
        self._connection.account(-len(message))
        return message

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
