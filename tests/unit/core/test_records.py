# SPDX-License-Identifier: Apache-2.0
"""Namespaces, images, containers, sandboxes and leases: what is kept, what is refused, what is published."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.unit.core.conftest import Core

from orlop import context
from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OrlopError, Unimplemented
from orlop.values import (
    AnyMessage,
    Container,
    ContentInfo,
    Descriptor,
    Event,
    Image,
    LeaseResource,
    Namespace,
    RuntimeInfo,
    Sandbox,
    now,
)
from orlop_sdk import digest as digests
from orlop_sdk.testing.content import put

DIGEST = digests.of(b"target")
TARGET = Descriptor("application/vnd.oci.image.manifest.v1+json", DIGEST, 6, {"anno": "1"})
SPEC = AnyMessage("types.containerd.io/opencontainers/runtime-spec/1/Spec", b"{}")
LONG = {"k": "v" * 4096}


def image(name: str = "docker.io/library/x:1", **changes: object) -> Image:
    return replace(Image(name, TARGET, {"env": "prod"}), **changes)  # type: ignore[arg-type]


def container(id: str = "box", **changes: object) -> Container:
    runtime = RuntimeInfo("io.containerd.runc.v2", AnyMessage("containerd.runc.v1.Options", b"\x08\x01"))
    base = Container(
        id,
        runtime,
        SPEC,
        image="docker.io/library/x:1",
        snapshotter="native",
        snapshot_key="box-rw",
        sandbox="pod",
        labels={"app": "web", "tier.io/x": "1"},
        extensions={"one": AnyMessage("t/1", b"\0\xff"), "two": AnyMessage("t/2", b"")},
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def sandbox(id: str = "pod", **changes: object) -> Sandbox:
    base = Sandbox(
        id, RuntimeInfo("r"), SPEC, sandboxer="shim", labels={"a": "1"}, extensions={"e": AnyMessage("t", b"x")}
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class Watcher:
    """The events published since it was made."""

    def __init__(self, stream: AsyncIterator[Event]) -> None:
        self._stream = stream

    async def topics(self, count: int) -> list[str]:
        return [(await asyncio.wait_for(anext(self._stream), 5)).topic for _ in range(count)]


@pytest.fixture
async def watcher(core: Core) -> AsyncIterator[Watcher]:
    async with core.events.subscribe() as stream:
        yield Watcher(stream)


# ---- namespaces -----------------------------------------------------------------------------------------------------


async def test_namespaces(core: Core, watcher: Watcher) -> None:
    store = core.metadata.namespaces
    await store.create(Namespace("b", {"one": "1"}))
    await store.create(Namespace("a"))
    assert await store.list() == [Namespace("a"), Namespace("b", {"one": "1"})]
    assert await store.get("b") == Namespace("b", {"one": "1"})
    assert await store.update(Namespace("b", {"two": "2"}), ["labels.two"]) == Namespace("b", {"one": "1", "two": "2"})
    assert await store.update(Namespace("b", {"three": "3"})) == Namespace("b", {"three": "3"})
    await store.delete("b")
    assert await store.list() == [Namespace("a")]
    topics = await watcher.topics(5)
    assert topics == [f"/namespaces/{verb}" for verb in ("create", "create", "update", "update", "delete")]


async def test_namespaces_refuse(core: Core) -> None:
    store = core.metadata.namespaces
    await store.create(Namespace("a"))
    for call, error in (
        (store.create(Namespace("a")), AlreadyExists),
        (store.create(Namespace("")), InvalidArgument),
        (store.create(Namespace("-a")), InvalidArgument),
        (store.create(Namespace("b", LONG)), InvalidArgument),
        (store.update(Namespace("a", {}), ["name"]), InvalidArgument),
        (store.update(Namespace("a", {}), ["labels"]), InvalidArgument),
        (store.update(Namespace("-b")), InvalidArgument),
        (store.delete("b"), NotFound),
        (store.get("b"), NotFound),
    ):
        with pytest.raises(error):
            await call


async def test_a_namespace_in_use_cannot_be_deleted(core: Core) -> None:
    metadata = core.metadata
    with context.scope(namespace="used"):
        await metadata.images.create(image())
        await metadata.containers.create(container())
        await metadata.sandboxes.create(sandbox())
        await metadata.snapshotters["native"].prepare("key")
        digest = await put(metadata.content, b"blob")
        with pytest.raises(FailedPrecondition, match="blobs, containers, images, sandboxes, snapshots on native"):
            await metadata.namespaces.delete("used")
        await metadata.images.delete(image().name)
        await metadata.containers.delete("box")
        await metadata.sandboxes.delete("pod")
        await metadata.snapshotters["native"].remove("key")
        await metadata.content.delete(digest)
        await metadata.leases.create("kept")
        writer = await metadata.content.writer("half")
        await writer.close()
        await metadata.namespaces.delete("used")
        assert await metadata.leases.list() == []
        assert await metadata.content.statuses() == []


async def test_namespaces_come_with_what_is_written_in_them(core: Core) -> None:
    with context.scope(namespace="new"):
        with pytest.raises(NotFound):
            await core.metadata.images.get("x")
        assert await core.metadata.images.list() == []
        assert await core.metadata.namespaces.list() == []
        await core.metadata.images.create(image())
    assert await core.metadata.namespaces.list() == [Namespace("new")]


async def test_stores_need_a_namespace(core: Core) -> None:
    metadata = core.metadata
    with pytest.raises(FailedPrecondition):
        await metadata.images.get("x")
    with context.scope(namespace="-"), pytest.raises(InvalidArgument):
        await metadata.containers.list()


# ---- images ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_namespace")
async def test_images(core: Core, watcher: Watcher) -> None:
    store = core.metadata.images
    before = now()
    made = await store.create(image())
    assert made == await store.get(made.name)
    assert before <= made.created_at == made.updated_at <= now()
    assert (made.target, made.labels) == (TARGET, {"env": "prod"})
    changed = await store.update(image(labels={"env": "test", "more": "1"}), ["labels.env"])
    assert changed.labels == {"env": "test"}
    assert changed.created_at == made.created_at
    assert changed.updated_at > made.updated_at
    other = Descriptor("m/t", digests.of(b"other"), 5, {"b": "2"})
    assert (await store.update(image(target=other), ["annotations.b", "annotations.anno"])).target == replace(
        TARGET, annotations={"b": "2"}
    )
    assert (await store.update(image(target=other), ["target"])).target == other
    assert (await store.update(image(labels={}))).labels == {}
    await store.delete(made.name)
    with pytest.raises(NotFound):
        await store.get(made.name)
    assert await watcher.topics(6) == ["/images/create"] + ["/images/update"] * 4 + ["/images/delete"]


@pytest.mark.usefixtures("in_namespace")
async def test_images_of_a_given_time(core: Core) -> None:
    moment = datetime(2001, 2, 3, tzinfo=UTC)
    made = await core.metadata.images.create(image(), timestamp=moment)
    assert (made.created_at, made.updated_at) == (moment, moment)
    later = datetime(2002, 2, 3, tzinfo=UTC)
    changed = await core.metadata.images.update(image(), timestamp=later)
    assert (changed.created_at, changed.updated_at) == (moment, later)
    assert await core.metadata.images.get(made.name) == changed


@pytest.mark.usefixtures("in_namespace")
@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"labels": LONG},
        {"target": replace(TARGET, digest="x")},
        {"target": replace(TARGET, size=0)},
        {"target": replace(TARGET, media_type="")},
    ],
)
async def test_images_that_are_refused(core: Core, changes: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        await core.metadata.images.create(replace(image(), **changes))  # type: ignore[arg-type]
    assert await core.metadata.images.list() == []


@pytest.mark.usefixtures("in_namespace")
async def test_images_refuse(core: Core) -> None:
    store = core.metadata.images
    await store.create(image())
    for call, error in (
        (store.create(image()), AlreadyExists),
        (store.update(image("absent")), NotFound),
        (store.update(image(), ["name"]), InvalidArgument),
        (store.update(image(target=replace(TARGET, size=-1)), ["target"]), InvalidArgument),
        (store.delete("absent"), NotFound),
        (store.delete(image().name, target=digests.of(b"other")), NotFound),
        (store.list(["name=="]), InvalidArgument),
    ):
        with pytest.raises(error):
            await call
    await store.delete(image().name, target=DIGEST)


@pytest.mark.usefixtures("in_namespace")
@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ([], "abc"),
        (["name==a"], "a"),
        (["name!=a"], "bc"),
        (["name~=[ab]"], "ab"),
        (["labels.env==prod"], "ab"),
        (["labels.env"], "abc"),
        (["labels.env!=prod"], "c"),
        (['labels."env"==prod,name==b'], "b"),
        (["name==a", "labels.env==test"], "ac"),
        (["name==a", "labels.env~=t"], "ac"),
        ([f"target.digest=={DIGEST}"], "abc"),
        (["target.digest==x"], ""),
        (["target.mediatype~=manifest,annotations.anno==1"], "abc"),
        (["unknown"], ""),
        (["labels.absent"], ""),
        (["", "name==a"], "abc"),
    ],
)
async def test_filters(core: Core, filters: Sequence[str], names: str) -> None:
    for name, env in (("a", "prod"), ("b", "prod"), ("c", "test")):
        await core.metadata.images.create(image(name, labels={"env": env}))
    with context.scope(namespace="other"):
        await core.metadata.images.create(image("a", labels={"env": "prod"}))
    assert "".join(found.name for found in await core.metadata.images.list(filters)) == names


# ---- containers and sandboxes ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_namespace")
async def test_containers(core: Core, watcher: Watcher) -> None:
    store = core.metadata.containers
    made = await store.create(container())
    assert replace(made, created_at=container().created_at, updated_at=container().updated_at) == container()
    assert await store.get("box") == made
    assert await store.list(['runtime.name=="io.containerd.runc.v2"', "id==other"]) == [made]
    assert await store.list(['labels."tier.io/x"==1']) == [made]
    assert await store.list(["id==bo"]) == []
    new = container(labels={"app": "db"}, image="y", snapshot_key="k2", extensions={"one": AnyMessage("t/9", b"9")})
    masked = await store.update(new, ["labels.app", "extensions.one", "extensions.two", "snapshotkey"])
    assert masked.labels == {"app": "db", "tier.io/x": "1"}
    assert masked.extensions == {"one": AnyMessage("t/9", b"9")}
    assert (masked.image, masked.snapshot_key) == (made.image, "k2")
    assert await store.get("box") == masked
    whole = await store.update(container(labels={}, extensions={}, spec=AnyMessage("s", b"1"), image="z"))
    assert (whole.labels, whole.extensions, whole.spec, whole.image) == ({}, {}, AnyMessage("s", b"1"), "z")
    assert (whole.created_at, whole.sandbox) == (made.created_at, "pod")
    await store.delete("box")
    assert await store.list() == []
    verbs = ("create", "update", "update", "delete")
    assert await watcher.topics(4) == [f"/containers/{verb}" for verb in verbs]


@pytest.mark.usefixtures("in_namespace")
async def test_containers_refuse(core: Core) -> None:
    store = core.metadata.containers
    await store.create(container())
    for call, error in (
        (store.create(container()), AlreadyExists),
        (store.create(container("a b")), InvalidArgument),
        (store.create(container("c", spec=None)), InvalidArgument),
        (store.create(container("c", runtime=RuntimeInfo(""))), InvalidArgument),
        (store.create(container("c", snapshotter="")), InvalidArgument),
        (store.create(container("c", extensions={"": SPEC})), InvalidArgument),
        (store.create(container("c", labels=LONG)), InvalidArgument),
        (store.update(container("c")), NotFound),
        (store.update(container(snapshotter="x")), InvalidArgument),
        (store.update(container(runtime=RuntimeInfo("x"))), InvalidArgument),
        (store.update(container(), ["snapshotter"]), InvalidArgument),
        (store.update(container(spec=None), ["spec"]), InvalidArgument),
        (store.delete("c"), NotFound),
        (store.get("c"), NotFound),
    ):
        with pytest.raises(error):
            await call
    assert len(await store.list()) == 1


@pytest.mark.usefixtures("in_namespace")
async def test_sandboxes(core: Core) -> None:
    store = core.metadata.sandboxes
    made = await store.create(sandbox())
    assert await store.get("pod") == made
    assert await store.list(["labels.a==1"]) == [made]
    changed = await store.update(sandbox(labels={"b": "2"}, runtime=RuntimeInfo("r", SPEC)))
    assert (changed.labels, changed.runtime) == ({"b": "2"}, RuntimeInfo("r", SPEC))
    changed = await store.update(sandbox(extensions={}), ["extensions.e"])
    assert changed.extensions == {}
    for call, error in (
        (store.create(sandbox()), AlreadyExists),
        (store.update(sandbox(runtime=RuntimeInfo("x"))), InvalidArgument),
        (store.update(sandbox(), ["sandboxer"]), InvalidArgument),
        (store.update(sandbox("absent")), NotFound),
        (store.get("absent"), NotFound),
        (store.delete("absent"), NotFound),
    ):
        with pytest.raises(error):
            await call
    await store.delete("pod")
    assert await store.list() == []


# ---- leases ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_namespace")
async def test_leases(core: Core) -> None:
    store = core.metadata.leases
    named = await store.create("named", {"a": "1"})
    made_up = await store.create()
    assert made_up.id
    assert await store.list() == sorted([named, made_up], key=lambda lease: lease.id)
    assert await store.list(["labels.a==1"]) == [named]
    wanted = [
        LeaseResource(DIGEST, "content"),
        LeaseResource("x", "images"),
        LeaseResource("x", "ingests"),
        LeaseResource("x", "snapshots/native"),
    ]
    for resource in wanted:
        await store.add("named", resource)
        await store.add("named", resource)
    assert await store.resources("named") == wanted
    await store.remove("named", wanted[0])
    await store.remove("named", wanted[0])
    assert await store.resources("named") == wanted[1:]
    await store.delete("named", sync=True)
    await store.delete(made_up.id)
    assert await store.list() == []


@pytest.mark.usefixtures("in_namespace")
async def test_leases_refuse(core: Core) -> None:
    store = core.metadata.leases
    await store.create("one")
    for call, error in (
        (store.create("one"), AlreadyExists),
        (store.create("two", LONG), InvalidArgument),
        (store.delete("two"), NotFound),
        (store.resources("two"), NotFound),
        (store.add("two", LeaseResource(DIGEST, "content")), NotFound),
        (store.add("one", LeaseResource("x", "content")), InvalidArgument),
        (store.add("one", LeaseResource("x", "snapshots")), InvalidArgument),
        (store.add("one", LeaseResource("x", "content/y")), InvalidArgument),
        (store.add("one", LeaseResource("x", "stream")), Unimplemented),
    ):
        with pytest.raises(error):
            await call


async def test_a_lease_gets_what_is_written_under_it(core: Core) -> None:
    metadata = core.metadata
    with context.scope(namespace="default"):
        await metadata.leases.create("lease")
    with context.scope(namespace="default", lease="lease"):
        digest = await put(metadata.content, b"leased")
        writer = await metadata.content.writer("half")
        await metadata.images.create(image())
        native = metadata.snapshotters["native"]
        await native.prepare("active")
        await native.commit("done", "active")
        await native.view("look", "done")
        kept = {(resource.type, resource.id) for resource in await metadata.leases.resources("lease")}
        assert kept == {
            ("content", digest),
            ("ingests", "half"),
            ("images", image().name),
            ("snapshots/native", "done"),
            ("snapshots/native", "look"),
        }
        await writer.close()
        await metadata.content.abort("half")
        await native.remove("look")
        await metadata.content.delete(digest)
        await metadata.images.delete(image().name)
        assert await metadata.leases.resources("lease") == [LeaseResource("done", "snapshots/native")]


async def test_an_unknown_lease_refuses_writes(core: Core) -> None:
    metadata = core.metadata
    with context.scope(namespace="default", lease="gone"):
        for call in (
            metadata.content.writer("ref"),
            metadata.images.create(image()),
            metadata.snapshotters["native"].prepare("key"),
        ):
            with pytest.raises(NotFound):
                await call
        assert [status async for status in metadata.snapshotters["native"].walk()] == []
        assert await metadata.images.list() == []
        assert await metadata.content.statuses() == []


# ---- all of them ----------------------------------------------------------------------------------------------------


async def test_everything_is_there_after_reopening(core: Core) -> None:
    with context.scope(namespace="default"):
        metadata = core.metadata
        kept: list[object] = [
            await metadata.images.create(image()),
            await metadata.containers.create(container()),
            await metadata.sandboxes.create(sandbox()),
            await metadata.leases.create("lease", {"a": "1"}),
        ]
        await core.reopen()
        metadata = core.metadata
        found: list[object] = [
            *await metadata.images.list(),
            *await metadata.containers.list(),
            *await metadata.sandboxes.list(),
            *await metadata.leases.list(),
        ]
        assert found == kept


async def test_a_failed_write_does_not_spoil_its_neighbours(core: Core) -> None:
    with context.scope(namespace="default"):
        names = [f"image-{number % 20}" for number in range(100)]
        results = await asyncio.gather(
            *(core.metadata.images.create(image(name)) for name in names), return_exceptions=True
        )
        assert sum(isinstance(result, AlreadyExists) for result in results) == 80
        assert len(await core.metadata.images.list()) == 20


async def test_a_second_store_on_one_file_is_refused(core: Core) -> None:
    with pytest.raises(OrlopError, match="another daemon"):
        await type(core.metadata).open(
            core.root / "meta.sqlite", content=core.content, snapshotters={}, events=core.events, timeout=0.01
        )


@pytest.mark.usefixtures("in_namespace")
async def test_labels_without_a_value_are_not_kept(core: Core) -> None:
    metadata = core.metadata
    labels = {"empty": "", "full": "1"}
    await metadata.namespaces.create(Namespace("n", labels))
    target = replace(TARGET, annotations=labels)
    made = await metadata.images.create(image(labels=labels, target=target))
    assert made == await metadata.images.get(made.name)
    assert (await metadata.images.update(image(labels=labels, target=target))).labels == {"full": "1"}
    digest = await put(metadata.content, b"x", labels=labels)
    await metadata.snapshotters["native"].prepare("key", labels=labels)
    kept = [
        (await metadata.namespaces.get("n")).labels,
        made.labels,
        made.target.annotations,
        (await metadata.containers.create(container(labels=labels))).labels,
        (await metadata.containers.update(container(labels=labels))).labels,
        (await metadata.containers.get("box")).labels,
        (await metadata.sandboxes.create(sandbox(labels=labels))).labels,
        (await metadata.leases.create("lease", labels)).labels,
        (await metadata.content.info(digest)).labels,
        (await metadata.content.update(ContentInfo(digest, 0, labels=labels))).labels,
        (await metadata.snapshotters["native"].stat("key")).labels,
    ]
    assert kept == [{"full": "1"}] * len(kept)
