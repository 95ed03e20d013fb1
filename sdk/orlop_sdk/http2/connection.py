# SPDX-License-Identifier: Apache-2.0
"""The server's end of an HTTP/2 connection (RFC 9113), as an asyncio protocol.

It keeps the rules of frames, streams and flow control; `Streams`, which it is given, says what requests mean.

**Limits**. A peer costs bounded memory, whatever it sends: streams and the tasks that answer them are counted together
(a stream that is reset counts until its task has ended, so opening and resetting in a row gains nothing); a peer that
lets answers pile up, or resets faster than tasks end, is not read from until that is over; header blocks are bounded in
bytes and in frames; see `orlop_sdk.http2.flow` for content. A greeting, a frame or a header block that is not completed
in time ends the connection (`orlop_sdk.progress`); streams may stay open as long as they like.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, cast

from orlop_sdk.http2 import frames
from orlop_sdk.http2.flow import HIGH_WATER, MAX_BACKLOG, STREAM_WINDOW, Intake, Outlet
from orlop_sdk.http2.frames import ConnectionFault, ErrorCode, StreamFault
from orlop_sdk.http2.headers import MAX_FIELDS, Blocks, Fields, Malformed, check_trailers
from orlop_sdk.http2.stream import Stream
from orlop_sdk.progress import Progress

#: Streams at a time on one connection. Calls that wait for containers to exit are one each.
MAX_STREAMS: Final = 16384
#: Largest frame that a peer may send.
MAX_FRAME: Final = 256 << 10
#: Most bytes and CONTINUATION frames of one header block.
MAX_BLOCK: Final = 1 << 16
MAX_CONTINUATIONS: Final = 64
#: Tasks whose streams were reset; reading stops while there are more.
MAX_LINGERING: Final = 1024
# Streams that ended of late, of which a peer may send frames yet.
_MAX_LEFT: Final = 1024
# Seconds that a peer gets to read what was written before a connection closes.
_LINGER: Final = 1.0

# Reasons not to read, as bits.
_BACKLOG: Final = 1
_LINGERING: Final = 2

_SETTINGS: Final = frames.encode_settings(
    {
        frames.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        frames.MAX_FRAME_SIZE: MAX_FRAME,
        frames.MAX_HEADER_LIST_SIZE: MAX_FIELDS,
    }
)
_SETTINGS_ACK: Final = frames.encode(frames.SETTINGS, frames.ACK, 0)


class Streams(Protocol):
    """What requests mean, and who keeps track of connections."""

    def parse(self, fields: Fields) -> Any:
        """What `open` needs of a request's fields. Equal fields may be parsed once. Raises `Malformed`."""
        ...

    def open(self, connection: Connection, id: int, parsed: Any) -> Stream:
        """A stream for a new request."""
        ...

    def made(self, connection: Connection) -> None:
        """A peer has connected."""
        ...

    def refusal(self, transport: asyncio.BaseTransport) -> str:
        """Why a connection that was just made has to go; empty when it may stay."""
        ...

    def gone(self, connection: Connection) -> None:
        """A connection is closed, and no task of it is left."""
        ...


class _Block:
    """A header block that CONTINUATION frames complete."""

    def __init__(self, stream: int, flags: int, begin: bytes) -> None:
        self.stream = stream
        self.flags = flags
        self.data = bytearray(begin)
        self.count = 0

    def add(self, data: bytes) -> None:
        self.data += data
        self.count += 1
        if len(self.data) > MAX_BLOCK or self.count > MAX_CONTINUATIONS:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"header block: more than {MAX_BLOCK} bytes")


class Connection(asyncio.Protocol):
    """One peer."""

    outlet: Outlet
    _intake: Intake

    def __init__(self, streams: Streams) -> None:
        self._service = streams
        self._streams: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._decoder = frames.Decoder(MAX_FRAME)
        self._blocks: Blocks[Any] = Blocks(streams.parse)
        self._block: _Block | None = None
        # Streams that ended of late: whether the peer could not know that yet.
        self._left: dict[int, bool] = {}
        self._last = 0
        self._greeted = False
        self._finishing = False
        self._closing = False
        self._gone = False
        self._holds = 0
        self._linger: asyncio.TimerHandle | None = None
        self._steps = 0
        self._progress = Progress(self._incomplete, self._late)

    # What streams use.

    @property
    def intake(self) -> Intake:
        """The receiving side's flow control."""
        return self._intake

    @property
    def is_gone(self) -> bool:
        """Whether it is closed and no task of it is left."""
        return self._gone and not self._tasks

    @property
    def tasks(self) -> int:
        """How many tasks run, those of streams included that were reset."""
        return len(self._tasks)

    @property
    def last_stream(self) -> int:
        """The highest stream that was opened."""
        return self._last

    def start(self, answer: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run what answers a stream."""
        task = asyncio.get_running_loop().create_task(answer)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def end(self, stream: Stream, last: bytes) -> None:
        """Write a stream's last frame. The peer is told that nobody reads what it might still send."""
        if stream.local_ended:
            return
        if not stream.remote_ended:
            last += frames.encode_reset(stream.id, ErrorCode.NO_ERROR)
        self.outlet.control(last)
        self.ended(stream)

    def ended(self, stream: Stream) -> None:
        """Note that a stream's last frame is written."""
        stream.local_ended = True
        self._forget(stream)
        if self._finishing and not self._streams:
            self._close()

    def finish(self) -> None:
        """Take no more streams, and close once those that are open have ended."""
        if self._finishing or self._closing:
            return
        self._finishing = True
        self.outlet.control(frames.encode_goaway(self._last, ErrorCode.NO_ERROR))
        if not self._streams:
            self._close()

    def shut(self) -> None:
        """End all streams and close."""
        for stream in list(self._streams.values()):
            stream.shut()
        if not self._closing:
            self._close()

    def abort(self) -> None:
        """Close at once, whatever the peer has not read."""
        self._closing = True
        self.outlet.transport.abort()

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do what asyncio's do, but are no subclasses of them.
        made = cast(asyncio.Transport, transport)
        made.set_write_buffer_limits(HIGH_WATER)
        self.outlet = Outlet(made)
        self._intake = Intake(self.outlet)
        self.outlet.control(_SETTINGS)
        self._intake.open()
        self._service.made(self)
        if reason := self._service.refusal(made):
            self._break_off(ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, reason))
            return
        self._progress.look()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            for kind, flags, stream, payload in self._decoder.feed(data):
                self._steps += 1
                self._frame(kind, flags, stream, payload)
                if self._closing:
                    return
        except ConnectionFault as fault:
            self._break_off(fault)
        self._progress.look()
        if self.outlet.backlog > MAX_BACKLOG:
            self._hold(_BACKLOG)

    def pause_writing(self) -> None:
        self.outlet.pause()

    def resume_writing(self) -> None:
        self.outlet.resume()
        self._release(_BACKLOG)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = self._gone = True
        self._progress.stop()
        if self._linger is not None:
            self._linger.cancel()
        self._lose_all()
        if not self._tasks:
            self._service.gone(self)

    # Frames.

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and (kind != frames.CONTINUATION or stream != self._block.stream):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "header block: another frame within")
        if not self._greeted and kind != frames.SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        handle = _HANDLERS.get(kind)
        if handle is None:
            return
        try:
            handle(self, flags, stream, payload)
        except StreamFault as fault:
            self.outlet.control(frames.encode_reset(fault.stream, fault.code))
            self._lose(fault.stream, told=False)

    def _data(self, flags: int, id: int, payload: bytes) -> None:
        self._check_opened(id, "DATA")
        self._intake.took(len(payload))
        stream = self._streams.get(id)
        if stream is None or stream.remote_ended:
            # What crosses the end of its stream, or a GOAWAY, is nobody's mistake.
            if stream is None and (self._left.get(id) or id > self._last):
                return
            raise StreamFault(id, ErrorCode.STREAM_CLOSED, f"stream {id}: data after its end")
        content = frames.unpadded(flags, payload)
        if not stream.take(len(payload), len(content)):
            raise StreamFault(id, ErrorCode.FLOW_CONTROL_ERROR, f"stream {id}: data beyond its window")
        ended = flags & frames.END_STREAM != 0
        if not stream.is_length_kept(at_end=ended):
            raise StreamFault(id, ErrorCode.PROTOCOL_ERROR, f"stream {id}: not as long as announced")
        if content:
            stream.data(content)
        # The stream may have had enough.
        if ended and not stream.local_ended:
            stream.remote_ended = True
            stream.ended()

    def _headers(self, flags: int, id: int, payload: bytes) -> None:
        if id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS: without a stream")
        payload = frames.unpadded(flags, payload)
        if flags & frames.HAS_PRIORITY:
            self._check_priority(id, payload[:5])
            payload = payload[5:]
        if flags & frames.END_HEADERS:
            self._whole_block(id, flags & frames.END_STREAM != 0, payload)
        else:
            self._block = _Block(id, flags, payload)

    def _continuation(self, flags: int, _id: int, payload: bytes) -> None:
        block = self._block
        if block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION: nothing to continue")
        block.add(payload)
        if flags & frames.END_HEADERS:
            self._block = None
            self._whole_block(block.stream, block.flags & frames.END_STREAM != 0, bytes(block.data))

    def _whole_block(self, id: int, ended: bool, block: bytes) -> None:
        if len(block) > MAX_BLOCK:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"header block: more than {MAX_BLOCK} bytes")
        try:
            if id > self._last:
                self._request(id, ended, block)
            else:
                self._trailers(id, ended, block)
        except Malformed as error:
            raise StreamFault(id, ErrorCode.PROTOCOL_ERROR, str(error)) from error

    def _request(self, id: int, ended: bool, block: bytes) -> None:
        if id % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"stream {id}: clients use odd numbers")
        if self._finishing:
            # Told by GOAWAY that nobody answers it; but the table of fields has to follow.
            self._blocks.fields(block)
            return
        self._last = id
        parsed = self._blocks.decode(block)
        if max(len(self._streams), len(self._tasks)) >= MAX_STREAMS:
            raise StreamFault(id, ErrorCode.REFUSED_STREAM, f"stream {id}: one too many")
        stream = self._service.open(self, id, parsed)
        if ended and not stream.is_length_kept(at_end=True):
            raise StreamFault(id, ErrorCode.PROTOCOL_ERROR, f"stream {id}: not as long as announced")
        self._streams[id] = stream
        stream.remote_ended = ended
        stream.opened()

    def _trailers(self, id: int, ended: bool, block: bytes) -> None:
        fields = self._blocks.fields(block)
        stream = self._streams.get(id)
        if stream is None:
            if self._left.get(id):
                return
            code = ErrorCode.STREAM_CLOSED if id in self._left else ErrorCode.PROTOCOL_ERROR
            raise ConnectionFault(code, f"stream {id}: header block after its end")
        if stream.remote_ended:
            raise StreamFault(id, ErrorCode.STREAM_CLOSED, f"stream {id}: header block after its end")
        check_trailers(fields)
        if not ended or not stream.is_length_kept(at_end=True):
            raise StreamFault(id, ErrorCode.PROTOCOL_ERROR, f"stream {id}: trailers that do not end it in time")
        stream.remote_ended = True
        stream.ended()

    def _priority(self, _flags: int, id: int, payload: bytes) -> None:
        if id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY: without a stream")
        if len(payload) != 5:
            raise StreamFault(id, ErrorCode.FRAME_SIZE_ERROR, f"PRIORITY: {len(payload)} bytes instead of 5")
        self._check_priority(id, payload)

    def _check_priority(self, id: int, payload: bytes) -> None:
        # Nobody here goes by priorities; only what cannot be one at all is refused.
        if len(payload) != 5:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "priority: cut short")
        if int.from_bytes(payload[:4], "big") & frames.LARGEST_WINDOW == id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"stream {id}: depends on itself")

    def _reset_received(self, _flags: int, id: int, payload: bytes) -> None:
        self._check_opened(id, "RST_STREAM")
        frames.decode_number(payload, "RST_STREAM")
        self._lose(id, told=True)
        if len(self._tasks) - len(self._streams) > MAX_LINGERING:
            self._hold(_LINGERING)

    def _settings(self, flags: int, id: int, payload: bytes) -> None:
        if id != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS: of a stream")
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS: an acknowledgement with content")
            return
        self._greeted = True
        for name, value in frames.decode_settings(payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                self.outlet.set_initial(value, self._streams.values())
            elif name == frames.MAX_FRAME_SIZE:
                self.outlet.largest = value
        self.outlet.control(_SETTINGS_ACK)

    def _push_promise(self, _flags: int, _id: int, _payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE: from a client")

    def _ping(self, flags: int, id: int, payload: bytes) -> None:
        if id != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING: of a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"PING: {len(payload)} bytes instead of 8")
        if not flags & frames.ACK:
            self.outlet.control(frames.encode(frames.PING, frames.ACK, 0, payload))

    def _goaway(self, _flags: int, id: int, payload: bytes) -> None:
        # A client that leaves still wants its answers; it hangs up when it has them.
        if id != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY: of a stream")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY: {len(payload)} bytes, 8 are the fewest")

    def _window_update(self, _flags: int, id: int, payload: bytes) -> None:
        increment = frames.decode_number(payload, "WINDOW_UPDATE") & frames.LARGEST_WINDOW
        if id == 0:
            if increment == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE: of nothing")
            self.outlet.grant(increment)
            return
        self._check_opened(id, "WINDOW_UPDATE")
        if increment == 0:
            raise StreamFault(id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE: of nothing")
        stream = self._streams.get(id)
        if stream is not None:
            self.outlet.grant_stream(stream, increment)

    def _check_opened(self, id: int, what: str) -> None:
        # Even numbers are those of streams that a server opens, which this one never does.
        if id == 0 or id % 2 == 0 or (id > self._last and not self._finishing):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what}: of stream {id}, which was never opened")

    # The ends of things.

    def _lose(self, id: int, *, told: bool) -> None:
        """A stream is over without an answer; *told* when the peer said so."""
        stream = self._streams.get(id)
        if stream is None:
            if id <= self._last:
                self._leave(id, not told)
            return
        stream.local_ended = True
        self._forget(stream)
        self._left[id] = not told
        stream.lost()
        if self._finishing and not self._streams:
            self._close()

    def _break_off(self, fault: ConnectionFault) -> None:
        self.outlet.control(frames.encode_goaway(self._last, fault.code, str(fault)))
        self._close()
        self._lose_all()

    def _incomplete(self) -> int | None:
        """See `Progress`. While we do not read, it is not the peer who is slow."""
        if self._closing or self._holds:
            return None
        return self._steps if not self._greeted or self._block is not None or self._decoder.is_within else None

    def _late(self) -> None:
        what = "a frame or header block that is not completed" if self._greeted else "no greeting"
        self._break_off(ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, what))

    def _lose_all(self) -> None:
        for stream in list(self._streams.values()):
            self._lose(stream.id, told=True)

    def _forget(self, stream: Stream) -> None:
        self._streams.pop(stream.id, None)
        self._leave(stream.id, not stream.remote_ended)

    def _leave(self, id: int, may_send: bool) -> None:
        self._left[id] = may_send
        if len(self._left) > _MAX_LEFT:
            del self._left[next(iter(self._left))]

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._holds & _LINGERING and len(self._tasks) - len(self._streams) <= MAX_LINGERING // 2:
            self._release(_LINGERING)
        if self.is_gone:
            self._service.gone(self)

    def _close(self) -> None:
        """Close after what was written is read, or after a moment."""
        self._closing = True
        if self._linger is not None or self._gone:
            return
        self.outlet.flush()
        self.outlet.transport.close()
        self._linger = asyncio.get_running_loop().call_later(_LINGER, self.outlet.transport.abort)

    def _hold(self, reason: int) -> None:
        if not self._holds and not self._closing:
            self.outlet.transport.pause_reading()
        self._holds |= reason

    def _release(self, reason: int) -> None:
        before, self._holds = self._holds, self._holds & ~reason
        if before and not self._holds and not self._closing:
            self.outlet.transport.resume_reading()
            self._progress.look()


_HANDLERS: Final[dict[int, Callable[[Connection, int, int, bytes], None]]] = {
    frames.DATA: Connection._data,
    frames.HEADERS: Connection._headers,
    frames.PRIORITY: Connection._priority,
    frames.RST_STREAM: Connection._reset_received,
    frames.SETTINGS: Connection._settings,
    frames.PUSH_PROMISE: Connection._push_promise,
    frames.PING: Connection._ping,
    frames.GOAWAY: Connection._goaway,
    frames.WINDOW_UPDATE: Connection._window_update,
    frames.CONTINUATION: Connection._continuation,
}
