# SPDX-License-Identifier: Apache-2.0
"""The conformance suite for content stores.

Subclass it in a test file, and give it a fixture that returns how to open yours::

    class TestDemo(ContentStoreSuite):
        @pytest.fixture
        def open_store(self, tmp_path: Path) -> OpenStore:
            async def open() -> ContentStore:
                return DemoContentStore(tmp_path)

            return open

Class variables say what yours does not do.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import ClassVar, TypeAlias

import pytest
import pytest_asyncio

from orlop.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
    Unimplemented,
)
from orlop.interfaces.content import ContentReader, ContentStore, LocalReader
from orlop.values import EMPTY, ContentInfo, Descriptor, Labels, now
from orlop_sdk import digest as digests

OpenStore: TypeAlias = Callable[[], Awaitable[ContentStore]]

_MOMENT = timedelta(seconds=2)


def some_bytes(size: int, seed: int = 0) -> bytes:
    """Bytes that look random and are the same at every call."""
    return random.Random(seed).randbytes(size)  # noqa: S311  # test data


async def read_all(store: ContentStore, digest: str, step: int = 1 << 20) -> bytes:
    """A blob's bytes, read in steps."""
    reader = await store.reader(Descriptor("", digest, 0))
    try:
        parts = []
        offset = 0
        while part := await reader.read_at(offset, step):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)
    finally:
        await reader.close()


async def put(store: ContentStore, data: bytes, ref: str = "", labels: Labels = EMPTY) -> str:
    """Write what is missing of a blob and return its digest."""
    digest = digests.of(data)
    writer = await store.writer(ref or f"put-{digest}", total=len(data), expected=digest)
    try:
        if missing := data[(await writer.status()).offset :]:
            await writer.write(missing)
        return await writer.commit(size=len(data), expected=digest, labels=labels)
    finally:
        await writer.close()


class ContentStoreSuite:
    """What every content store does. Each test has a store of its own, empty at the start."""

    keeps_labels: ClassVar[bool] = True
    """Blobs have labels. A store that leaves them to the metadata store refuses them with `FailedPrecondition`."""
    reopens: ClassVar[bool] = True
    """Opening again, after `close`, gives the same blobs and ingests."""
    local: ClassVar[bool] = False
    """Readers have the power `LocalReader`."""
    holds_blobs: ClassVar[bool] = True
    """A blob that is deleted can be read to its end by who has it open; behind containerd's API it cannot."""

    @pytest.fixture
    def open_store(self) -> OpenStore:
        """How to open the store under test, always in the same place within one test."""
        pytest.fail(f"{type(self).__name__} lacks the fixture open_store; see {__name__}")

    @pytest_asyncio.fixture
    async def store(self, open_store: OpenStore) -> AsyncIterator[ContentStore]:
        """The store under test."""
        opened = await open_store()
        yield opened
        await opened.close()

    # ---- writing and reading ------------------------------------------------------------------------------------

    async def test_blobs_of_all_sizes_come_back(self, store: ContentStore) -> None:
        sizes = (1, 4095, 70_000, 600_000, 5_000_000, 32 << 20)
        for number, size in enumerate(sizes):
            data = some_bytes(size, number)
            started = now()
            digest = await put(store, data)
            assert digest == digests.of(data)
            info = await store.info(digest)
            assert (info.digest, info.size) == (digest, size)
            assert started - _MOMENT <= info.created_at <= now() + _MOMENT
            assert hashlib.sha256(await read_all(store, digest)).hexdigest() == digest.removeprefix("sha256:")

    async def test_writers_do_not_mix(self, store: ContentStore) -> None:
        blobs = [some_bytes(200_000 + number, number) for number in range(5)]
        writers = [await store.writer(f"mixed-{number}") for number in range(5)]
        for start in range(0, 210_000, 7001):
            for writer, data in zip(writers, blobs, strict=True):
                await writer.write(data[start : start + 7001])
        assert [status.ref for status in await store.statuses()] == [f"mixed-{number}" for number in range(5)]
        made = await asyncio.gather(*(writer.commit() for writer in writers))
        assert made == [digests.of(data) for data in blobs]
        assert await store.statuses() == []

    async def test_empty_blob(self, store: ContentStore) -> None:
        writer = await store.writer("empty")
        digest = await writer.commit()
        assert digest == digests.of(b"")
        assert (await store.info(digest)).size == 0
        assert await read_all(store, digest) == b""

    async def test_memoryviews_and_many_small_writes(self, store: ContentStore) -> None:
        data = some_bytes(40_000)
        writer = await store.writer("small")
        for start in range(0, len(data), 37):
            await writer.write(memoryview(data)[start : start + 37])
        assert writer.digest() == digests.of(data)
        assert await writer.commit(size=len(data)) == digests.of(data)
        assert await read_all(store, digests.of(data), step=999) == data

    async def test_digests_of_other_algorithms(self, store: ContentStore) -> None:
        data = some_bytes(100_000)
        for algorithm in ("sha384", "sha512"):
            expected = digests.of(data, algorithm)
            writer = await store.writer(f"in-{algorithm}", expected=expected)
            await writer.write(data)
            assert await writer.commit(size=len(data), expected=expected) == expected
            assert await read_all(store, expected) == data

    async def test_algorithm_known_only_at_commit(self, store: ContentStore) -> None:
        data = some_bytes(100_000)
        expected = digests.of(data, "sha512")
        writer = await store.writer("late")
        await writer.write(data)
        assert await writer.commit(expected=expected) == expected
        assert await read_all(store, expected) == data

    async def test_reading_at_offsets(self, store: ContentStore) -> None:
        data = some_bytes(300_000)
        reader = await store.reader(Descriptor("", await put(store, data), 0))
        assert reader.size == len(data)
        assert await reader.read_at(0, 10) == data[:10]
        assert await reader.read_at(299_990, 100) == data[-10:]
        assert await reader.read_at(100_000, 200_000) == data[100_000:]
        assert await reader.read_at(len(data), 1) == b""
        with pytest.raises(OutOfRange):
            await reader.read_at(len(data) + 1, 1)
        await reader.close()
        await reader.close()

    async def test_many_read_one_blob(self, store: ContentStore) -> None:
        data = some_bytes(2_000_000)
        digest = await put(store, data)
        assert await asyncio.gather(*(read_all(store, digest, 100_000 + n) for n in range(8))) == [data] * 8

    async def test_blob_stays_readable_while_open(self, store: ContentStore) -> None:
        if not self.holds_blobs:
            pytest.skip("its readers do not hold blobs")
        data = some_bytes(2_000_000)
        digest = await put(store, data)
        reader = await store.reader(Descriptor("", digest, 0))
        await store.delete(digest)
        assert await _drain(reader) == data
        await reader.close()

    async def test_local_readers_have_a_file(self, store: ContentStore) -> None:
        reader = await store.reader(Descriptor("", await put(store, b"to be read by others"), 0))
        assert isinstance(reader, LocalReader) is self.local
        if isinstance(reader, LocalReader):
            assert os.pread(reader.fileno(), 100, 0) == b"to be read by others"
        await reader.close()

    # ---- ingests ------------------------------------------------------------------------------------------------

    async def test_status_follows_the_writer(self, store: ContentStore) -> None:
        before = now()
        writer = await store.writer("followed", total=3000)
        first = await store.status("followed")
        assert (first.ref, first.offset, first.total) == ("followed", 0, 3000)
        assert before - _MOMENT <= first.started_at <= now() + _MOMENT
        for part in range(3):
            await writer.write(some_bytes(1000, part))
            status = await store.status("followed")
            told = await writer.status()
            assert replace(status, updated_at=told.updated_at) == told
            assert abs(status.updated_at - told.updated_at) <= _MOMENT
            assert status.offset == 1000 * (part + 1)
            assert status.started_at == first.started_at
            assert status.updated_at >= first.updated_at
        await writer.commit(size=3000)
        with pytest.raises(NotFound):
            await store.status("followed")

    async def test_statuses_are_filtered(self, store: ContentStore) -> None:
        writers = [await store.writer(ref) for ref in ("layer-1", "layer-2", "config")]
        assert [status.ref for status in await store.statuses(["ref~=layer"])] == ["layer-1", "layer-2"]
        assert [status.ref for status in await store.statuses(["ref==config"])] == ["config"]
        with pytest.raises(InvalidArgument):
            await store.statuses(["ref===x"])
        for writer in writers:
            await writer.close()

    @pytest.mark.parametrize("size", [500, 5000, 50_000, 2_000_000])
    async def test_resuming(self, store: ContentStore, size: int) -> None:
        data = some_bytes(size, size)
        for number, cut in enumerate((0, 1, size // 2, size - 1, size)):
            blob = data + bytes([number])
            ref = f"resumed-{cut}"
            writer = await store.writer(ref, total=len(blob))
            await writer.write(blob[:cut])
            await writer.close()
            await writer.close()
            assert (await store.status(ref)).offset == cut
            again = await store.writer(ref, total=len(blob))
            status = await again.status()
            assert (status.offset, status.total) == (cut, len(blob))
            assert again.digest() == digests.of(blob[:cut])
            await again.write(blob[cut:])
            assert await again.commit(size=len(blob), expected=digests.of(blob)) == digests.of(blob)
            assert await read_all(store, digests.of(blob)) == blob

    async def test_resuming_after_reopening(self, open_store: OpenStore) -> None:
        if not self.reopens:
            pytest.skip("the store starts empty each time")
        data = some_bytes(3_000_000)
        first = await open_store()
        kept = await put(first, b"kept")
        writer = await first.writer("left", total=len(data))
        await writer.write(data[:1_234_567])
        await writer.close()
        started = (await first.status("left")).started_at
        await first.close()
        await first.close()
        second = await open_store()
        assert await read_all(second, kept) == b"kept"
        status = await second.status("left")
        assert (status.offset, status.total, status.started_at) == (1_234_567, len(data), started)
        writer = await second.writer("left")
        await writer.write(data[1_234_567:])
        assert await writer.commit(size=len(data)) == digests.of(data)
        await second.close()

    async def test_truncating(self, store: ContentStore) -> None:
        writer = await store.writer("cut")
        await writer.write(some_bytes(700_000))
        with pytest.raises(Unimplemented):
            await writer.truncate(1)
        await writer.truncate(0)
        assert (await writer.status()).offset == 0
        await writer.write(b"anew")
        assert await writer.commit(size=4) == digests.of(b"anew")
        assert await read_all(store, digests.of(b"anew")) == b"anew"

    async def test_aborting(self, store: ContentStore) -> None:
        writer = await store.writer("dropped")
        await writer.write(b"nobody needs this")
        await writer.close()
        await store.abort("dropped")
        with pytest.raises(NotFound):
            await store.abort("dropped")
        with pytest.raises(NotFound):
            await store.status("dropped")
        again = await store.writer("dropped")
        assert (await again.status()).offset == 0
        await again.close()

    async def test_cancelled_writes_leave_a_usable_writer(self, store: ContentStore) -> None:
        writer = await store.writer("cancelled")
        data = some_bytes(8_000_000)
        task = asyncio.create_task(writer.write(data))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await writer.truncate(0)
        await writer.write(b"whole")
        assert await writer.commit(expected=digests.of(b"whole")) == digests.of(b"whole")

    # ---- what is refused ----------------------------------------------------------------------------------------

    async def test_a_ref_has_one_writer(self, store: ContentStore) -> None:
        writer = await store.writer("busy")
        with pytest.raises(Unavailable):
            await store.writer("busy")
        await writer.close()
        await (await store.writer("busy")).close()

    async def test_wrong_size_or_digest_keeps_the_data(self, store: ContentStore) -> None:
        data = some_bytes(1000)
        writer = await store.writer("wrong")
        await writer.write(data)
        with pytest.raises(FailedPrecondition):
            await writer.commit(size=999)
        writer = await store.writer("wrong")
        assert (await writer.status()).offset == 1000
        with pytest.raises(FailedPrecondition):
            await writer.commit(expected=digests.of(b"something else"))
        writer = await store.writer("wrong")
        assert await writer.commit(size=1000, expected=digests.of(data)) == digests.of(data)

    async def test_committing_what_exists(self, store: ContentStore) -> None:
        data = some_bytes(1000)
        digest = await put(store, data)
        for ref in ("same", "other"):
            writer = await store.writer(ref)
            await writer.write(data)
            with pytest.raises(AlreadyExists):
                await writer.commit(size=1000, expected=digest)
            with pytest.raises(NotFound):
                await store.status(ref)
        with pytest.raises(AlreadyExists):
            await store.writer("third", expected=digest)
        assert await read_all(store, digest) == data

    async def test_two_commits_of_one_blob(self, store: ContentStore) -> None:
        data = some_bytes(1_000_000)
        writers = [await store.writer(f"twin-{number}") for number in range(4)]
        for writer in writers:
            await writer.write(data)
        results = await asyncio.gather(*(writer.commit() for writer in writers), return_exceptions=True)
        assert results.count(digests.of(data)) == 1
        assert sum(isinstance(result, AlreadyExists) for result in results) == 3
        assert await read_all(store, digests.of(data)) == data

    async def test_closed_writers_refuse(self, store: ContentStore) -> None:
        writer = await store.writer("over")
        await writer.close()
        with pytest.raises(FailedPrecondition):
            await writer.write(b"more")
        with pytest.raises(FailedPrecondition):
            await writer.commit()

    async def test_missing_things(self, store: ContentStore) -> None:
        absent = digests.of(b"absent")
        with pytest.raises(NotFound):
            await store.info(absent)
        with pytest.raises(NotFound):
            await store.delete(absent)
        with pytest.raises(NotFound):
            await store.reader(Descriptor("", absent, 0))
        with pytest.raises(NotFound):
            await store.status("absent")

    async def test_malformed_arguments(self, store: ContentStore) -> None:
        with pytest.raises(InvalidArgument):
            await store.writer("")
        with pytest.raises(InvalidArgument):
            await store.writer("ref", expected="md5:d41d8cd98f00b204e9800998ecf8427e")
        with pytest.raises(InvalidArgument):
            await store.writer("ref", expected="sha256:../../etc/passwd")

    # ---- blobs --------------------------------------------------------------------------------------------------

    async def test_walking(self, store: ContentStore) -> None:
        made = sorted([await put(store, some_bytes(10, number)) for number in range(300)])
        assert [info.digest async for info in store.walk()] == made
        assert [info.digest async for info in store.walk([f"digest=={made[7]}"])] == [made[7]]
        assert [info.digest async for info in store.walk([f"digest=={made[7]}", f"digest=={made[9]}"])] == [
            made[7],
            made[9],
        ]
        async for info in store.walk():
            await store.delete(info.digest)  # other calls may be made within
        assert [info.digest async for info in store.walk()] == []

    async def test_labels(self, store: ContentStore) -> None:
        if not self.keeps_labels:
            pytest.skip("the store leaves labels to the metadata store")
        digest = await put(store, b"labelled", labels={"one": "1", "two": "2"})
        before = await store.info(digest)
        assert before.labels == {"one": "1", "two": "2"}
        changed = await store.update(ContentInfo(digest, 0, labels={"one": "uno", "three": "3"}), ["labels.one"])
        assert changed.labels == {"one": "uno", "two": "2"}
        changed = await store.update(ContentInfo(digest, 0, labels={"one": ""}), ["labels.one"])
        assert changed.labels == {"two": "2"}
        changed = await store.update(ContentInfo(digest, 0, labels={"a.b/c": "4"}))
        assert changed.labels == {"a.b/c": "4"}
        changed = await store.update(ContentInfo(digest, 0, labels={"x": "5"}), ["labels"])
        after = await store.info(digest)
        assert after == changed
        assert (after.size, after.created_at) == (before.size, before.created_at)
        assert after.updated_at >= before.updated_at
        assert [info.digest async for info in store.walk(["labels.x==5"])] == [digest]
        assert [info.digest async for info in store.walk(["labels.one"])] == []

    async def test_refused_labels(self, store: ContentStore) -> None:
        if not self.keeps_labels:
            pytest.skip("the store leaves labels to the metadata store")
        digest = await put(store, b"labelled", labels={"one": "1"})
        info = await store.info(digest)
        with pytest.raises(InvalidArgument):
            await store.update(replace(info, size=12), ["size"])
        with pytest.raises(InvalidArgument):
            await store.update(replace(info, labels={"k": "v" * 4096}))
        with pytest.raises(NotFound):
            await store.update(ContentInfo(digests.of(b"absent"), 0))
        writer = await store.writer("too-long")
        await writer.write(b"x")
        with pytest.raises(InvalidArgument):
            await writer.commit(labels={"k": "v" * 4096})
        await writer.close()
        assert (await store.info(digest)).labels == {"one": "1"}

    async def test_labels_left_to_others(self, store: ContentStore) -> None:
        if self.keeps_labels:
            pytest.skip("the store keeps labels")
        digest = await put(store, b"plain")
        with pytest.raises(FailedPrecondition):
            await store.update(ContentInfo(digest, 0, labels={"one": "1"}))


async def _drain(reader: ContentReader) -> bytes:
    parts = []
    offset = 0
    while part := await reader.read_at(offset, 100_000):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
