# SPDX-License-Identifier: Apache-2.0
"""What a namespace's view of a snapshotter adds to the snapshotter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from tests.unit.core.conftest import Core

from orlop import context
from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from orlop.interfaces.snapshotter import Snapshotter
from orlop.values import EMPTY, Labels, Mount, SnapshotInfo, SnapshotKind
from orlop_core.metadata.store import SqliteMetadataStore
from orlop_snapshots.native import NativeSnapshotter

TARGET = "containerd.io/snapshot.ref"


async def backend_names(snapshots: Snapshotter) -> list[str]:
    return sorted([info.name async for info in snapshots.walk()])


async def test_namespaces_do_not_see_each_other(core: Core) -> None:
    view = core.metadata.snapshotters["native"]
    for namespace in ("one", "two"):
        with context.scope(namespace=namespace):
            await view.prepare("key", labels={"in": namespace})
            assert [info.name async for info in view.walk()] == ["key"]
            assert (await view.stat("key")).labels == {"in": namespace}
    names = await backend_names(core.snapshots)
    assert [name.split("/")[::2] for name in names] == [["one", "key"], ["two", "key"]]
    with context.scope(namespace="three"), pytest.raises(NotFound):
        await view.mounts("key")


@pytest.mark.usefixtures("in_namespace")
async def test_snapshotters_follow_the_plugins(core: Core) -> None:
    backends: dict[str, Snapshotter] = {"native": core.snapshots}
    metadata = await SqliteMetadataStore.open(
        core.root / "other.sqlite", content=core.content, snapshotters=backends, events=core.events
    )
    assert list(metadata.snapshotters) == ["native"]
    first = metadata.snapshotters["native"]
    assert metadata.snapshotters["native"] is first
    backends["native"] = other = NativeSnapshotter(core.root / "other", sync_remove=True)
    assert metadata.snapshotters["native"] is not first
    del backends["native"]
    with pytest.raises(KeyError):
        metadata.snapshotters["native"]
    await metadata.close()
    await other.close()


@pytest.mark.usefixtures("in_namespace")
async def test_only_some_labels_reach_the_back_end(core: Core) -> None:
    view = core.metadata.snapshotters["native"]
    await view.prepare("key", labels={"mine": "1", "containerd.io/snapshot/x": "2", TARGET: "nothing"})
    [name] = await backend_names(core.snapshots)
    assert (await core.snapshots.stat(name)).labels == {"containerd.io/snapshot/x": "2", TARGET: "nothing"}
    info = SnapshotInfo(SnapshotKind.UNKNOWN, "key", labels={"containerd.io/snapshot/y": "3", "mine": "4"})
    changed = await view.update(info)
    assert changed.labels == {"containerd.io/snapshot/y": "3", "mine": "4"}
    assert (await core.snapshots.stat(name)).labels == {"containerd.io/snapshot/y": "3"}
    assert [found.name async for found in view.walk(["labels.mine==4,kind==active"])] == ["key"]
    assert [found.name async for found in view.walk(["kind==committed"])] == []


@pytest.mark.usefixtures("in_namespace")
async def test_removed_snapshots_leave_the_back_end_with_the_garbage(core: Core) -> None:
    view = core.metadata.snapshotters["native"]
    await view.prepare("key")
    await view.commit("base", "key")
    await view.prepare("child", "base")
    with pytest.raises(FailedPrecondition):
        await view.remove("base")
    await view.remove("child")
    await view.remove("base")
    await view.prepare("key", labels={"containerd.io/gc.root": "now"})
    assert len(await backend_names(core.snapshots)) == 3
    await core.metadata.collect()
    assert len(await backend_names(core.snapshots)) == 1
    assert [info.name async for info in view.walk()] == ["key"]


@pytest.mark.usefixtures("in_namespace")
async def test_events(core: Core) -> None:
    view = core.metadata.snapshotters["native"]
    async with core.events.subscribe() as stream:
        await view.prepare("key")
        await view.commit("base", "key")
        await view.view("look", "base")
        await view.remove("look")
        await view.prepare("other")
        await core.metadata.collect()
        topics = [(await asyncio.wait_for(anext(stream), 5)).topic for _ in range(6)]
    assert (
        topics
        == ["/snapshot/prepare", "/snapshot/commit", "/snapshot/remove", "/snapshot/prepare"] + ["/snapshot/remove"] * 2
    )


@pytest.mark.usefixtures("in_namespace")
async def test_an_existing_target_needs_no_snapshot(core: Core) -> None:
    metadata = core.metadata
    view = metadata.snapshotters["native"]
    await view.prepare("key")
    await view.commit("layer", "key")
    await metadata.leases.create("lease")
    with context.scope(namespace="default", lease="lease"), pytest.raises(AlreadyExists):
        await view.prepare("extract", labels={TARGET: "layer"})
    assert [resource.id for resource in await metadata.leases.resources("lease")] == ["layer"]


class Remote:
    """A snapshotter that has a layer already, as those which mount layers from a registry do."""

    def __init__(self, inner: Snapshotter) -> None:
        self.inner = inner

    async def prepare(self, key: str, parent: str = "", *, labels: Labels = EMPTY) -> list[Mount]:
        mounts = await self.inner.prepare(key, parent, labels=labels)
        if (target := labels.get(TARGET)) is None:
            return mounts
        await self.inner.commit(target, key, labels=labels)
        raise AlreadyExists(f'target "{target}": already exists')

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


@pytest.fixture
async def remote(core: Core) -> AsyncIterator[SqliteMetadataStore]:
    backends: Mapping[str, Snapshotter] = {"remote": Remote(core.snapshots)}  # type: ignore[dict-item]  # by __getattr__
    metadata = await SqliteMetadataStore.open(
        core.root / "remote.sqlite", content=core.content, snapshotters=backends, events=core.events
    )
    yield metadata
    assert await metadata.check() == []
    await metadata.close()


@pytest.mark.usefixtures("in_namespace")
async def test_layers_of_remote_snapshotters_are_taken_over(remote: SqliteMetadataStore) -> None:
    view = remote.snapshotters["remote"]
    parent = ""
    labels = {TARGET: "", "containerd.io/gc.root": "1", "mine": "yes"}
    for layer in ("base", "middle", "top"):
        with pytest.raises(AlreadyExists):
            await view.prepare(f"extract {layer}", parent, labels={**labels, TARGET: layer})
        info = await view.stat(layer)
        assert (info.kind, info.name, info.parent) == (SnapshotKind.COMMITTED, layer, parent)
        assert info.labels["mine"] == "yes"
        parent = layer
    await remote.collect()
    assert [info.name async for info in view.walk()] == ["base", "middle", "top"]
    await view.prepare("container", "top")
    with context.scope(namespace="other"), pytest.raises(AlreadyExists):
        await view.prepare("extract base", labels={**labels, TARGET: "base"})


class Failing:
    """A snapshotter whose commits fail, before or after they were done."""

    def __init__(self, inner: Snapshotter, *, after: bool) -> None:
        self.inner = inner
        self._after = after

    async def commit(self, name: str, key: str, *, parent: str = "", labels: Labels = EMPTY) -> None:
        if self._after:
            await self.inner.commit(name, key, parent=parent, labels=labels)
        raise Unavailable("connection lost")

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


@pytest.mark.usefixtures("in_namespace")
@pytest.mark.parametrize("after", [False, True])
async def test_a_commit_whose_outcome_is_unclear_is_cleared_up(core: Core, after: bool) -> None:
    backends: Mapping[str, Snapshotter] = {"native": Failing(core.snapshots, after=after)}  # type: ignore[dict-item]  # by __getattr__
    metadata = await SqliteMetadataStore.open(
        core.root / "failing.sqlite", content=core.content, snapshotters=backends, events=core.events
    )
    view = metadata.snapshotters["native"]
    await view.prepare("key")
    with pytest.raises(Unavailable):
        await view.commit("name", "key")
    expected = ("name", SnapshotKind.COMMITTED) if after else ("key", SnapshotKind.ACTIVE)
    assert [(info.name, info.kind) async for info in view.walk()] == [expected]
    assert await metadata.check() == []
    await metadata.close()


@pytest.mark.usefixtures("in_namespace")
async def test_calls_that_race_leave_one_winner(core: Core) -> None:
    view = core.metadata.snapshotters["native"]
    results: Sequence[object] = await asyncio.gather(*(view.prepare("key") for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(result, AlreadyExists) for result in results) == 7
    await view.prepare("other")
    done = await asyncio.gather(
        view.commit("name", "key"), view.commit("name", "other"), view.commit("name", "key"), return_exceptions=True
    )
    assert done.count(None) == 1
    assert len(await backend_names(core.snapshots)) == 2


@pytest.mark.usefixtures("in_namespace")
async def test_collecting_while_snapshots_are_made_takes_none_of_them(core: Core) -> None:
    view = core.metadata.snapshotters["native"]

    async def make(number: int) -> None:
        await view.prepare(f"key-{number}", labels={"containerd.io/gc.root": "1"})
        await view.commit(f"name-{number}", f"key-{number}", labels={"containerd.io/gc.root": "1"})
        assert await view.view(f"view-{number}", f"name-{number}", labels={"containerd.io/gc.root": "1"})

    async def collect() -> None:
        for _ in range(5):
            view.dirty = True
            await core.metadata.collect()

    await asyncio.gather(collect(), *(make(number) for number in range(20)))
    assert len([info async for info in view.walk()]) == 40


@pytest.mark.usefixtures("in_namespace")
async def test_refusals(core: Core) -> None:
    view = core.metadata.snapshotters["native"]
    with pytest.raises(InvalidArgument):
        await view.prepare("")
    with pytest.raises(InvalidArgument):
        await view.prepare("key", labels={"k": "v" * 4096})
    with pytest.raises(NotFound):
        await view.prepare("key", "absent")
    with pytest.raises(NotFound):
        await view.remove("absent")
    with pytest.raises(FailedPrecondition):
        with context.scope():
            await view.stat("key")
    await view.cleanup()


@pytest.mark.usefixtures("in_namespace")
async def test_errors_of_the_back_end_use_the_clients_names(core: Core) -> None:
    view = core.metadata.snapshotters["native"]
    await view.prepare("key")
    for call in (view.prepare("child", "key"), view.view("look", "key")):
        with pytest.raises(InvalidArgument, match='^[^/]*"key"[^/]*$'):
            await call
    await view.commit("name", "key")
    with pytest.raises(FailedPrecondition, match='^[^/]*"name"[^/]*$'):
        await view.mounts("name")
    with pytest.raises(FailedPrecondition, match='^[^/]*"name"[^/]*$'):
        await view.commit("again", "name")
