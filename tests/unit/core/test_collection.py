# SPDX-License-Identifier: Apache-2.0
"""Garbage collection: what writers do meanwhile, what expires, and what is kept elsewhere."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.core.conftest import Core

from orlop import context
from orlop.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from orlop.interfaces.gc import Attachment
from orlop.values import (
    AnyMessage,
    Container,
    ContentInfo,
    Descriptor,
    Image,
    LeaseResource,
    RuntimeInfo,
    Sandbox,
    SnapshotInfo,
    SnapshotKind,
    now,
)
from orlop_core.metadata.snapshots import NamespacedSnapshotter
from orlop_sdk import digest as digests
from orlop_sdk.testing.content import put

pytestmark = pytest.mark.usefixtures("in_namespace")

GC = "containerd.io/gc."
PAST = (now() - timedelta(hours=1)).isoformat()
FUTURE = (now() + timedelta(hours=1)).isoformat()


async def blobs(core: Core) -> set[str]:
    return {info.digest async for info in core.metadata.content.walk()}


async def snapshots(core: Core) -> set[str]:
    return {info.name async for info in core.metadata.snapshotters["native"].walk()}


async def layer(core: Core, name: str, parent: str = "", **labels: str) -> None:
    native = core.metadata.snapshotters["native"]
    await native.prepare(f"active {name}", parent)
    await native.commit(name, f"active {name}", labels=labels)


async def collect_with(core: Core, monkeypatch: pytest.MonkeyPatch, action: Callable[[], Awaitable[object]]) -> None:
    """Collect, and do something between mark and sweep."""
    database = core.metadata._database
    read = database.read
    done = False

    async def read_and_act(function: Callable[..., object]) -> object:
        nonlocal done
        result = await read(function)
        if not done:
            done = True
            await action()
        return result

    monkeypatch.setattr(database, "read", read_and_act)
    await core.metadata.collect()
    monkeypatch.undo()
    assert done


# ---- while writers go on --------------------------------------------------------------------------------------------


async def test_what_is_removed_during_a_sweep_goes_with_the_next(core: Core) -> None:
    """A sweep that falls between a removal and its commit finds a record that is still there."""
    metadata = core.metadata
    native = metadata.snapshotters["native"]
    await metadata.collect()
    await native.prepare("s1")
    blob = await put(metadata.content, b"blob")
    running, removing, swept = threading.Event(), threading.Event(), threading.Event()

    def hold(reached: threading.Event, until: threading.Event) -> None:
        reached.set()
        assert until.wait(20)

    # While the first write runs, the others come together, to be one transaction.
    first = asyncio.create_task(metadata._database.write(lambda _: hold(running, removing)))
    assert await asyncio.to_thread(running.wait, 20)
    reached = threading.Event()
    others = asyncio.gather(
        native.remove("s1"),
        metadata.content.delete(blob),
        metadata._database.write(lambda _: hold(reached, swept)),
    )
    await asyncio.sleep(0)
    removing.set()
    assert await asyncio.to_thread(reached.wait, 20)
    assert isinstance(native, NamespacedSnapshotter)
    await native.sweep(())
    await metadata._content.sweep((), ())
    swept.set()
    await asyncio.gather(first, others)
    await metadata.collect()
    assert [info.name async for info in core.snapshots.walk()] == []
    assert blob not in {info.digest async for info in core.content.walk()}


async def test_what_becomes_reachable_during_the_mark_stays(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = core.metadata
    chain: list[str] = []
    for number in range(8):
        ref = {f"{GC}ref.content": chain[-1]} if number % 2 else {}
        chain.append(await put(metadata.content, b"%d" % number, labels=ref))
    root = await put(metadata.content, b"root", labels={f"{GC}root": "1"})
    dead = Image("dead", Descriptor("m", chain[7], 1), {f"{GC}expire": PAST})
    await metadata.images.create(dead)
    await layer(core, "base")
    await layer(core, "top", "base")
    await layer(core, "left")
    await metadata.leases.create("lease")

    async def act() -> None:
        await metadata.images.create(Image("new", Descriptor("m", chain[1], 1)))
        await metadata.content.update(ContentInfo(root, 0, labels={f"{GC}root": "1", f"{GC}ref.content": chain[3]}))
        await metadata.leases.add("lease", LeaseResource(chain[5], "content"))
        await metadata.images.update(replace(dead, labels={}))
        await metadata.snapshotters["native"].prepare("child", "top")

    await collect_with(core, monkeypatch, act)
    assert await blobs(core) == {root, *chain}
    assert await snapshots(core) == {"base", "top", "child"}
    await metadata.collect()
    assert await blobs(core) == {root, *chain}
    assert await snapshots(core) == set()


async def test_roots_made_during_the_mark_stay(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = core.metadata
    inner = await put(metadata.content, b"inner")
    outer = await put(metadata.content, b"outer", labels={f"{GC}ref.content.0": inner})
    garbage = await put(metadata.content, b"garbage")
    await layer(core, "kept")
    digest = digests.of(b"late")

    async def act() -> None:
        info = await metadata.content.info(outer)
        await metadata.content.update(replace(info, labels={**info.labels, f"{GC}root": "1"}))
        kind = SnapshotKind.COMMITTED
        await metadata.snapshotters["native"].update(SnapshotInfo(kind, "kept", labels={f"{GC}root": "1"}))
        assert await put(metadata.content, b"late") == digest

    await collect_with(core, monkeypatch, act)
    assert await blobs(core) == {inner, outer, digest}
    assert garbage not in await blobs(core)
    assert await snapshots(core) == {"kept"}
    await metadata.collect()
    assert await blobs(core) == {inner, outer}


async def test_what_was_only_kept_flat_and_gets_a_full_reference(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = core.metadata
    inner = await put(metadata.content, b"inner")
    outer = await put(metadata.content, b"outer", labels={f"{GC}ref.content.0": inner})
    await metadata.leases.create("flat", {f"{GC}flat": "1"})
    await metadata.leases.add("flat", LeaseResource(outer, "content"))
    await collect_with(core, monkeypatch, lambda: metadata.images.create(Image("new", Descriptor("m", outer, 1))))
    assert await blobs(core) == {inner, outer}


async def test_a_condition_that_comes_true_during_the_mark(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = core.metadata
    await layer(core, "kept", **{f"{GC}cond.value-usedat": PAST})
    digest = await put(
        metadata.content, b"x", labels={f"{GC}root": "1", f"{GC}cond.snapshot.native/k": "usedat<30m|kept"}
    )

    async def act() -> None:
        labels = {f"{GC}cond.value-usedat": now().isoformat()}
        await metadata.snapshotters["native"].update(SnapshotInfo(SnapshotKind.COMMITTED, "kept", labels=labels))

    await collect_with(core, monkeypatch, act)
    assert (await blobs(core), await snapshots(core)) == ({digest}, {"kept"})


async def test_clients_never_miss_what_they_hold(core: Core) -> None:
    """Many clients pull, tag and delete while garbage is collected all the time."""
    metadata = core.metadata
    stop = asyncio.Event()

    async def client(number: int) -> None:
        lease = (await metadata.leases.create()).id
        for turn in range(8):
            with context.scope(namespace="default", lease=lease):
                layers = [await put(metadata.content, b"%d %d %d" % (number, turn, part)) for part in range(2)]
                labels = {f"{GC}ref.content.{index}": digest for index, digest in enumerate(layers)}
                manifest = await put(metadata.content, b"manifest %d %d" % (number, turn), labels=labels)
                target = Descriptor("m", manifest, 1)
                await metadata.images.create(Image(f"image-{number}-{turn}", target))
                for digest in layers:
                    await metadata.leases.remove(lease, LeaseResource(digest, "content"))
            await metadata.images.create(Image(f"tag-{number}-{turn}", target))
            await metadata.images.delete(f"image-{number}-{turn}")
            if turn:
                await metadata.images.delete(f"tag-{number}-{turn - 1}")
            for digest in (manifest, *layers):
                await metadata.content.info(digest)
        await metadata.leases.delete(lease)

    async def collect() -> None:
        while not stop.is_set():
            await metadata.collect()
            await asyncio.sleep(0)

    collecting = asyncio.create_task(collect())
    await asyncio.gather(*(client(number) for number in range(8)))
    stop.set()
    await collecting
    await metadata.collect()
    assert {image.name for image in await metadata.images.list()} == {f"tag-{number}-7" for number in range(8)}
    assert len(await blobs(core)) == 8 * 3
    assert {info.digest async for info in core.content.walk()} == await blobs(core)


async def test_a_collection_that_fails_leaves_the_store_in_order(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    await put(core.metadata.content, b"garbage")

    async def fail() -> None:
        raise Unavailable("a disk that does not answer")

    with pytest.raises(Unavailable):
        await collect_with(core, monkeypatch, fail)
    monkeypatch.undo()
    assert core.metadata._database._state.touched is None
    assert (await core.metadata.collect()).removed == {"content": 1, "blobs": 1}


# ---- what expires ---------------------------------------------------------------------------------------------------


async def test_expiry(core: Core) -> None:
    metadata = core.metadata
    made = {}
    for name, labels in (
        ("past", {f"{GC}expire": PAST}),
        ("future", {f"{GC}expire": FUTURE}),
        ("garbled", {f"{GC}expire": "soon"}),
    ):
        made[name] = await put(metadata.content, name.encode())
        await metadata.images.create(Image(name, Descriptor("m", made[name], 1), labels))
        await metadata.leases.create(name, labels)
        await layer(core, name)
        await metadata.leases.add(name, LeaseResource(name, "snapshots/native"))
    async with core.events.subscribe(["namespace==default"]) as stream:
        stats = await metadata.collect()
        events = {(await asyncio.wait_for(anext(stream), 5)).topic for _ in range(2)}
    assert stats.removed == {"images": 1, "content": 1, "leases": 1, "snapshots/native": 1, "blobs": 1}
    assert events == {"/images/delete", "/snapshot/remove"}
    assert {image.name for image in await metadata.images.list()} == {"future", "garbled"}
    assert {lease.id for lease in await metadata.leases.list()} == {"future", "garbled"}
    assert await snapshots(core) == {"future", "garbled"}
    assert await blobs(core) == {made["future"], made["garbled"]}


async def test_an_expired_image_that_is_referred_to_stays(core: Core) -> None:
    metadata = core.metadata
    digest = await put(metadata.content, b"target")
    await metadata.images.create(Image("old", Descriptor("m", digest, 1), {f"{GC}expire": PAST}))
    await metadata.sandboxes.create(Sandbox("pod", RuntimeInfo("r"), labels={f"{GC}ref.image": "old"}))
    await metadata.collect()
    assert [image.name for image in await metadata.images.list()] == ["old"]
    assert await blobs(core) == {digest}


async def test_ingests_expire_or_go_with_their_lease(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = core.metadata
    await metadata.leases.create("lease")
    with context.scope(namespace="default", lease="lease"):
        await (await metadata.content.writer("leased")).close()
    await (await metadata.content.writer("left")).close()
    busy = await metadata.content.writer("busy")
    await busy.write(b"still")
    await metadata.collect()
    assert [status.ref for status in await metadata.content.statuses()] == ["busy", "leased", "left"]
    await metadata.leases.delete("lease")
    await metadata.collect()
    assert [status.ref for status in await metadata.content.statuses()] == ["busy", "left"]
    later = (now() + timedelta(hours=25)).timestamp()
    monkeypatch.setattr("orlop_core.metadata.store.now_micros", lambda: int(later * 1_000_000))
    await metadata.collect()
    assert [status.ref for status in await metadata.content.statuses()] == ["busy"]
    assert [status.ref.rpartition("/")[2] for status in await core.content.statuses()] == ["busy"]
    await busy.write(b" going")
    await busy.commit(expected=digests.of(b"still going"))


async def test_synchronous_deletes_wait_for_the_collection(core: Core) -> None:
    metadata = core.metadata
    digest = await put(metadata.content, b"x")
    await metadata.images.create(Image("image", Descriptor("m", digest, 1)))
    await metadata.images.delete("image", sync=True)
    assert [info async for info in core.content.walk()] == []
    asked = 0

    async def collect() -> None:
        nonlocal asked
        asked += 1

    metadata.delegate_collection(collect)
    await metadata.leases.create("lease")
    await metadata.leases.delete("lease", sync=True)
    assert asked == 1
    metadata.delegate_collection(None)


async def test_what_a_crash_left_in_the_back_ends_goes(core: Core) -> None:
    await put(core.content, b"orphan")
    await core.snapshots.prepare("default/9999/orphan")
    await (await core.content.writer("default/9998/orphan")).close()
    await core.metadata.collect()
    assert [info async for info in core.content.walk()] == []
    assert await core.content.statuses() == []
    assert [info async for info in core.snapshots.walk()] == []


async def test_content_that_another_namespace_has_stays(core: Core) -> None:
    digest = await put(core.metadata.content, b"x")
    with context.scope(namespace="other"):
        assert await put(core.metadata.content, b"x", labels={f"{GC}root": "1"}) == digest
    await core.metadata.collect()
    with pytest.raises(NotFound):
        await core.metadata.content.info(digest)
    with context.scope(namespace="other"):
        await core.metadata.content.info(digest)
    assert [info.digest async for info in core.content.walk()] == [digest]


# ---- what is kept elsewhere -----------------------------------------------------------------------------------------


class Streams:
    """Things known by name only."""

    label = "stream"

    def __init__(self) -> None:
        self.items: set[tuple[str, str]] = set()
        self.used: set[tuple[str, str]] = set()

    async def all(self) -> Sequence[tuple[str, str]]:
        return sorted(self.items)

    async def active(self) -> Sequence[tuple[str, str]]:
        return sorted(self.used)

    async def remove(self, items: Sequence[tuple[str, str]]) -> None:
        self.items -= set(items)


async def test_collectibles(core: Core) -> None:
    metadata = core.metadata
    streams = Streams()
    metadata.register_collectible(streams)
    names = ("referred", "leased", "active", "unused")
    streams.items = {("default", name) for name in names} | {("nowhere", "unused")}
    streams.used = {("default", "active")}
    await metadata.sandboxes.create(Sandbox("pod", RuntimeInfo("r"), labels={f"{GC}ref.stream.0": "referred"}))
    await metadata.leases.create("lease")
    await metadata.leases.add("lease", LeaseResource("leased", "stream"))
    assert await metadata.leases.resources("lease") == [LeaseResource("leased", "stream")]
    stats = await metadata.collect()
    assert stats.removed == {"stream": 2}
    assert streams.items == {("default", name) for name in names[:3]}
    streams.used = set()
    await metadata.leases.delete("lease")
    await metadata.sandboxes.delete("pod")
    await metadata.collect()
    assert streams.items == set()


class Mounts(Streams):
    """Things that say what keeps them, and that cannot be removed at times."""

    label = "mount"

    def __init__(self) -> None:
        super().__init__()
        self.attached: list[Attachment] = []
        self.broken = False

    async def attachments(self) -> Sequence[Attachment]:
        return self.attached

    async def remove(self, items: Sequence[tuple[str, str]]) -> None:
        if self.broken:
            raise FailedPrecondition("busy")
        await super().remove(items)


async def test_collectibles_stay_with_what_they_are_attached_to(core: Core) -> None:
    metadata = core.metadata
    mounts = Mounts()
    metadata.register_collectible(mounts)
    await metadata.containers.create(Container("c1", RuntimeInfo("r"), AnyMessage("s")))
    await metadata.leases.create("lease")
    await metadata.leases.create("expired", {f"{GC}expire": "2001-01-01T00:00:00Z"})
    keepers = {
        "container": LeaseResource("c1", "containers"),
        "lease": LeaseResource("lease", "leases"),
        "expired": LeaseResource("expired", "leases"),
        "nothing": LeaseResource("c2", "containers"),
    }
    mounts.items = {("default", id) for id in keepers} | {("other", "container")}
    mounts.attached = [Attachment("default", id, keeper) for id, keeper in keepers.items()]
    mounts.attached += [
        Attachment("other", "container", keepers["container"]),
        Attachment("default", "never there", keepers["lease"]),
    ]
    assert (await metadata.collect()).removed == {"leases": 1, "mount": 3}
    assert mounts.items == {("default", "container"), ("default", "lease")}
    await metadata.containers.delete("c1")
    await metadata.leases.delete("lease")
    mounts.broken = True
    assert (await metadata.collect()).removed == {}
    mounts.broken = False
    assert (await metadata.collect()).removed == {"mount": 2}
    assert mounts.items == set()


@pytest.mark.parametrize("label", ["content", "images", "a/b", "ingests", ""])
async def test_collectibles_with_a_label_in_use(core: Core, label: str) -> None:
    streams = Streams()
    streams.label = label
    with pytest.raises(InvalidArgument):
        core.metadata.register_collectible(streams)
