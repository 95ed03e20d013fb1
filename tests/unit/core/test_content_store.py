# SPDX-License-Identifier: Apache-2.0
"""What the local content store leaves on disk, and what it makes of what it finds there."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orlop.errors import FailedPrecondition, NotFound, ResourceExhausted
from orlop.values import Descriptor
from orlop_core.content import durability
from orlop_core.content.durability import DirectorySync
from orlop_core.content.local import LocalContentStore
from orlop_sdk import digest as digests
from orlop_sdk.testing.content import put, read_all, some_bytes


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalContentStore]:
    opened = await LocalContentStore.open(tmp_path)
    yield opened
    await opened.close()


def directory(root: Path, ref: str) -> Path:
    return root / "ingest" / hashlib.sha256(ref.encode()).hexdigest()


async def test_layout(store: LocalContentStore, tmp_path: Path) -> None:
    writer = await store.writer("the ref", total=7)
    await writer.write(b"good")
    await writer.close()
    ingest = directory(tmp_path, "the ref")
    assert sorted(path.name for path in ingest.iterdir()) == ["data", "ref", "startedat", "total", "updatedat"]
    assert (ingest / "ref").read_text() == "the ref"
    assert (ingest / "total").read_text() == "7"
    assert (ingest / "data").read_bytes() == b"good"
    assert datetime.fromisoformat((ingest / "startedat").read_text()).tzinfo is not None
    writer = await store.writer("the ref")
    await writer.write(b"bye")
    digest = await writer.commit()
    blob = tmp_path / "blobs/sha256" / digest.removeprefix("sha256:")
    assert blob.read_bytes() == b"goodbye"
    assert blob.stat().st_mode & 0o777 == 0o444
    assert not ingest.exists()


async def test_an_ingest_that_containerd_left_is_resumed(tmp_path: Path) -> None:
    ingest = directory(tmp_path, "layer")
    ingest.mkdir(parents=True)
    (ingest / "ref").write_text("layer")
    (ingest / "startedat").write_text("2024-05-06T07:08:09.123456789Z")
    (ingest / "updatedat").write_text("2024-05-06T07:08:10.5Z")
    (ingest / "data").write_bytes(b"good")
    store = await LocalContentStore.open(tmp_path)
    status = await store.status("layer")
    assert (status.offset, status.total) == (4, 0)
    assert status.started_at == datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    writer = await store.writer("layer")
    assert writer.digest() == digests.of(b"good")
    await writer.write(b"bye")
    assert await writer.commit() == digests.of(b"goodbye")
    await store.close()


async def test_what_a_crash_tore_is_cleared_up(tmp_path: Path) -> None:
    for name, files in (("a" * 64, {}), ("b" * 64, {"data": b"x"}), ("c" * 64, {"ref": b"other ref", "data": b"x"})):
        torn = tmp_path / "ingest" / name
        torn.mkdir(parents=True)
        for file, data in files.items():
            (torn / file).write_bytes(data)
    half = directory(tmp_path, "half")
    half.mkdir()
    (half / "ref").write_text("half")
    (half / "startedat").write_text("")
    store = await LocalContentStore.open(tmp_path)
    assert [(status.ref, status.offset) for status in await store.statuses()] == [("half", 0)]
    assert [path.name for path in (tmp_path / "ingest").iterdir()] == [half.name]
    writer = await store.writer("half")
    await writer.write(b"whole")
    assert await writer.commit() == digests.of(b"whole")
    await store.close()


async def test_strangers_among_the_blobs_are_passed_over(store: LocalContentStore, tmp_path: Path) -> None:
    digest = await put(store, b"x")
    (tmp_path / "blobs/sha256/stranger").write_text("")
    (tmp_path / "blobs/sha256" / ("Z" * 64)).write_text("")
    assert [info.digest async for info in store.walk()] == [digest]


async def test_an_ingest_aborted_under_its_writer_is_gone(store: LocalContentStore) -> None:
    writer = await store.writer("ref")
    await writer.write(b"x")
    await store.abort("ref")
    with pytest.raises(NotFound):
        await writer.commit()
    again = await store.writer("ref")
    assert (await again.status()).offset == 0
    await store.abort("ref")
    await again.close()


async def test_labels_are_refused(store: LocalContentStore) -> None:
    writer = await store.writer("ref")
    with pytest.raises(FailedPrecondition):
        await writer.commit(labels={"a": "1"})
    assert await writer.commit() == digests.of(b"")


async def test_a_full_disk(store: LocalContentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = await store.writer("ref")
    data = some_bytes(1_000_000)
    written = os.pwrite

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ResourceExhausted):
        await writer.write(data)
    monkeypatch.setattr(os, "pwrite", written)
    await writer.truncate(0)
    await writer.write(data)
    assert await writer.commit() == digests.of(data)


async def test_short_writes_are_carried_on(store: LocalContentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    written = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: written(fd, data[:1001], offset))
    data = some_bytes(700_000)
    digest = await put(store, data)
    assert await read_all(store, digest) == data


async def test_closing_a_reader_waits_for_reads_left_behind(store: LocalContentStore) -> None:
    data = some_bytes(4_000_000)
    reader = await store.reader(Descriptor("", await put(store, data), 0))
    reads = [asyncio.create_task(reader.read_at(0, len(data))) for _ in range(4)]
    await asyncio.sleep(0)
    reads[0].cancel()
    await reader.close()
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert results[1:] == [data] * 3
    with pytest.raises(FailedPrecondition):
        await reader.read_at(0, 1)


async def test_a_cancelled_open_frees_the_ref(store: LocalContentStore) -> None:
    opening = asyncio.create_task(store.writer("ref"))
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    for _ in range(100):
        if not store._writers:
            break
        await asyncio.sleep(0.02)
    await (await store.writer("ref")).close()


def test_many_threads_share_a_directory_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go = threading.Event(), threading.Event()
    syncs: list[set[str]] = []

    def fsync(path: Path) -> None:
        syncs.append({entry.name for entry in path.iterdir()})
        began.set()
        assert go.wait(10)

    monkeypatch.setattr(durability, "fsync_directory", fsync)
    sync = DirectorySync(tmp_path)
    seen: dict[str, int] = {}

    def work(name: str) -> None:
        (tmp_path / name).touch()
        sync.sync()
        seen[name] = next(number for number, names in enumerate(syncs) if name in names)

    first = threading.Thread(target=work, args=("first",))
    first.start()
    assert began.wait(10)
    rest = [threading.Thread(target=work, args=(f"n{number}",)) for number in range(8)]
    for thread in rest:
        thread.start()
    for _ in range(1000):
        if len(list(tmp_path.iterdir())) == 9:
            break
        time.sleep(0.005)
    go.set()
    for thread in (first, *rest):
        thread.join(10)
    assert len(seen) == 9
    assert len(syncs) <= 3


def test_a_failed_directory_sync_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(durability, "fsync_directory", fsync)
    sync = DirectorySync(tmp_path)
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error"):
            sync.sync()
    monkeypatch.undo()
    sync.sync()
