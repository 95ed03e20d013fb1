# SPDX-License-Identifier: Apache-2.0
"""One blob by several requests at a time, for registries that limit the speed of each connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

#: Below this, parts are not worth a request (bytes); containerd's limit.
SMALLEST: Final = 512

#: Gives the bytes from an offset to another.
Section = Callable[[int, int], AsyncGenerator[bytes, None]]


class RangesIgnored(Exception):
    """The server sends the whole where a part was asked for."""


class Parts:
    """Parts of *size* bytes, *at_once* of them requested at a time, by all blobs together.

    Parts are held in memory until their turn comes: *at_once* of each blob at most. Belongs to one event loop.
    """

    def __init__(self, size: int, at_once: int) -> None:
        self._size = size
        self._at_once = at_once
        self._slots = asyncio.Semaphore(at_once)

    def split(self, length: int) -> bool:
        """Whether so many bytes are fetched in parts."""
        return self._size >= SMALLEST and self._at_once > 1 and length > self._size

    async def fetch(self, start: int, end: int, section: Section) -> AsyncGenerator[bytes, None]:
        """The bytes from *start* to *end*, in order; raises what *section* raises when it is the turn of its bytes."""
        starts = iter(range(start, end, self._size))
        # It tells whether the server knows ranges, before many are asked for.
        yield await self._part(next(starts), end, section)
        under_way: deque[asyncio.Task[bytes]] = deque()
        try:
            for at in starts:
                under_way.append(asyncio.create_task(self._part(at, end, section)))
                if len(under_way) == self._at_once:
                    yield await under_way[0]
                    del under_way[0]
            while under_way:
                yield await under_way[0]
                del under_way[0]
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _part(self, start: int, end: int, section: Section) -> bytes:
        async with self._slots, aclosing(section(start, min(start + self._size, end))) as chunks:
            return b"".join([chunk async for chunk in chunks])
