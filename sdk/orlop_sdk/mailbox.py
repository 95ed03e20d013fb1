# SPDX-License-Identifier: Apache-2.0
"""From one task that puts to one that takes, with room for so many items in between, and with an end.

::

    box = Mailbox[bytes]()
    await box.put(b"...")           # returns when it was taken
    box.end()                       # what is in it can still be taken
    while (item := await box.get()) is not None: ...
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, Self, TypeVar

from orlop.errors import OrlopError, Unavailable

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Also an async iterator over what is put, which may be left at any time.

    `put` returns when no more than *room* items wait; without room, when the item itself was taken.
    """

    def __init__(self, room: int = 0) -> None:
        self._room = room
        self._items: deque[T] = deque()
        self._count = 0
        self._taken = 0
        self._ended = False
        self._error: OrlopError | None = None
        self._taker: asyncio.Future[None] | None = None
        self._putter: asyncio.Future[None] | None = None

    async def put(self, item: T) -> None:
        """Hand an item over. Raises `Unavailable` after `end`; one that was being put then can still be taken."""
        if self._ended:
            raise Unavailable("stream: has ended")
        self._items.append(item)
        self._count += 1
        ticket = self._count - self._room
        _wake(self._taker)
        while self._taken < ticket and not self._ended:
            self._putter = asyncio.get_running_loop().create_future()
            await self._putter

    async def get(self) -> T | None:
        """The next item; None after the last one, or the error that it ended with is raised."""
        while not self._items:
            if self._ended:
                if self._error is not None:
                    raise self._error
                return None
            self._taker = asyncio.get_running_loop().create_future()
            await self._taker
        self._taken += 1
        _wake(self._putter)
        return self._items.popleft()

    def end(self, error: OrlopError | None = None) -> None:
        """Nothing follows; whoever takes gets *error* after the rest. The first end counts."""
        if not self._ended:
            self._ended = True
            self._error = error
            _wake(self._taker)
            _wake(self._putter)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        item = await self.get()
        if item is None:
            raise StopAsyncIteration
        return item


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
