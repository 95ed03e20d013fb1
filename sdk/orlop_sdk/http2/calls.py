# SPDX-License-Identifier: Apache-2.0
"""One gRPC call: from the head of a request over its messages to the status that ends the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orlop import context
from orlop.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    OrlopError,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.http2 import frames
from orlop_sdk.http2.connection import Connection
from orlop_sdk.http2.heads import BEGIN, DONE, Head, failed
from orlop_sdk.http2.inbox import Inbox, prefix
from orlop_sdk.http2.stream import Stream
from orlop_sdk.rpc.channel import closing, set_trace
from orlop_sdk.rpc.edge import MAX_MESSAGE, argument, unserved
from orlop_sdk.rpc.status import failure

_LAST = frames.END_HEADERS | frames.END_STREAM


@dataclass(frozen=True, slots=True)
class Limits:
    """Most bytes of one message from a client, and to one."""

    receive: int = MAX_MESSAGE
    send: int = MAX_MESSAGE


class Call(Stream):
    """Answers with a method of *methods*, in a task that ends with the stream."""

    __slots__ = ("_begun", "_head", "_inbox", "_limits", "_method", "_methods", "_task", "_timer")

    def __init__(
        self, connection: Connection, id: int, head: Head, methods: Mapping[str, RpcMethod], limits: Limits
    ) -> None:
        super().__init__(connection, id, head.length)
        self._head = head
        self._methods = methods
        self._limits = limits
        self._inbox = Inbox(self, limits.receive, gzip=head.gzip)
        self._method: RpcMethod | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._begun = False

    # The connection's side.

    def opened(self) -> None:
        if self._head.refusal:
            self._finish(self._head.refusal)
            return
        self._method = self._methods.get(self._head.path)
        if self._method is None:
            self._fail(unserved(self._head.path, self._methods))
            return
        if self._head.timeout is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._head.timeout, self._expired)
        if self._method.client_streaming:
            self._task = self.connection.start(self._run(self._method))
        if self.remote_ended:
            self.ended()

    def data(self, data: bytes) -> None:
        try:
            self._inbox.feed(data)
            if len(self._inbox) > 1 and self._task is None:
                raise Unimplemented(f'method "{self._head.path}": takes one request')
        except OrlopError as error:
            self._fail(error)

    def ended(self) -> None:
        self._inbox.end()
        # What takes one request starts when that is known to be the only one.
        if self._task is None and self._method is not None:
            self._task = self.connection.start(self._run(self._method))

    def lost(self) -> None:
        self._leave()

    def shut(self) -> None:
        self._fail(Unavailable("server: shutting down"))

    # The answer.

    async def _run(self, method: RpcMethod) -> None:
        if self._head.trace:
            set_trace(self._head.trace)
        try:
            with context.scope(namespace=self._head.namespace, lease=self._head.lease):
                received = self._inbox if method.client_streaming else await self._only_request()
                if method.server_streaming:
                    await self._many(method, argument(method, received))
                else:
                    await self._one(method, argument(method, received))
        except asyncio.CancelledError:
            self._fail(Cancelled(f'method "{self._head.path}": cancelled'))
            raise
        # The edge: whatever a handler raises, the client gets a status; `failure` logs what is a bug.
        except Exception as raised:  # noqa: BLE001
            self._fail(failure(raised, self._head.path))

    async def _only_request(self) -> bytes:
        try:
            return await anext(self._inbox)
        except StopAsyncIteration:
            raise Internal(f'method "{self._head.path}": no request came') from None

    async def _one(self, method: RpcMethod, request: Any) -> None:
        response = await method.handler(request)
        await self._send(response.SerializeToString(), last=True)

    async def _many(self, method: RpcMethod, request: Any) -> None:
        async with closing(method.handler(request)) as responses:
            async for response in responses:
                await self._send(response.SerializeToString())
        self._end(self._done() if self._begun else self._beginning() + self._done())

    async def _send(self, message: bytes, *, last: bool = False) -> None:
        if self.local_ended:
            raise Unavailable(f"stream {self.id}: has ended")
        if len(message) > self._limits.send:
            raise ResourceExhausted(f"message of {len(message)} bytes: the most is {self._limits.send}")
        before = b"" if self._begun else self._beginning()
        self._begun = True
        # The client's end may come while a long message is sent, so what follows it is made up only then.
        after = self._done() if last and self.remote_ended else b""
        outlet = self.connection.outlet
        if outlet.send_at_once(self, before, (prefix(len(message)), message), after):
            if after:
                self.connection.ended(self)
                self._leave()
                return
        else:
            if before:
                outlet.control(before)
            await outlet.send(self, prefix(len(message)) + message)
        if last:
            self._end(self._done())

    def _beginning(self) -> bytes:
        return frames.encode(frames.HEADERS, frames.END_HEADERS, self.id, BEGIN)

    def _done(self) -> bytes:
        return frames.encode(frames.HEADERS, _LAST, self.id, DONE)

    # The end.

    def _fail(self, error: OrlopError) -> None:
        self._finish(failed(error, begun=self._begun))

    def _finish(self, block: bytes) -> None:
        self._end(frames.encode(frames.HEADERS, _LAST, self.id, block))

    def _end(self, last: bytes) -> None:
        if not self.local_ended:
            self.connection.end(self, last)
            self._leave()

    def _expired(self) -> None:
        self._fail(DeadlineExceeded(f'method "{self._head.path}": the deadline has passed'))

    def _leave(self) -> None:
        """Let go of everything; called by the task that answers too, which then is about to end."""
        if self._timer is not None:
            self._timer.cancel()
        self._inbox.drop()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
