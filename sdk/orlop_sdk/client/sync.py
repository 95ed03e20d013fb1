# SPDX-License-Identifier: Apache-2.0
r"""The client with blocking calls, for programs without asyncio.

::

    from orlop_sdk.client.sync import Client

    with Client(namespace="demo") as client:
        client.pull("docker.io/library/busybox:latest")
        print(client.run("docker.io/library/busybox:latest", "echo", "hello").stdout)
        for image in client.images.list():
            print(image.name)

It has the methods of `orlop_sdk.client.Client`, and so has everything it returns: a coroutine is a call, an async
iterator a plain one, an ``async with`` a ``with``. One thread runs the event loop; any number of threads may call. A
lease taken with ``with client.lease()`` counts for the thread that took it. The types are in ``sync.pyi``, which
`orlop_sdk.client.stub` makes.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

from orlop.errors import FailedPrecondition
from orlop_sdk.client import client as asynchronous


class LoopThread:
    """An event loop in a thread of its own, to run coroutines from others."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="orlop-client", daemon=True)
        self._contexts = threading.local()
        self._closed = False
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call *function* on the loop, await what it returns if it is awaitable, and return or raise the outcome.

        An interrupted caller cancels the call and waits for it to end.
        """
        if self._closed:
            raise FailedPrecondition("client: closed")
        if threading.current_thread() is self._thread:
            raise FailedPrecondition("client: a blocking call on the client's own event loop would wait for itself")
        outcome: Future[Any] = Future()
        context = self._context()
        tasks: list[asyncio.Task[Any]] = []

        def begin() -> None:
            # One context for each calling thread: what a call sets (a lease) is there in the thread's next one.
            task = self._loop.create_task(_call(function, args, kwargs), context=context)
            tasks.append(task)
            task.add_done_callback(functools.partial(_settle, outcome))

        self._loop.call_soon_threadsafe(begin)
        try:
            return outcome.result()
        except BaseException:
            if not outcome.done():
                self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in tasks])
            raise

    def _context(self) -> contextvars.Context:
        if not hasattr(self._contexts, "value"):
            self._contexts.value = contextvars.copy_context()
        found: contextvars.Context = self._contexts.value
        return found

    def close(self) -> None:
        """Stop the loop and end the thread. May be called twice."""
        if not self._closed:
            self._closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()


async def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = function(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


def _settle(outcome: Future[Any], task: asyncio.Task[Any]) -> None:
    if task.cancelled():
        outcome.cancel()
    elif (error := task.exception()) is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(task.result())


class Blocking:
    """Any object with async methods, with blocking ones."""

    def __init__(self, target: Any, thread: LoopThread) -> None:
        self._target = target
        self._thread = thread

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value) or isinstance(value, type):
            return blocking(value, self._thread)

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            plain = [plain_of(each) for each in args]
            named = {key: plain_of(each) for key, each in kwargs.items()}
            return blocking(self._thread.call(value, *plain, **named), self._thread)

        return call

    def __repr__(self) -> str:
        return f"blocking {self._target!r}"

    def __enter__(self) -> Any:
        entered = self._thread.call(type(self._target).__aenter__, self._target)
        return self if entered is self._target else blocking(entered, self._thread)

    def __exit__(self, *error: Any) -> bool | None:
        outcome: bool | None = self._thread.call(type(self._target).__aexit__, self._target, *error)
        return outcome

    def __iter__(self) -> Iterator[Any]:
        iterator = self._thread.call(aiter, self._target)
        while (item := self._thread.call(_next, iterator)) is not _END:
            yield blocking(item, self._thread)

    def __next__(self) -> Any:
        item = self._thread.call(_next, self._target)
        if item is _END:
            raise StopIteration
        return blocking(item, self._thread)


_END = object()


async def _next(iterator: AsyncIterator[Any]) -> Any:
    return await anext(iterator, _END)


def blocking(value: Any, thread: LoopThread) -> Any:
    """*value* with blocking methods if it has async ones; anything else as it is."""
    if isinstance(value, Blocking) or not _is_async(type(value)):
        return value
    return Blocking(value, thread)


def plain_of(value: Any) -> Any:
    """What a blocking object wraps; anything else as it is."""
    return value._target if isinstance(value, Blocking) else value


@functools.cache
def _is_async(kind: type) -> bool:
    if issubclass(kind, AsyncIterable | AbstractAsyncContextManager):
        return True
    members = (inspect.getattr_static(kind, name) for name in dir(kind) if not name.startswith("_"))
    return any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in members)


class Client(Blocking):
    """A client with blocking calls; parameters are those of `orlop_sdk.client.Client`. Use it in ``with``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(asynchronous.Client(*args, **kwargs), LoopThread())

    @classmethod
    def embedded(cls, *args: Any, **kwargs: Any) -> Self:
        """A client that is its own daemon; see `orlop_sdk.client.Client.embedded`."""
        made = cls()
        made._target = asynchronous.Client.embedded(*args, **kwargs)
        return made

    def __enter__(self) -> Self:
        try:
            self._thread.call(self._target.connect)
        except BaseException:
            self._thread.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up and end the thread. May be called twice."""
        try:
            self._thread.call(self._target.close)
        except FailedPrecondition:
            return  # closed before
        self._thread.close()

    def blocking(self, value: Any) -> Any:
        """*value*, such as streams made by `orlop_sdk.client.stdio.pipes`, with blocking methods."""
        return blocking(value, self._thread)
