# SPDX-License-Identifier: Apache-2.0
"""ttrpc on the bare loop: the server that answers a daemon. Unary calls only, as in the task API."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Coroutine, Mapping

from orlop.errors import InvalidArgument, OrlopError, Unimplemented
from orlop_sdk.hints import Final
from orlop_sdk.ttrpc import frames
from orlop_shim import plain_socket as socket
from orlop_shim.bag import Bag
from orlop_shim.loop import HANG_UP, READ, WRITE, Loop, Promise
from orlop_shim.messages import REQUEST, RESPONSE
from orlop_shim.text_log import Log
from orlop_shim.wire import Schema, Values, WireError

_CHUNK: Final = 64 << 10
_CREDENTIALS: Final = struct.Struct("3i")
_UNKNOWN: Final = 2

Handler = Callable[[Values], Coroutine[Promise, None, Values]]


class Method:
    """One method: what it takes, what it gives, and who does it."""

    __slots__ = ("answer", "handler", "request")

    def __init__(self, request: Schema, answer: Schema, handler: Handler) -> None:
        self.request = request
        self.answer = answer
        self.handler = handler


class Socket:
    """A stream socket on the loop, that frames are sent to and received from."""

    def __init__(self, loop: Loop, sock: socket.socket, received: Callable[[frames.Frame], None]) -> None:
        self._loop = loop
        self._sock = sock
        self._received = received
        self._decoder = frames.Decoder()
        self._unsent = bytearray()
        self._waits = False
        self.closed = Promise()
        sock.setblocking(False)
        loop.watch(sock.fileno(), READ, self._ready)

    @property
    def rests(self) -> bool:
        """Whether nothing is on its way, here or there."""
        return not self._unsent and not self._decoder.is_within

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def send(self, data: bytes) -> None:
        """Send now, or as soon as the other side takes it."""
        if self.closed.done:
            return
        self._unsent += data
        self._flush()

    def close(self) -> None:
        """Close it. May be called twice."""
        if not self.closed.done:
            self._loop.unwatch(self._sock.fileno())
            self._sock.close()
            self.closed.set()

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if events & (READ | HANG_UP) and not self.closed.done:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        for frame in self._decoder.feed(data):
            self._received(frame)

    def _flush(self) -> None:
        try:
            del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            # Nothing was taken; what is left is sent when there is room.
            self._wait(True)
            return
        except OSError:
            self.close()
            return
        self._wait(bool(self._unsent))

    def _wait(self, waits: bool) -> None:
        if waits is not self._waits:
            self._waits = waits
            self._loop.watch(self._sock.fileno(), READ | WRITE if waits else READ, self._ready)


class Server:
    """Answers calls, once it listens. *methods* is by ``service/method``."""

    def __init__(self, loop: Loop, methods: Mapping[str, Method], log: Log) -> None:
        self._loop = loop
        self._methods = methods
        self._services = {name.partition("/")[0] for name in methods}
        self._log = log
        self._connections: set[_Connection] = set()
        self._listener: socket.socket | None = None

    def listen(self, listener: socket.socket) -> None:
        """Take connections from a listening socket."""
        self._listener = listener
        listener.setblocking(False)
        self._loop.watch(listener.fileno(), READ, lambda _: self._accept(listener))

    @property
    def path(self) -> str:
        """The path of the socket that it listens on."""
        return "" if self._listener is None else str(self._listener.getsockname())

    def close(self) -> None:
        """Take no more connections and calls."""
        if self._listener is not None:
            self._loop.unwatch(self._listener.fileno())
            self._listener.close()
        for connection in list(self._connections):
            connection.socket.close()

    @property
    def rests(self) -> bool:
        """Whether nothing is on its way but answers to calls that rest (`orlop_shim.loop.Loop.rest`)."""
        return all(connection.rests for connection in self._connections)

    def save(self, bag: Bag) -> Values:
        """What `restore` takes."""
        assert self._listener is not None
        return {
            "listener": bag.put(self._listener.fileno()),
            "connections": [connection.save(bag) for connection in self._connections],
        }

    def restore(self, saved: Values, bag: Bag) -> None:
        """Go on where another worker left."""
        self.listen(_socket(bag.take(saved["listener"])))
        for item in saved["connections"]:
            self._take_in(_socket(bag.take(item["socket"]))).restore(item)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self._log.warning(f"a connection could not be accepted: {error.strerror}")
            return
        _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid != os.geteuid():
            self._log.warning(f"a connection of user {uid} was refused")
            sock.close()
            return
        self._take_in(sock)

    def _take_in(self, sock: socket.socket) -> _Connection:
        connection = _Connection(self, sock)
        self._connections.add(connection)
        connection.socket.closed.then(lambda: self._connections.discard(connection))
        return connection

    def find(self, service: str, name: str) -> Method:
        """The method of a call. Raises `Unimplemented`."""
        method = self._methods.get(f"{service}/{name}")
        if method is None:
            raise Unimplemented(f"method {name}" if service in self._services else f"service {service}")
        return method

    def begin(self, work: Coroutine[Promise, None, None]) -> None:
        """Work on a call."""
        self._loop.begin(work)

    def socket(self, sock: socket.socket, received: Callable[[frames.Frame], None]) -> Socket:
        """A connection's socket on the loop."""
        return Socket(self._loop, sock, received)

    def failed(self, name: str, error: Exception) -> None:
        """Note a call that failed for no reason that its caller knows."""
        self._log.error(f"{name}: {type(error).__name__}: {error}")


def _socket(fd: int) -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fd)


class _Connection:
    def __init__(self, server: Server, sock: socket.socket) -> None:
        self._server = server
        self._last = 0
        self._calls: dict[int, bytes] = {}
        self.socket = server.socket(sock, self._frame)

    @property
    def rests(self) -> bool:
        return self.socket.rests

    def save(self, bag: Bag) -> Values:
        return {"socket": bag.put(self.socket.fileno()), "last": self._last, "calls": self._calls}

    def restore(self, saved: Values) -> None:
        self._last = saved["last"]
        # Calls that rest are those that wait for something, and may do so once more.
        for stream, data in saved["calls"].items():
            self._server.begin(self._answer(stream, data))

    def _frame(self, frame: frames.Frame) -> None:
        if frame.kind != frames.REQUEST:
            return
        problem = self._problem(frame)
        if problem is not None:
            self._fail(frame.stream, problem)
            return
        self._last = frame.stream
        self._server.begin(self._answer(frame.stream, frame.data))

    def _problem(self, frame: frames.Frame) -> OrlopError | None:
        if frame.dropped:
            try:
                frames.check_size(frame.dropped)
            except OrlopError as error:
                return error
        if frame.stream % 2 == 0:
            return InvalidArgument(f"stream {frame.stream}: clients' streams have odd numbers")
        if frame.stream <= self._last:
            return InvalidArgument("StreamID cannot be reused and must increment")
        return None

    async def _answer(self, stream: int, data: bytes) -> None:
        name = "call"
        self._calls[stream] = data
        try:
            request = REQUEST.decode(data)
            name = request["method"]
            method = self._server.find(request["service"], name)
            values = method.request.decode(request["payload"])
            payload = method.answer.encode(**await method.handler(values))
            answer = frames.encode(stream, frames.RESPONSE, 0, RESPONSE.encode(payload=payload))
        except WireError as error:
            self._fail(stream, InvalidArgument(f"{name}: {error}"))
        except Exception as error:  # noqa: BLE001 - the edge of the process: the caller has to get an answer
            if not isinstance(error, (OrlopError, OSError)):
                self._server.failed(name, error)
            self._fail(stream, error)
        else:
            self.socket.send(answer)
        finally:
            del self._calls[stream]

    def _fail(self, stream: int, error: Exception) -> None:
        text = str(error) or type(error).__name__
        code = error.code if isinstance(error, OrlopError) else _UNKNOWN
        status = {"code": code, "message": text}
        self.socket.send(frames.encode(stream, frames.RESPONSE, 0, RESPONSE.encode(status=status)))
