# SPDX-License-Identifier: Apache-2.0
"""A ttrpc server over the tables of `orlop_sdk.rpc.service`, which may change while it serves.

::

    server = Server(methods, same_user=True)
    await server.listen("/run/orlop/orlop.sock.ttrpc")
    ...
    await server.close()
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from orlop.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    OrlopError,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.api.ttrpc.ttrpc_pb2 import Request, Response
from orlop_sdk.progress import Progress
from orlop_sdk.rpc.channel import closing, incoming
from orlop_sdk.rpc.messages import decode, decoded
from orlop_sdk.rpc.status import failure, to_status
from orlop_sdk.ttrpc.connection import Connection, Inbox, socket_path
from orlop_sdk.ttrpc.frames import DATA, NO_DATA, REMOTE_CLOSED, REQUEST, RESPONSE, Frame, check_size

log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")
_BACKLOG = 128


class Server:
    """Listens on unix sockets and answers every method that is in a table at the time of the call.

    ``methods`` maps full paths (``/package.Service/Method``) to methods. With *same_user*, only processes of this one's
    effective user and group may connect. Handlers run concurrently, in the namespace that the call's metadata name, and
    are cancelled when their client goes away.
    """

    def __init__(self, methods: Mapping[str, RpcMethod], *, same_user: bool = False) -> None:
        self.methods = methods
        self._same_user = same_user
        self._listeners: list[asyncio.Server] = []
        self._made: list[Path] = []
        self._connections: set[_ServerConnection] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    async def listen(self, address: str, *, mode: int = 0o660) -> None:
        """Listen on ``unix:///path``, ``/path`` or ``@name`` (abstract); *mode* is that of the socket file.

        A socket file that is there already is replaced. Raises `Unavailable` naming the address when it cannot listen.
        """
        path = socket_path(address)
        try:
            listener = _bind(path, mode)
        except OSError as error:
            raise Unavailable(f'ttrpc address "{address}": {error.strerror or error}') from error
        if path[0] != "\0":
            self._made.append(Path(path))
        await self.serve(listener)

    async def serve(self, listener: socket.socket) -> None:
        """Accept from a socket that is bound already."""
        loop = asyncio.get_running_loop()
        self._listeners.append(await loop.create_unix_server(self.protocol, sock=listener, backlog=_BACKLOG))

    def protocol(self) -> asyncio.Protocol:
        """A new connection's protocol, to run over any other transport."""
        return _ServerConnection(self, same_user=self._same_user)

    async def close(self, grace: float = 5.0) -> None:
        """Stop listening, let calls under way end within *grace* seconds, and cancel the rest. May be called twice."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for connection in list(self._connections):
            connection.finish()
        try:
            async with asyncio.timeout(grace):
                await self._empty.wait()
        except TimeoutError:
            log.warning(
                "ttrpc: %d connections still busy after %g seconds: closing them", len(self._connections), grace
            )
        for connection in list(self._connections):
            connection.abort()
        await self._empty.wait()
        for path in self._made:
            path.unlink(missing_ok=True)
        self._made.clear()

    def opened(self, connection: _ServerConnection) -> None:
        """Keep track of a connection."""
        self._connections.add(connection)
        self._empty.clear()

    def closed(self, connection: _ServerConnection) -> None:
        """Forget a connection that has no task left."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()


class _Call:
    """One call under way."""

    def __init__(self, connection: Connection, stream: int) -> None:
        self.stream = stream
        self.inbox = Inbox(connection)
        self.task: asyncio.Task[None] | None = None


class _ServerConnection(Connection):
    def __init__(self, server: Server, *, same_user: bool) -> None:
        super().__init__()
        self._server = server
        self._same_user = same_user
        self._calls: dict[int, _Call] = {}
        self._last = 0
        self._finishing = False
        self._gone = False
        self._steps = 0
        self._progress = Progress(self._incomplete, self._late)

    def finish(self) -> None:
        """Take no more calls, and close once those under way have ended."""
        self._finishing = True
        if not self._calls:
            self.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.opened(self)
        if self._same_user and not _is_same_user(transport.get_extra_info("socket")):
            log.warning("ttrpc: refused a client of another user")
            self._finishing = True
            transport.abort()  # type: ignore[attr-defined]  # BaseTransport lacks it, every real one has it

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._progress.look()

    def ended(self, error: Exception | None) -> None:
        self._gone = True
        self._progress.stop()
        for call in self._calls.values():
            call.inbox.end(Unavailable("ttrpc connection: closed by the client"))
            if call.task is not None:
                call.task.cancel()
        self._settle()

    def frame_received(self, frame: Frame) -> None:
        self._steps += 1
        if frame.dropped:
            self._refuse(frame.stream, ResourceExhausted(f"message of {frame.dropped} bytes: longer than ttrpc allows"))
        elif frame.stream % 2 == 0:
            self._refuse(frame.stream, InvalidArgument(f"stream {frame.stream}: clients use odd numbers"))
        elif frame.kind == REQUEST:
            self._begin(frame)
        elif frame.kind == DATA:
            self._data(frame)

    def _begin(self, frame: Frame) -> None:
        try:
            if frame.stream <= self._last:
                raise InvalidArgument(f"stream {frame.stream}: numbers cannot be reused and must increase")
            self._last = frame.stream
            if self._finishing:
                raise Unavailable("ttrpc server: shutting down")
            request = Request.FromString(frame.data)
            method = self._find(request)
        except OrlopError as error:
            self._respond(frame.stream, error)
            return
        except DecodeError:
            self._respond(frame.stream, InvalidArgument(f"frame of {len(frame.data)} bytes: not a ttrpc.Request"))
            return
        call = self._calls[frame.stream] = _Call(self, frame.stream)
        if method.client_streaming:
            if request.payload:
                call.inbox.put(request.payload)
            if frame.flags & REMOTE_CLOSED:
                call.inbox.end()
        call.task = asyncio.create_task(self._run(call, method, request))
        # A callback, as a task that is cancelled before its first step runs no `finally`.
        call.task.add_done_callback(lambda _: self._done(call))

    def _find(self, request: Request) -> RpcMethod:
        method = self._server.methods.get(f"/{request.service}/{request.method}")
        if method is None:
            prefix = f"/{request.service}/"
            known = any(path.startswith(prefix) for path in self._server.methods)
            raise Unimplemented(f"method {request.method}" if known else f"service {request.service}")
        return method

    def _data(self, frame: Frame) -> None:
        call = self._calls.get(frame.stream)
        if call is None:
            # Data may cross the end of its call. Of a stream that never was, it is a mistake.
            if frame.stream > self._last:
                self._respond(frame.stream, InvalidArgument(f"stream {frame.stream}: data before a request"))
        elif frame.flags & REMOTE_CLOSED and frame.data:
            self._refuse(frame.stream, InvalidArgument(f"stream {frame.stream}: the closing frame cannot carry data"))
        else:
            if not frame.flags & (NO_DATA | REMOTE_CLOSED):
                call.inbox.put(frame.data)
            if frame.flags & REMOTE_CLOSED:
                call.inbox.end()

    def _refuse(self, stream: int, error: OrlopError) -> None:
        """Answer a stream with an error; its call, if there is one, is over."""
        call = self._calls.pop(stream, None)
        if call is not None and call.task is not None:
            call.task.cancel()
        self._respond(stream, error)

    async def _run(self, call: _Call, method: RpcMethod, request: Request) -> None:
        path = f"/{request.service}/{request.method}"
        deadline = asyncio.timeout(request.timeout_nano / 1e9 if request.timeout_nano > 0 else None)
        try:
            with incoming((pair.key, pair.value) for pair in request.metadata):
                async with deadline:
                    await self._answer(call, method, request)
        except asyncio.CancelledError:
            self._fail(call, Cancelled(f'method "{path}": cancelled'))
            raise
        # The edge: whatever a handler raises, the client gets a status; `failure` logs what is a bug.
        except Exception as raised:  # noqa: BLE001
            late = DeadlineExceeded(f'method "{path}": the deadline has passed')
            self._fail(call, late if deadline.expired() else failure(raised, path))

    async def _answer(self, call: _Call, method: RpcMethod, request: Request) -> None:
        argument = decoded(method, call.inbox) if method.client_streaming else decode(method, request.payload)
        if not method.server_streaming:
            response = await method.handler(argument)
            payload = response.SerializeToString()
            check_size(len(payload))
            self._last_frame(call, RESPONSE, 0, Response(payload=payload).SerializeToString())
            return
        async with closing(method.handler(argument)) as responses:
            async for response in responses:
                await self.send_data(call.stream, response.SerializeToString())
        self._last_frame(call, DATA, REMOTE_CLOSED | NO_DATA, b"")

    def _fail(self, call: _Call, error: OrlopError) -> None:
        # A call that was refused meanwhile has its answer already.
        if call.stream in self._calls:
            self._respond(call.stream, error)

    def _done(self, call: _Call) -> None:
        call.inbox.drop()
        self._calls.pop(call.stream, None)
        self._settle()

    def _last_frame(self, call: _Call, kind: int, flags: int, data: bytes) -> None:
        if call.stream in self._calls and self.is_open:
            self.send(call.stream, kind, flags, data)

    def _respond(self, stream: int, error: OrlopError) -> None:
        if self.is_open:
            self.send(stream, RESPONSE, 0, Response(status=to_status(error)).SerializeToString())

    def _incomplete(self) -> int | None:
        """See `Progress`. While we do not read, it is not the peer who is slow."""
        return self._steps if self.is_open and self.is_reading and self._decoder.is_within else None

    def _late(self) -> None:
        log.warning("ttrpc: hung up on a client that did not complete a frame")
        self.abort()

    def _settle(self) -> None:
        if self._calls:
            return
        if self._gone:
            self._server.closed(self)
        elif self._finishing:
            self.close()


def _bind(path: str, mode: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path[0] != "\0" and os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
        listener.bind(path)
        if path[0] != "\0":
            os.chmod(path, mode)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _is_same_user(peer: Any) -> bool:
    size = _CREDENTIALS.size
    _, uid, gid = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return (uid, gid) == (os.geteuid(), os.getegid())
