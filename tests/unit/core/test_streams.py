# SPDX-License-Identifier: Apache-2.0
"""The stream manager: ids, namespaces, and what garbage collection asks of it."""

from __future__ import annotations

import pytest

from orlop import context
from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from orlop.interfaces.gc import Attachment
from orlop.values import AnyMessage, LeaseResource
from orlop_core.streams.manager import Streams


class Kept:
    """A stream that writes down what is done to it."""

    def __init__(self) -> None:
        self.closed = 0

    async def send(self, message: AnyMessage) -> None:
        raise AssertionError

    async def receive(self) -> AnyMessage | None:
        return AnyMessage("told")

    async def close(self) -> None:
        self.closed += 1


async def test_ids_belong_to_namespaces() -> None:
    streams = Streams()
    one, other = Kept(), Kept()
    with context.scope(namespace="one"):
        await streams.register("a", one)
        with pytest.raises(AlreadyExists, match='"a"'):
            await streams.register("a", other)
        with pytest.raises(InvalidArgument):
            await streams.register("", other)
        assert await (await streams.get("a")).receive() == AnyMessage("told")
    with context.scope(namespace="two"):
        with pytest.raises(NotFound, match='"a"'):
            await streams.get("a")
        await streams.register("a", other)
    with pytest.raises(FailedPrecondition):
        await streams.get("a")
    assert sorted(await streams.all()) == [("one", "a"), ("two", "a")]


async def test_closing_frees_the_id_and_releasing_too() -> None:
    streams = Streams()
    first, second = Kept(), Kept()
    with context.scope(namespace="n"):
        await streams.register("a", first)
        known = await streams.get("a")
        await known.close()
        assert first.closed == 1
        await streams.register("a", second)
        await known.close()  # again, while the id has a new owner
        await streams.release("a", first)
        assert await streams.all() == [("n", "a")]
        await streams.release("a", second)
        await streams.release("never", second)
        assert await streams.all() == []
        assert second.closed == 0


async def test_collection_asks_and_removes() -> None:
    streams = Streams()
    free, leased = Kept(), Kept()
    with context.scope(namespace="n"):
        await streams.register("free", free)
    with context.scope(namespace="n", lease="mine"):
        await streams.register("leased", leased)
    assert await streams.active() == [("n", "free")]
    assert await streams.attachments() == [Attachment("n", "leased", LeaseResource("mine", "leases"))]
    await streams.remove([("n", "leased"), ("n", "gone meanwhile")])
    assert leased.closed == 1
    assert await streams.all() == [("n", "free")]
    await streams.close()
    await streams.close()
    assert free.closed == 1
