# SPDX-License-Identifier: Apache-2.0
"""The content store through the client: writing, resuming, reading."""

from __future__ import annotations

import asyncio
import hashlib
import itertools

import pytest
from tests.support.image import noise

from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, Unavailable
from orlop.values import ContentInfo, Descriptor
from orlop_sdk.client import Client
from orlop_sdk.client.image import chunks
from orlop_sdk.client.transfer import ingest

SIZE = 5_000_000
_seeds = itertools.count()


@pytest.fixture
def data() -> bytes:
    """Bytes of which no test had the same: what one namespace has, others get without sending it."""
    return noise(next(_seeds), SIZE)


@pytest.fixture
def blob(data: bytes) -> Descriptor:
    """The descriptor of *data*."""
    return Descriptor("application/octet-stream", "sha256:" + hashlib.sha256(data).hexdigest(), SIZE)


async def write(client: Client, data: bytes) -> str:
    writer = await client.content.writer("ref", total=len(data))
    await writer.write(data)
    return await writer.commit(size=len(data), labels={"containerd.io/gc.root": "now"})


async def test_write_and_read(client: Client, data: bytes, blob: Descriptor) -> None:
    assert await write(client, data) == blob.digest
    info = await client.content.info(blob.digest)
    assert (info.size, info.labels) == (SIZE, {"containerd.io/gc.root": "now"})
    reader = await client.content.reader(blob)
    assert await reader.read_at(4_999_990, 100) == data[-10:]
    assert await reader.read_at(SIZE, 10) == b""
    assert await reader.read_at(0, SIZE) == data
    with pytest.raises(OutOfRange):
        await reader.read_at(SIZE + 1, 1)
    assert b"".join([chunk async for chunk in chunks(client.content, blob, 1_000_000)]) == data[1_000_000:]


async def test_an_empty_blob(client: Client) -> None:
    digest = await write(client, b"")
    reader = await client.content.reader(Descriptor("", digest, 0))
    assert reader.size == 0
    assert await reader.read_at(0, 10) == b""


async def test_resume_where_it_ended(client: Client, data: bytes, blob: Descriptor) -> None:
    writer = await client.content.writer("ref", total=SIZE, expected=blob.digest)
    await writer.write(data[:3_000_000])
    await writer.close()
    assert (await client.content.status("ref")).offset == 3_000_000
    writer = await client.content.writer("ref", total=SIZE, expected=blob.digest)
    assert (await writer.status()).offset == 3_000_000
    await writer.write(data[3_000_000:])
    assert await writer.commit(size=SIZE, expected=blob.digest, labels={"containerd.io/gc.root": "now"}) == blob.digest
    with pytest.raises(NotFound):
        await client.content.status("ref")


async def test_start_over(client: Client) -> None:
    writer = await client.content.writer("ref")
    await writer.write(b"wrong")
    await writer.truncate(0)
    await writer.write(b"right")
    digest = await writer.commit(size=5, labels={"containerd.io/gc.root": "now"})
    assert digest == "sha256:" + hashlib.sha256(b"right").hexdigest()


async def test_one_writer_at_a_time(client: Client) -> None:
    writer = await client.content.writer("ref")
    with pytest.raises(Unavailable):
        await client.content.writer("ref")
    await writer.close()
    await writer.close()
    again = await client.content.writer("ref")
    await again.close()
    await client.content.abort("ref")
    with pytest.raises(NotFound):
        await client.content.abort("ref")


async def test_what_exists_is_not_written_again(client: Client, data: bytes, blob: Descriptor) -> None:
    await write(client, data)
    with pytest.raises(AlreadyExists):
        await client.content.writer("other", expected=blob.digest)


async def test_a_wrong_digest_is_refused(client: Client, blob: Descriptor) -> None:
    writer = await client.content.writer("ref")
    await writer.write(b"data")
    with pytest.raises(FailedPrecondition):
        await writer.commit(expected=blob.digest)
    with pytest.raises(FailedPrecondition):
        await writer.write(b"more")


async def test_a_ref_is_needed(client: Client) -> None:
    with pytest.raises(InvalidArgument):
        await client.content.writer("")


async def test_labels(client: Client, data: bytes, blob: Descriptor) -> None:
    await write(client, data)
    changed = await client.content.update(ContentInfo(blob.digest, 0, labels={"a": "b"}), ["labels.a"])
    assert changed.labels == {"a": "b", "containerd.io/gc.root": "now"}
    assert [info.digest async for info in client.content.walk(["labels.a==b"])] == [blob.digest]
    assert [info.digest async for info in client.content.walk(["labels.a==c"])] == []


async def test_a_cancelled_write_frees_the_ref(client: Client, data: bytes, blob: Descriptor) -> None:
    started = asyncio.Event()

    async def endless(offset: int):  # type: ignore[no-untyped-def]  # an async generator of bytes
        yield data[offset : offset + 1_000_000]
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(ingest(client.content, blob, endless))
    async with asyncio.timeout(20):
        await started.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        async def rest(offset: int):  # type: ignore[no-untyped-def]  # an async generator of bytes
            assert offset == 1_000_000
            yield data[offset:]

        assert await ingest(client.content, blob, rest, labels={"containerd.io/gc.root": "now"})
    assert not await ingest(client.content, blob, rest)


async def test_concurrent_fetches_of_one_blob_share_the_work(client: Client, data: bytes, blob: Descriptor) -> None:
    opened = 0

    async def source(offset: int):  # type: ignore[no-untyped-def]  # an async generator of bytes
        nonlocal opened
        opened += 1
        yield data[offset:]
        await asyncio.sleep(0.1)

    async with client.lease():
        came = await asyncio.gather(*(ingest(client.content, blob, source) for _ in range(3)))
    assert sorted(came) == [False, False, True]
    assert opened == 1
