# SPDX-License-Identifier: Apache-2.0
"""Clients with other parts than the daemon's, and what happens when there is no daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.integration.client.conftest import BUSYBOX
from tests.support.image import many_layers, write_archive

from orlop.errors import AlreadyExists, DataLoss, NotFound, Unavailable
from orlop.interfaces.snapshotter import Snapshotter
from orlop.values import EMPTY, Descriptor, Labels, Mount
from orlop_sdk.client import Client
from orlop_sdk.registry.interface import Fetcher, Pusher, Resolved


class FarSnapshotter:
    """Has layers of its own: asked to prepare one of *known*, it commits it by itself and says so."""

    def __init__(self, inner: Snapshotter, known: Sequence[str]) -> None:
        self.inner = inner
        self.known = known
        self.offered: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def prepare(self, key: str, parent: str = "", *, labels: Labels = EMPTY) -> list[Mount]:
        name = labels.get("containerd.io/snapshot.ref", "")
        self.offered.append(name)
        if name in self.known:
            await self.inner.prepare(key, parent)
            await self.inner.commit(name, key)
            raise AlreadyExists(f'snapshot "{name}": already exists')
        return await self.inner.prepare(key, parent, labels=labels)


class Cupboard:
    """Resolves, fetches and takes images without any network: one repository in memory."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.top: Descriptor | None = None
        self.fetched: list[str] = []

    async def resolve(self, reference: str) -> Resolved:
        if self.top is None:
            raise NotFound(f'image "{reference}": not in the cupboard')
        return Resolved(reference, self.top)

    async def fetcher(self, reference: str) -> Fetcher:
        return self

    async def pusher(self, reference: str) -> Pusher:
        return self

    async def fetch(self, descriptor: Descriptor, *, offset: int = 0) -> AsyncIterator[bytes]:
        self.fetched.append(descriptor.digest)
        yield self.blobs[descriptor.digest][offset:]

    async def push(self, descriptor: Descriptor, body: Any, *, sources: Sequence[str] = ()) -> None:
        if descriptor.digest in self.blobs:
            raise AlreadyExists(f'content "{descriptor.digest}": already exists')
        self.blobs[descriptor.digest] = b"".join([chunk async for chunk in body()])
        self.top = descriptor


@pytest.fixture
async def cupboard(client: Client, directory: Path) -> Cupboard:
    """Holds an image of six layers that is nowhere else."""
    name = "example.com/many:1"
    cupboard = Cupboard()
    archive = write_archive(directory / f"{client.namespace}.tar", {name: many_layers(5)})
    await client.import_images(archive)
    await client.push(name, resolver=cupboard)
    await client.remove_image(name, sync=True)
    return cupboard


async def test_another_resolver(client: Client, cupboard: Cupboard) -> None:
    image = await client.pull("cupboard.example/many:1", resolver=cupboard)
    assert len(cupboard.fetched) == len(set(cupboard.fetched)) == 8
    assert (await client.run(image.name, "cat", "/data/last")).stdout == b"4"


async def test_layers_that_the_snapshotter_brings_are_not_fetched(client: Client, cupboard: Cupboard) -> None:
    chain = many_layers(5).chain_ids
    far = FarSnapshotter(client.snapshots(), [])
    with_far = client.replace(snapshotters={"far": far, "overlayfs": client.snapshots()})
    # Layers of the real image, so that the snapshots the far one makes can be told: its own are empty.
    far.known = chain[:3]
    # Nothing else keeps the daemon from collecting snapshots whose image names a snapshotter that it does not know.
    async with client.lease():
        image = await with_far.pull("cupboard.example/many:1", resolver=cupboard, snapshotter="far")
        assert far.offered == chain
        manifest = await client.manifest(image.name)
        assert {layer.digest for layer in manifest.layers} & set(cupboard.fetched) == {
            layer.digest for layer in manifest.layers[3:]
        }
        assert (await client.snapshots().stat(chain[-1])).parent == chain[-2]
        status = await client.check_image(image.name)
        assert [each.digest for each in status.missing] == [layer.digest for layer in manifest.layers[:3]]


async def test_what_is_unpacked_already_is_fetched_only_on_demand(client: Client, cupboard: Cupboard) -> None:
    await client.pull("cupboard.example/many:1", resolver=cupboard)
    async with client.lease():
        chain = await client.unpack("cupboard.example/many:1")
        await client.snapshots().view("keep", chain)
        await client.remove_image("cupboard.example/many:1", sync=True)
        cupboard.fetched.clear()
        await client.pull("cupboard.example/many:1", resolver=cupboard)
        assert len(cupboard.fetched) == 2
        await client.pull("cupboard.example/many:1", resolver=cupboard, all_layers=True)
        assert (await client.check_image("cupboard.example/many:1")).complete
        await client.snapshots().remove("keep")


async def test_a_layer_that_is_something_else(client: Client, cupboard: Cupboard) -> None:
    name = "cupboard.example/many:1"
    layer = max(cupboard.blobs, key=lambda digest: len(cupboard.blobs[digest]))
    good = cupboard.blobs[layer]
    cupboard.blobs[layer] = bytes(len(good))
    with pytest.raises(DataLoss, match=layer):
        await client.pull(name, resolver=cupboard)
    with pytest.raises(NotFound):
        await client.images.get(name)
    assert [info.name async for info in client.snapshots().walk(["kind==active"])] == []
    # What was wrong has not been kept to go on from.
    cupboard.blobs[layer] = good
    await client.pull(name, resolver=cupboard)
    assert (await client.check_image(name)).complete


async def test_a_pull_that_is_given_up(client: Client, cupboard: Cupboard) -> None:
    name = "cupboard.example/many:1"
    reached = asyncio.Event()

    class Stuck(Cupboard):
        async def fetch(self, descriptor: Descriptor, *, offset: int = 0) -> AsyncIterator[bytes]:
            data = cupboard.blobs[descriptor.digest]
            if len(data) < 100_000:
                yield data[offset:]
                return
            yield data[offset : offset + 100_000]
            reached.set()
            await asyncio.Event().wait()

    stuck = Stuck()
    stuck.top = cupboard.top
    pulling = asyncio.create_task(client.pull(name, resolver=stuck))
    async with asyncio.timeout(30):
        await reached.wait()
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    assert await client.leases.list() == []
    assert [info.name async for info in client.snapshots().walk(["kind==active"])] == []
    await client.pull(name, resolver=cupboard)
    assert (await client.run(name, "cat", "/data/last")).stdout == b"4"


async def test_a_task_that_was_never_started(client: Client, busybox: str) -> None:
    async with await client.create_container("c", busybox, args=["sleep", "9"]) as container:
        task = await container.create_task()
        await task.delete(kill=True)
        async with await container.create_task() as task:
            await task.start()
        with pytest.raises(NotFound):
            await container.task()


async def test_no_daemon(directory: Path) -> None:
    async with Client(str(directory / "nowhere.sock")) as client:
        with pytest.raises(Unavailable, match=r"nowhere\.sock"):
            await client.version()
        with pytest.raises(Unavailable):
            await client.run(BUSYBOX, "true")
