# SPDX-License-Identifier: Apache-2.0
"""Groups items of a stream, so that a long list travels in few messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
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
