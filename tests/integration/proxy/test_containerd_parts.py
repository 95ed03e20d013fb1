# SPDX-License-Identifier: Apache-2.0
"""Debian's containerd behind our proxies: its content store, differ and snapshotter do as the interfaces say."""

from __future__ import annotations

import gzip
import hashlib
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.daemon import CONTAINERD, Daemon
from tests.support.image import LAYER_GZIP, LAYER_TAR, busybox_layer
from tests.support.place import short_directory

from orlop import context
from orlop.errors import AlreadyExists, FailedPrecondition, NotFound, OutOfRange, Unavailable
from orlop.values import ContentInfo, Descriptor
from orlop_proxy.remote import ProxyContentStore, ProxyDiffer, ProxySnapshotter
from orlop_sdk.linux.mount import temporary_mount


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture(scope="module")
def containerd() -> Iterator[Daemon]:
    with short_directory() as base, Daemon(base, CONTAINERD) as daemon:
        yield daemon


@pytest.fixture
def namespace() -> Iterator[None]:
    with context.scope(namespace=f"parts-{uuid.uuid4().hex}"):
        yield


@pytest.fixture
async def content(containerd: Daemon, namespace: None) -> AsyncIterator[ProxyContentStore]:
    store = ProxyContentStore(str(containerd.address))
    yield store
    await store.close()


async def put(store: ProxyContentStore, data: bytes) -> str:
    writer = await store.writer(f"put-{uuid.uuid4().hex}", total=len(data))
    await writer.write(data)
    return await writer.commit(size=len(data), expected=digest(data), labels={"containerd.io/gc.root": "yes"})


async def test_content_is_written_resumed_and_read(content: ProxyContentStore) -> None:
    data = bytes(range(256)) * 20_000
    writer = await content.writer("ref", total=len(data))
    await writer.write(data[:3_000_000])
    with pytest.raises(Unavailable):
        await content.writer("ref")
    assert (await writer.status()).offset == 3_000_000
    await writer.close()
    assert [status.offset for status in await content.statuses() if status.ref == "ref"] == [3_000_000]
    writer = await content.writer("ref", total=len(data))
    assert (await writer.status()).offset == 3_000_000
    await writer.write(data[3_000_000:])
    assert await writer.commit(size=len(data), expected=digest(data), labels={"a": "b"}) == digest(data)
    assert (await content.info(digest(data))).labels == {"a": "b"}
    with pytest.raises(AlreadyExists):
        await content.writer("other", expected=digest(data))
    reader = await content.reader(Descriptor("", digest(data), 0))
    assert reader.size == len(data)
    assert await reader.read_at(2_000_001, 1_500_000) == data[2_000_001:3_500_001]
    assert await reader.read_at(len(data), 10) == b""
    with pytest.raises(OutOfRange):
        await reader.read_at(len(data) + 1, 1)
    await reader.close()


async def test_labels_and_removal(content: ProxyContentStore) -> None:
    name = await put(content, b"something")
    updated = await content.update(ContentInfo(name, 0, labels={"x": "1"}), ["labels.x"])
    assert updated.labels == {"containerd.io/gc.root": "yes", "x": "1"}
    assert [info.digest async for info in content.walk(["labels.x==1"])] == [name]
    await content.delete(name)
    for call in (content.info(name), content.delete(name), content.reader(Descriptor("", name, 0))):
        with pytest.raises(NotFound):
            await call


async def test_wrong_content_is_refused_and_can_be_aborted(content: ProxyContentStore) -> None:
    writer = await content.writer("ref")
    await writer.write(b"this")
    with pytest.raises(FailedPrecondition):
        await writer.commit(expected=digest(b"that"))
    assert (await content.status("ref")).offset == 4
    await content.abort("ref")
    with pytest.raises(NotFound):
        await content.abort("ref")


async def test_layers_are_applied_and_made(containerd: Daemon, content: ProxyContentStore, short_tmp: Path) -> None:
    address = str(containerd.address)
    differ, snapshotter = ProxyDiffer(address), ProxySnapshotter(address, "native")
    tar = busybox_layer()
    packed = gzip.compress(tar, mtime=0)
    layer = Descriptor(LAYER_GZIP, await put(content, packed), len(packed))
    mounts = await snapshotter.prepare("key")
    assert await differ.apply(layer, mounts) == Descriptor(LAYER_TAR, digest(tar), len(tar))
    with temporary_mount(mounts, short_tmp) as tree:
        assert (tree / "bin/busybox").exists()
        (tree / "new").write_text("new")
    made = await differ.compare([], mounts, media_type=LAYER_TAR, labels={"containerd.io/gc.root": "yes"})
    reader = await content.reader(made)
    assert b"bin/busybox" in await reader.read_at(0, reader.size)
    await reader.close()
    await snapshotter.close()
    await differ.close()
