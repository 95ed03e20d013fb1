# SPDX-License-Identifier: Apache-2.0
"""A ttrpc client: one connection, any number of calls at a time.

::

    client = await Client.connect("unix:///run/containerd/s/…")
    task = Stub(client, "containerd.task.v2.Task")
    state = await task.State(StateRequest(id="c1"), timeout=2)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from typing import Any, Self

from google.protobuf.message import DecodeError

from orlop import context
from orlop.errors import DeadlineExceeded, Internal, OrlopError, ResourceExhausted, Unavailable
from orlop_sdk.api.ttrpc.ttrpc_pb2 import KeyValue, Request, Response
from orlop_sdk.rpc.channel import Metadata, closing
from orlop_sdk.rpc.status import from_status
from orlop_sdk.ttrpc.connection import Connection, Inbox, socket_path
from orlop_sdk.ttrpc.frames import DATA, NO_DATA, REMOTE_CLOSED, REMOTE_OPEN, REQUEST, RESPONSE, Frame

Serializer = Callable[[Any], bytes]
Deserializer = Callable[[bytes], Any]
OnClose = Callable[[], None]


class Client:
    """A channel for stubs, over one connection.

    When the connection ends, for whatever reason, every call under way and every later one raises `Unavailable`, and
    *on_close* is called once. There is no reconnecting: make another client.
    """

    def __init__(self, on_close: OnClose | None = None) -> None:
        self._connection = _ClientConnection(on_close)

    @classmethod
    async def connect(cls, address: str, *, on_close: OnClose | None = None) -> Self:
        """Connect to ``unix:///path``, ``/path`` or ``@name`` (abstract).

        Raises `Unavailable` when nobody listens there, `InvalidArgument` for an address of another kind.
        """
        path = socket_path(address)
        client = cls(on_close)
        try:
            await asyncio.get_running_loop().create_unix_connection(client.protocol, path)
        except OSError as error:
            raise Unavailable(f'ttrpc address "{address}": {error.strerror or error}') from error
        return client

    def protocol(self) -> asyncio.Protocol:
        """The connection's protocol, to run over any other transport."""
        return self._connection

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return self._connection.is_open

    async def close(self) -> None:
        """Close the connection; calls under way raise `Unavailable`. May be called twice."""
        self._connection.close()
        await self._connection.gone.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def unary_unary(
        self, method: str, encode: Serializer, decode: Deserializer
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """A callable for a method with one request and one response, which is awaited."""

        async def call(request: Any, *, timeout: float | None = None, metadata: Metadata | None = None) -> Any:
            first = _request(method, encode(request), timeout, metadata)
            return await self._connection.one(first, None, timeout, decode)

        return call

    def stream_unary(
        self, method: str, encode: Serializer, decode: Deserializer
    ) -> Callable[..., Coroutine[Any, Any, Any]]:
        """A callable for a method with many requests and one response, which is awaited."""

        async def call(
            requests: AsyncIterable[Any], *, timeout: float | None = None, metadata: Metadata | None = None
        ) -> Any:
            first = _request(method, b"", timeout, metadata)
            return await self._connection.one(first, _encoded(encode, requests), timeout, decode)

        return call

    def unary_stream(self, method: str, encode: Serializer, decode: Deserializer) -> Callable[..., ClientStream]:
        """A callable for a method with one request and many responses."""

        def call(request: Any, *, timeout: float | None = None, metadata: Metadata | None = None) -> ClientStream:
            first = _request(method, encode(request), timeout, metadata)
            return self._connection.many(first, None, timeout, decode)

        return call

    def stream_stream(self, method: str, encode: Serializer, decode: Deserializer) -> Callable[..., ClientStream]:
        """A callable for a method with many requests and many responses."""

        def call(
            requests: AsyncIterable[Any], *, timeout: float | None = None, metadata: Metadata | None = None
        ) -> ClientStream:
            first = _request(method, b"", timeout, metadata)
            return self._connection.many(first, _encoded(encode, requests), timeout, decode)

        return call


class ClientStream(AsyncIterator[Any]):
    """The responses of a call under way. Cancel it, or drop it, to leave early."""

    def __init__(self, call: _Call, decode: Deserializer) -> None:
        self._call = call
        self._decode = decode

    async def __anext__(self) -> Any:
        return _decode(self._decode, await anext(self._call.inbox))

    def cancel(self) -> bool:
        """Stop listening; False when the call had ended. The server is not told: ttrpc has no way to."""
        return self._call.leave()

    def __del__(self) -> None:
        self._call.leave()


class _Call:
    """One call under way: where its frames go, and what has to be undone at its end."""

    def __init__(self, connection: _ClientConnection, stream: int, method: str) -> None:
        self.inbox = Inbox(connection)
        self.stream = stream
        self._connection = connection
        self._method = method
        self._sender: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, requests: AsyncIterable[bytes] | None, timeout: float | None) -> None:
        """Set the deadline and begin to send what follows the first frame."""
        if timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(max(timeout, 0), self._late, timeout)
        if requests is not None:
            self._sender = asyncio.create_task(self._send(requests))

    def frame(self, frame: Frame) -> None:
        """Take in a frame of this call."""
        if frame.dropped:
            self.end(ResourceExhausted(f"response of {frame.dropped} bytes: longer than ttrpc allows"))
        elif frame.kind == RESPONSE:
            self._response(frame.data)
        elif frame.kind == DATA:
            if not frame.flags & NO_DATA:
                self.inbox.put(frame.data)
            if frame.flags & REMOTE_CLOSED:
                self.end()

    def end(self, error: OrlopError | None = None) -> None:
        """No frame follows."""
        self._connection.forget(self)
        self.inbox.end(error)
        if self._timer is not None:
            self._timer.cancel()
        if self._sender is not None:
            self._sender.cancel()

    def leave(self) -> bool:
        """Nobody reads the responses any more; False when the call had ended anyway."""
        listening = self._connection.forget(self)
        if listening:
            self._hang_up()
            self.end()
        self.inbox.drop()
        return listening

    def _response(self, data: bytes) -> None:
        try:
            response = Response.FromString(data)
        except DecodeError:
            self.end(Internal(f'method "{self._method}": malformed response'))
            return
        if response.status.code:
            self.end(from_status(response.status))
            return
        self.inbox.put(response.payload)
        self.end()

    def _hang_up(self) -> None:
        # All that ttrpc can say: no request follows. It keeps a handler from waiting for one.
        if self._sender is not None and not self._sender.done() and self._connection.is_open:
            self._connection.send(self.stream, DATA, REMOTE_CLOSED | NO_DATA)

    def _late(self, timeout: float) -> None:
        self._hang_up()
        self.end(DeadlineExceeded(f'method "{self._method}": no answer within {timeout:g} seconds'))

    async def _send(self, requests: AsyncIterable[bytes]) -> None:
        try:
            async with closing(requests) as messages:
                async for message in messages:
                    await self._connection.send_data(self.stream, message)
            self._connection.send(self.stream, DATA, REMOTE_CLOSED | NO_DATA)
        except OrlopError as error:
            self.end(error)
        # The caller's own iterator failed; the error must reach whoever reads the responses, not get lost in a task.
        except Exception as error:  # noqa: BLE001
            failed = Internal(f'method "{self._method}": the requests ended with {type(error).__name__}: {error}')
            failed.__cause__ = error
            self.end(failed)


class _ClientConnection(Connection):
    def __init__(self, on_close: OnClose | None) -> None:
        super().__init__()
        self.gone = asyncio.Event()
        self._on_close = on_close
        self._calls: dict[int, _Call] = {}
        self._next = 1

    async def one(
        self, first: Request, requests: AsyncIterable[bytes] | None, timeout: float | None, decode: Deserializer
    ) -> Any:
        """Make a call with one response and wait for it."""
        call = self._start(first, requests, 0 if requests is None else REMOTE_OPEN, timeout)
        try:
            payload = await anext(call.inbox, None)
        finally:
            call.leave()
        if payload is None:
            raise Internal(f'method "/{first.service}/{first.method}": ended without a response')
        return _decode(decode, payload)

    def many(
        self, first: Request, requests: AsyncIterable[bytes] | None, timeout: float | None, decode: Deserializer
    ) -> ClientStream:
        """Make a call with many responses."""
        flags = REMOTE_CLOSED if requests is None else REMOTE_OPEN
        return ClientStream(self._start(first, requests, flags, timeout), decode)

    def forget(self, call: _Call) -> bool:
        """Drop later frames of a call; False when it was forgotten already."""
        return self._calls.pop(call.stream, None) is not None

    def frame_received(self, frame: Frame) -> None:
        call = self._calls.get(frame.stream)
        if call is not None:
            call.frame(frame)

    def ended(self, error: Exception | None) -> None:
        reason = f"ttrpc connection: lost: {error}" if error else "ttrpc connection: closed"
        for call in list(self._calls.values()):
            call.end(Unavailable(reason))
        self.gone.set()
        if self._on_close is not None:
            self._on_close()

    def _start(self, first: Request, requests: AsyncIterable[bytes] | None, flags: int, timeout: float | None) -> _Call:
        call = _Call(self, self._next, f"/{first.service}/{first.method}")
        self.send(call.stream, REQUEST, flags, first.SerializeToString())
        self._next += 2
        self._calls[call.stream] = call
        call.start(requests, timeout)
        return call


def _request(method: str, payload: bytes, timeout: float | None, metadata: Metadata | None) -> Request:
    _, service, name = method.split("/")
    nanoseconds = 0 if timeout is None else max(int(timeout * 1e9), 1)
    return Request(
        service=service,
        method=name,
        payload=payload,
        timeout_nano=nanoseconds,
        metadata=[_pair(key.lower(), value) for key, value in metadata or ()],
    )


def _pair(key: str, value: str | bytes) -> KeyValue:
    # The namespace has a name of its own in ttrpc.
    name = context.TTRPC_NAMESPACE_HEADER if key == context.NAMESPACE_HEADER else key
    return KeyValue(key=name, value=value if isinstance(value, str) else value.decode())


def _decode(decode: Deserializer, payload: bytes) -> Any:
    try:
        return decode(payload)
    except DecodeError as error:
        raise Internal(f"response of {len(payload)} bytes: malformed") from error


async def _encoded(encode: Serializer, requests: AsyncIterable[Any]) -> AsyncIterator[bytes]:
    async with closing(requests) as messages:
        async for message in messages:
            yield encode(message)
