# SPDX-License-Identifier: Apache-2.0
"""Stores with more in them than is read at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.unit.core.conftest import Core

from orlop.errors import Unavailable
from orlop_core.metadata import query, snapshots
from orlop_sdk import digest as digests
from orlop_sdk.testing.content import put

pytestmark = pytest.mark.usefixtures("in_namespace")

COUNT = 23
ROOT = {"containerd.io/gc.root": "1"}


@pytest.fixture(params=[1, 5, COUNT, 100], autouse=True)
def page(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How much is read at once."""
    monkeypatch.setattr(query, "PAGE", request.param)
    monkeypatch.setattr(snapshots, "_FEW", 3)
    return int(request.param)


def parity(number: int) -> dict[str, str]:
    return {"parity": "even" if number % 2 == 0 else "odd", f"number-{number}": "yes"}


async def test_blobs(core: Core) -> None:
    content = core.metadata.content
    made = [await put(content, b"blob %d" % number, labels=parity(number)) for number in range(COUNT)]
    assert [info.digest async for info in content.walk()] == sorted(made)
    assert [info.digest async for info in content.walk(["labels.parity==even"])] == sorted(made[::2])
    filters = ["labels.parity==odd,digest~=/[0-7]$/", 'labels."number-4"']
    wanted = {digest for digest in made[1::2] if digest[-1] in "01234567"} | {made[4]}
    assert [info.digest async for info in content.walk(filters)] == sorted(wanted)
    assert [info async for info in content.walk(["labels.parity==neither"])] == []


async def test_blobs_that_come_and_go_meanwhile(core: Core) -> None:
    content = core.metadata.content
    made = sorted([await put(content, b"blob %d" % number, labels=ROOT) for number in range(COUNT)])
    seen = []
    async for info in content.walk():
        seen.append(info.digest)
        if len(seen) == COUNT // 2:
            await content.delete(made[-1])
            await put(content, b"another")
    assert [digest for digest in seen if digest in made[:-1]] == made[:-1]
    assert set(seen) <= {*made, digests.of(b"another")}


async def test_snapshots(core: Core) -> None:
    native = core.metadata.snapshotters["native"]
    for number in range(COUNT):
        await native.prepare("active")
        await native.commit(f"s{number:02}", "active", labels=parity(number))
    names = [f"s{number:02}" for number in range(COUNT)]
    assert [info.name async for info in native.walk()] == names
    assert [info.name async for info in native.walk(["labels.parity==odd"])] == names[1::2]
    assert [info.name async for info in native.walk(["name==s07"])] == ["s07"]
    assert [info.name async for info in native.walk(["kind==active"])] == []


def stop_removal(core: Core, monkeypatch: pytest.MonkeyPatch, how: Callable[[], object]) -> None:
    """Have the back end's removal of blobs fail at the third."""
    delete, calls = core.content.delete, [0]

    async def failing(digest: str) -> None:
        calls[0] += 1
        if calls[0] == 3:
            how()
        await delete(digest)

    monkeypatch.setattr(core.content, "delete", failing)


async def test_what_a_broken_collection_left_goes_with_the_next(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its records are gone, so that only the back end knows of it."""
    await core.metadata.collect()  # the first one looks everywhere
    for number in range(COUNT):
        await put(core.metadata.content, b"garbage %d" % number)

    def fail() -> None:
        raise Unavailable("the disk is busy")

    with monkeypatch.context() as patch:
        stop_removal(core, patch, fail)
        with pytest.raises(Unavailable):
            await core.metadata.collect()
    assert [info async for info in core.content.walk()] != []
    await core.metadata.collect()
    assert [info async for info in core.content.walk()] == []


async def test_what_a_cancelled_collection_left_goes_with_the_next(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    await core.metadata.collect()
    for number in range(COUNT):
        await put(core.metadata.content, b"garbage %d" % number)
    collection = asyncio.ensure_future(core.metadata.collect())
    with monkeypatch.context() as patch:
        stop_removal(core, patch, collection.cancel)
        with pytest.raises(asyncio.CancelledError):
            await collection
    await core.metadata.collect()
    assert [info async for info in core.content.walk()] == []


async def test_only_what_was_removed_is_looked_for(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection does not go through a back end again whose contents are known."""
    metadata, native = core.metadata, core.metadata.snapshotters["native"]
    await put(metadata.content, b"kept", labels=ROOT)
    await native.prepare("kept", labels=ROOT)
    await metadata.collect()
    await put(metadata.content, b"garbage")
    deleted = await put(metadata.content, b"deleted", labels=ROOT)
    await metadata.content.delete(deleted)
    await native.prepare("base")
    await native.commit("layer", "base", labels=ROOT)
    await native.prepare("on top", "layer")
    await native.prepare("removed", labels=ROOT)
    await native.remove("removed")
    with monkeypatch.context() as patch:
        for store in (core.content, core.snapshots):
            patch.setattr(store, "walk", None)
        assert (await metadata.collect()).removed == {"content": 1, "snapshots/native": 1, "blobs": 2}
    assert [info.digest async for info in core.content.walk()] == [digests.of(b"kept")]
    assert {info.name.rpartition("/")[2] async for info in core.snapshots.walk()} == {"kept", "layer"}
