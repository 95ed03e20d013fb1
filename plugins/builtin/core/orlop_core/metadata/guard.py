# SPDX-License-Identifier: Apache-2.0
"""Keeping the collector's hands off what is coming into being.

A blob or snapshot exists in its back end before its record is durable, and the collector removes from the back ends
what has no record. Whoever makes something says so first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class Guard:
    """Names in use, and names being removed: never both. To be used on one event loop."""

    def __init__(self) -> None:
        self._used: Counter[str] = Counter()
        self._removing: dict[str, asyncio.Event] = {}

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[None]:
        """Nobody removes the name meanwhile. Waits for a removal that is under way."""
        while (removal := self._removing.get(name)) is not None:
            await removal.wait()
        self._used[name] += 1
        try:
            yield
        finally:
            self._used[name] -= 1
            if not self._used[name]:
                del self._used[name]

    @contextmanager
    def removing(self, name: str) -> Iterator[bool]:
        """Nobody starts to use the name meanwhile. Gives False when it is in use: then leave it."""
        if name in self._used or name in self._removing:
            yield False
            return
        done = self._removing[name] = asyncio.Event()
        try:
            yield True
        finally:
            del self._removing[name]
            done.set()
