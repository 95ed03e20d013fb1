# SPDX-License-Identifier: Apache-2.0
"""A channel inside one process: calls reach the handlers directly, without socket, server or grpc.

To a client it behaves as a remote daemon would: messages are copied both ways, so neither side sees what the other
does to its own later; each call runs in a task and a context of its own; errors are those of `orlop.errors`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from orlop.errors import DeadlineExceeded, Unimplemented
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.rpc.channel import Metadata, closing, incoming
from orlop_sdk.rpc.status import failure

T = TypeVar("T")


class LocalChannel:
    """Calls the methods of a table, which may change while the channel lives.

    ``methods`` maps full paths to methods; a path that is not in it when a call is made is `Unimplemented`.
    """

    def __init__(self, methods: Mapping[str, RpcMethod]) -> None:
        self._methods = methods

    def unary_unary(self, method: str, *_codecs: Any) -> Callable[..., Coroutine[Any, Any, Any]]:
        """A callable for a method with one request and one response, which is awaited."""

        async def call(request: Any, *, timeout: float | None = None, metadata: Metadata | None = None) -> Any:
            return await self._one(method, lambda found: _copy(found.request, request), timeout, metadata or ())

        return call

    def stream_unary(self, method: str, *_codecs: Any) -> Callable[..., Coroutine[Any, Any, Any]]:
        """A callable for a method with many requests and one response, which is awaited."""

        async def call(
            requests: AsyncIterable[Any], *, timeout: float | None = None, metadata: Metadata | None = None
        ) -> Any:
            return await self._one(method, lambda found: _copies(found.request, requests), timeout, metadata or ())

        return call

    def unary_stream(self, method: str, *_codecs: Any) -> Callable[..., LocalStream]:
        """A callable for a method with one request and many responses; `LocalStream` is iterated over."""

        def call(request: Any, *, timeout: float | None = None, metadata: Metadata | None = None) -> LocalStream:
            return self._many(method, lambda found: _copy(found.request, request), timeout, metadata or ())

        return call

    def stream_stream(self, method: str, *_codecs: Any) -> Callable[..., LocalStream]:
        """A callable for a method with many requests and many responses."""

        def call(
            requests: AsyncIterable[Any], *, timeout: float | None = None, metadata: Metadata | None = None
        ) -> LocalStream:
            return self._many(method, lambda found: _copies(found.request, requests), timeout, metadata or ())

        return call

    async def _one(
        self, path: str, argument: Callable[[RpcMethod], Any], timeout: float | None, metadata: Metadata
    ) -> Any:
        async def run() -> Any:
            method = self._find(path)
            return _copy(method.response, await method.handler(argument(method)))

        # A task, so that context variables which the handler sets stay its own.
        return await asyncio.create_task(_guarded(path, run(), timeout, incoming(metadata)))

    def _many(
        self, path: str, argument: Callable[[RpcMethod], Any], timeout: float | None, metadata: Metadata
    ) -> LocalStream:
        # One message at a time: a handler never runs further ahead of its reader than over a wire.
        queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)

        async def run() -> None:
            method = self._find(path)
            async with closing(method.handler(argument(method))) as responses:
                async for response in responses:
                    await queue.put(_copy(method.response, response))

        return LocalStream(queue, asyncio.create_task(_guarded(path, run(), timeout, incoming(metadata))))

    def _find(self, path: str) -> RpcMethod:
        method = self._methods.get(path)
        if method is None:
            raise Unimplemented(f'method "{path}": no such method is served here')
        return method


class LocalStream(AsyncIterator[Any]):
    """The responses of a call under way. Cancel it, or drop it, to leave early."""

    def __init__(self, queue: asyncio.Queue[Any], task: asyncio.Task[None]) -> None:
        self._queue = queue
        self._task = task

    async def __anext__(self) -> Any:
        if self._queue.empty() and not self._task.done():
            getter = asyncio.ensure_future(self._queue.get())
            try:
                await asyncio.wait((getter, self._task), return_when=asyncio.FIRST_COMPLETED)
                if getter.done():
                    return getter.result()
            finally:
                getter.cancel()
        if not self._queue.empty():
            return self._queue.get_nowait()
        self._task.result()
        raise StopAsyncIteration

    def cancel(self) -> bool:
        """Give the call up; False when it had ended."""
        return self._task.cancel()

    def __del__(self) -> None:
        if not self._task.done() and not self._task.get_loop().is_closed():
            self._task.cancel()


async def _guarded(
    path: str, call: Coroutine[Any, Any, T], timeout: float | None, scope: AbstractContextManager[None]
) -> T:
    """Run a handler as a server would: in its scope, with its deadline, its errors made ours."""
    deadline = asyncio.timeout(timeout)
    try:
        with scope:
            async with deadline:
                return await call
    # Whatever a handler raises has to reach the client as one of our errors; `failure` logs what is a bug.
    except Exception as error:
        if deadline.expired():
            raise DeadlineExceeded(f'method "{path}": no answer within {timeout:g} seconds') from error
        told = failure(error, path)
        if told is error:
            raise
        raise told from error


def _copy(kind: type[Any], message: Any) -> Any:
    return kind.FromString(message.SerializeToString())


async def _copies(kind: type[Any], messages: AsyncIterable[Any]) -> AsyncIterator[Any]:
    async with closing(messages) as source:
        async for message in source:
            yield _copy(kind, message)
