# SPDX-License-Identifier: Apache-2.0
"""Blocking calls one after another, for what must have a single user, with group commit."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class SerialWorker:
    """One thread that runs calls one after another, in order: for what must have a single user.

    `batch`, if given, gets all calls that are waiting and runs them together (group commit); it must call each.
    """

    def __init__(self, name: str, batch: Callable[[list[Call]], None] | None = None, most: int = 256) -> None:
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._batch = batch or _one_by_one
        self._most = most
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Queue a call and wait for it. It runs even if the caller is cancelled meanwhile.

        Raises `RuntimeError` after `close`.
        """
        call = Call(function, args, kwargs)
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self._thread.name}: closed")
            self._queue.put(call)
        result: T = await call.future
        return result

    def close(self) -> None:
        """Run what is queued, then end. May be called twice."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            calls = [call]
            last = False
            while len(calls) < self._most and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    last = True
                    break
                calls.append(following)
            self._batch(calls)
            if last:
                return


class Call:
    """A queued call and the future of its result, which belongs to the event loop that it was made on."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Not one of concurrent.futures: a lock, and several turns of the loop, for each write.
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()
        self._function, self._args, self._kwargs = function, args, kwargs

    def run(self) -> None:
        """Run it and settle the future."""
        result, error = self.attempt()
        self.settle(result, error)

    def attempt(self) -> tuple[Any, BaseException | None]:
        """Run it without settling, for a batch that has to commit first."""
        try:
            return self._function(*self._args, **self._kwargs), None
        except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits for the future
            return None, error

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Give the waiter its answer, if it still waits. To be called in the thread."""
        with suppress(RuntimeError):  # a loop that is closed has no waiters
            self._loop.call_soon_threadsafe(self._settle, result, error)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


def _one_by_one(calls: list[Call]) -> None:
    for call in calls:
        call.run()
