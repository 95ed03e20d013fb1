# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.unit.core.conftest import Core

from orlop import context
from orlop.errors import Unavailable
from orlop.values import CollectionStats, Descriptor, Image
from orlop_core.gc.plugin import SchedulerConfig
from orlop_core.gc.scheduler import CollectionScheduler, Plan, Rule
from orlop_core.metadata.store import Mutations
from orlop_sdk.testing.content import put


class Store:
    """What a scheduler sees of a metadata store."""

    def __init__(self) -> None:
        self.changes = Mutations()
        self.collections = 0
        self.failures = 0
        self.collected = asyncio.Event()
        self.delegate: Callable[[], Awaitable[object]] | None = None

    def mutations(self) -> AsyncIterator[bool]:
        return self.changes

    def delegate_collection(self, collect: Callable[[], Awaitable[object]] | None) -> None:
        self.delegate = collect

    async def collect(self) -> CollectionStats:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise Unavailable("not now")
        self.collections += 1
        self.collected.set()
        return CollectionStats(marking=0.001)

    async def next(self) -> None:
        """Wait for a collection."""
        await asyncio.wait_for(self.collected.wait(), 10)
        self.collected.clear()


def scheduler(store: Store, **rule: float) -> CollectionScheduler:
    return CollectionScheduler(store, Rule(**{"startup_delay": 0.0, "pause_threshold": 0.5, **rule}))  # type: ignore[arg-type]  # as much as it uses


async def test_the_first_collection_needs_no_reason_and_the_next_ones_do() -> None:
    store = Store()
    running = scheduler(store, mutation_threshold=3)
    await running.start()
    await store.next()
    await asyncio.sleep(0.05)
    assert store.collections == 1
    store.changes.add(2, 0)
    await asyncio.sleep(0.05)
    assert store.collections == 1
    store.changes.add(1, 0)
    await store.next()
    store.changes.add(1, 1)
    await store.next()
    await running.close()
    await running.close()
    assert store.collections == 3
    assert store.delegate is None


async def test_requests_share_a_collection_that_started_after_them() -> None:
    store = Store()
    running = scheduler(store, startup_delay=3600.0)
    assert (await running.collect_now()) == CollectionStats(marking=0.001)
    await running.start()
    assert store.delegate == running.collect_now
    assert store.collections == 1
    await asyncio.gather(*(running.collect_now() for _ in range(10)))
    assert store.collections == 2
    await running.close()
    with pytest.raises(Unavailable):
        await running.collect_now()


async def test_a_failed_collection_is_told_and_tried_again() -> None:
    store = Store()
    running = scheduler(store, startup_delay=3600.0)
    await running.start()
    store.failures = 1
    with pytest.raises(Unavailable):
        await running.collect_now()
    assert running._plan.owed
    await running.collect_now()
    await running.close()


async def test_closing_releases_who_waits() -> None:
    store = Store()
    running = scheduler(store, startup_delay=3600.0, schedule_delay=3600.0)
    await running.start()
    waiting = asyncio.create_task(running.collect_now())
    await asyncio.sleep(0.01)
    await running.close()
    with pytest.raises(Unavailable):
        await waiting


@pytest.mark.parametrize(
    ("plan", "rule", "expected"),
    [
        (Plan(10.0), Rule(), 10.0),
        (Plan(10.0, owed=False), Rule(), None),
        (Plan(10.0, owed=False, deletions=1), Rule(), 10.0),
        (Plan(10.0, owed=False, deletions=1), Rule(deletion_threshold=2), 10.0),
        (Plan(10.0, owed=False, deletions=2), Rule(deletion_threshold=2), 0.0),
        (Plan(10.0, owed=False, deletions=2), Rule(deletion_threshold=2, schedule_delay=4), 4.0),
        (Plan(3.0, owed=False, deletions=2), Rule(deletion_threshold=2, schedule_delay=4), 3.0),
        (Plan(10.0, owed=False, mutations=99), Rule(), None),
        (Plan(10.0, owed=False, mutations=100), Rule(), 10.0),
        (Plan(10.0, owed=False, mutations=10**6), Rule(mutation_threshold=0), None),
        (Plan(-1.0, owed=False, deletions=1), Rule(), 0.0),
        (Plan(-1.0, interval=0.75, owed=False, deletions=1, idle=True), Rule(), 0.5),
    ],
)
def test_the_rule(plan: Plan, rule: Rule, expected: float | None) -> None:
    assert plan.delay(0.0, rule) == expected


async def test_with_a_real_store(core: Core) -> None:
    running = CollectionScheduler(core.metadata, Rule(startup_delay=0.0))
    await running.start()
    with context.scope(namespace="default"):
        await core.metadata.leases.create("lease")
    with context.scope(namespace="default", lease="lease"):
        digest = await put(core.metadata.content, b"x")
        await core.metadata.images.create(Image("image", Descriptor("m", digest, 1)))
        await core.metadata.images.delete("image")
        await core.metadata.leases.delete("lease", sync=True)
        assert [info async for info in core.content.walk()] == []
    await running.close()


def test_config() -> None:
    config = SchedulerConfig.model_validate({"schedule_delay": "1m30s", "pause_threshold": 0.9})
    assert (config.schedule_delay, config.startup_delay, config.pause_threshold) == ("1m30s", "100ms", 0.5)
    with pytest.raises(ValueError, match="is no duration"):
        SchedulerConfig.model_validate({"startup_delay": "soon"})
    with pytest.raises(ValueError, match="greater than"):
        SchedulerConfig.model_validate({"mutation_threshold": -1})
