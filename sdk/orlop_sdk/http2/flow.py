# SPDX-License-Identifier: Apache-2.0
"""Flow control (RFC 9113, section 5.2): what may be sent, and what a peer may send.

`Outlet` is the sending side of a connection. Data leaves in turns: a stream that has much to send gets no further than
a piece before the next one's turn, and nobody runs ahead of what the peer and the socket take. `Intake` is the
receiving side: it grants a peer new room as the data it sent is read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

from orlop.errors import ResourceExhausted, Unavailable
from orlop_sdk.http2 import frames
from orlop_sdk.http2.frames import ConnectionFault, ErrorCode, StreamFault

#: What a stream's sender may be ahead of its reader, and a connection's senders of this process, in bytes. The first
#: takes two messages of content; half of it is granted anew at a time.
STREAM_WINDOW: Final = 2 << 20
CONNECTION_WINDOW: Final = 16 << 20
#: Bytes of whole messages that wait for their handlers, beyond which a connection gets no more room.
MAX_UNREAD: Final = 64 << 20
#: Bytes of messages that are not whole yet; a connection that wants more gets an error for the stream.
MAX_PARTIAL: Final = 256 << 20
#: Bytes that wait in the transport before writers have to.
HIGH_WATER: Final = 1 << 20
#: Bytes of answers to a peer that does not read; reading stops when they are more.
MAX_BACKLOG: Final = 64 << 10
# What one stream sends in its turn.
_PIECE: Final = 256 << 10
# What is gathered before it is written.
_GATHER: Final = 64 << 10


class Sender(Protocol):
    """What an outlet knows of a stream."""

    id: int
    #: How far the stream's window is from the initial one of all streams; the peer changes that one by a setting.
    offset: int
    #: Set while the stream waits for its window.
    starved: asyncio.Future[None] | None
    #: Whether nothing more is sent.
    local_ended: bool


class Outlet:
    """The sending side of one connection."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.initial = frames.DEFAULT_WINDOW
        self.largest = frames.DEFAULT_FRAME
        self._window = frames.DEFAULT_WINDOW
        self._paused = False
        self._turns: deque[asyncio.Future[None]] = deque()
        self._starved: set[Sender] = set()
        self._feeding = False
        # The highest offset seen, so that a new initial window need not be compared with every stream's.
        self._highest = 0
        self._gathered: list[bytes] = []
        self._gathered_size = 0
        #: Bytes that were written though the transport had no room.
        self.backlog = 0

    def control(self, data: bytes) -> None:
        """Write frames that no window limits."""
        if self._paused:
            self.backlog += len(data)
        self._write(data)

    def send_at_once(self, stream: Sender, before: bytes, parts: tuple[bytes, bytes], after: bytes) -> bool:
        """Write *parts* as one DATA frame, between other frames, if there is room for it now; else do nothing."""
        size = len(parts[0]) + len(parts[1])
        if self._paused or size > self._window or size > self.initial + stream.offset or size > self.largest:
            return False
        self._window -= size
        stream.offset -= size
        head = frames.header(frames.DATA, 0, stream.id, size)
        self._write(b"".join((before, head, *parts, after)))
        return True

    async def send(self, stream: Sender, data: bytes) -> None:
        """Write DATA frames as fast as the peer and the socket take them.

        Raises `Unavailable` when the stream ended meanwhile.
        """
        rest = memoryview(data)
        sent = False
        try:
            while rest:
                if stream.local_ended:
                    raise Unavailable(f"stream {stream.id}: ended while its message was sent")
                if self.initial + stream.offset <= 0:
                    await self._wait_for_window(stream)
                elif not self._has_room or (sent and self._turns):
                    await self._wait_for_turn()
                    # Whoever gets a turn sends before it waits again.
                    sent = False
                else:
                    rest = rest[self._write_piece(stream, rest) :]
                    sent = True
        finally:
            self._pass_turn()

    def flush(self) -> None:
        """Hand over what was gathered."""
        if self._gathered:
            data = self._gathered[0] if len(self._gathered) == 1 else b"".join(self._gathered)
            self._gathered.clear()
            self._gathered_size = 0
            if not self.transport.is_closing():
                self.transport.write(data)

    def grant(self, increment: int) -> None:
        """The peer allows more data on the connection."""
        if self._window + increment > frames.LARGEST_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "window of the connection: too large")
        self._window += increment
        self._pass_turn()

    def grant_stream(self, stream: Sender, increment: int) -> None:
        """The peer allows more data on one stream."""
        if self.initial + stream.offset + increment > frames.LARGEST_WINDOW:
            raise StreamFault(stream.id, ErrorCode.FLOW_CONTROL_ERROR, f"window of stream {stream.id}: too large")
        stream.offset += increment
        self._highest = max(self._highest, stream.offset)
        if stream.starved is not None and self.initial + stream.offset > 0:
            _wake(stream.starved)

    def set_initial(self, value: int, streams: Iterable[Sender]) -> None:
        """The peer has another initial window, which moves those of all streams."""
        if value + self._highest > frames.LARGEST_WINDOW:
            self._highest = max((stream.offset for stream in streams), default=0)
            if value + self._highest > frames.LARGEST_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "window of a stream: too large")
        more = value > self.initial
        self.initial = value
        if more and self._starved and not self._feeding:
            # Once for all settings that came together: a peer must not make us look at all streams for each.
            self._feeding = True
            asyncio.get_running_loop().call_soon(self._feed_starved)

    def pause(self) -> None:
        """The transport has no room."""
        self._paused = True

    def resume(self) -> None:
        """The transport has room again."""
        self._paused = False
        self.backlog = 0
        self._pass_turn()

    @property
    def _has_room(self) -> bool:
        return self._window > 0 and not self._paused

    def _write_piece(self, stream: Sender, rest: memoryview) -> int:
        size = min(len(rest), self._window, self.initial + stream.offset, _PIECE)
        self._window -= size
        stream.offset -= size
        pieces: list[bytes | memoryview] = []
        for at in range(0, size, self.largest):
            part = rest[at : min(at + self.largest, size)]
            pieces += (frames.header(frames.DATA, 0, stream.id, len(part)), part)
        self._write(b"".join(pieces))
        return size

    def _write(self, data: bytes) -> None:
        """Write, together with what other tasks have to say in this turn of the loop: a system call each costs more."""
        self._gathered_size += len(data)
        self._gathered.append(data)
        if self._gathered_size > _GATHER:
            self.flush()
        elif len(self._gathered) == 1:
            asyncio.get_running_loop().call_soon(self.flush)

    async def _wait_for_window(self, stream: Sender) -> None:
        stream.starved = asyncio.get_running_loop().create_future()
        self._starved.add(stream)
        self._pass_turn()
        try:
            await stream.starved
        finally:
            stream.starved = None
            self._starved.discard(stream)

    async def _wait_for_turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        self._pass_turn()
        await turn

    def _pass_turn(self) -> None:
        """Wake the one who waits longest; it does the same when it has sent what it can."""
        while self._turns and self._has_room:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _feed_starved(self) -> None:
        self._feeding = False
        for stream in self._starved:
            if stream.starved is not None and self.initial + stream.offset > 0:
                _wake(stream.starved)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Intake:
    """The receiving side of one connection: how much the peer may send, and what of it waits here."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._window = frames.DEFAULT_WINDOW
        self._unread = 0
        self._partial = 0

    def open(self) -> None:
        """Grant the peer the whole window."""
        self._outlet.control(frames.encode_window_update(0, CONNECTION_WINDOW - self._window))
        self._window = CONNECTION_WINDOW

    def took(self, size: int) -> None:
        """The payload of a DATA frame has come. Raises `ConnectionFault` when the peer had no room for it."""
        self._window -= size
        if self._window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "data beyond the window of the connection")
        self._grant()

    def unread(self, change: int) -> None:
        """So many more, or fewer, bytes of whole messages wait for a handler."""
        self._unread += change
        if change < 0:
            self._grant()

    def partial(self, change: int) -> None:
        """So many more, or fewer, bytes of messages are here that are not whole. Raises `ResourceExhausted`."""
        if change > 0 and self._partial + change > MAX_PARTIAL:
            raise ResourceExhausted(f"connection: unfinished messages of more than {MAX_PARTIAL} bytes")
        self._partial += change

    def _grant(self) -> None:
        if self._window <= CONNECTION_WINDOW // 2 and self._unread <= MAX_UNREAD:
            self._outlet.control(frames.encode_window_update(0, CONNECTION_WINDOW - self._window))
            self._window = CONNECTION_WINDOW
