# SPDX-License-Identifier: Apache-2.0
"""Long lists: in few messages, and without keeping everybody else waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final, TypeVar

from orlop_sdk.rpc.channel import closing

T = TypeVar("T")

#: Items a message; containerd's number.
BATCH: Final = 100


async def batches(items: AsyncIterator[T], size: int = BATCH) -> AsyncIterator[list[T]]:
    """Lists of *size* items, the last one shorter; nothing at all when there are no items."""
    batch: list[T] = []
    async with closing(items):
        async for item in items:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch


async def paced(items: Sequence[T], size: int = BATCH) -> AsyncIterator[T]:
    """The items one by one; after each *size* of them other calls have their turn."""
    for number, item in enumerate(items, 1):
        yield item
        if number % size == 0:
            await asyncio.sleep(0)
