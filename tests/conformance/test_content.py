# SPDX-License-Identifier: Apache-2.0
"""The content store suite, run against the local store and against one namespace's view of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from orlop import context
from orlop.errors import AlreadyExists, NotFound
from orlop.interfaces.content import ContentStore
from orlop.values import Namespace
from orlop_core.content.local import LocalContentStore
from orlop_core.events.exchange import Exchange
from orlop_core.metadata.content import Policy
from orlop_core.metadata.store import SqliteMetadataStore
from orlop_sdk import digest as digests
from orlop_sdk.testing.content import ContentStoreSuite, OpenStore, put, read_all, some_bytes


class TestLocal(ContentStoreSuite):
    keeps_labels = False
    local = True

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        async def open() -> ContentStore:
            return await LocalContentStore.open(tmp_path)

        return open


class TestMetadataView(ContentStoreSuite):
    """The view of the metadata store over a local store, which both begin anew at every opening."""

    local = True

    @pytest.fixture(autouse=True)
    def namespace(self) -> Iterator[None]:
        with context.scope(namespace="testsuite"):
            yield

    @pytest.fixture
    async def open_store(self, tmp_path: Path) -> AsyncIterator[OpenStore]:
        closers: list[Callable[[], Awaitable[None]]] = []

        async def open() -> ContentStore:
            for close in closers:
                await close()
            closers.clear()
            backend = await LocalContentStore.open(tmp_path / "content")
            metadata = await SqliteMetadataStore.open(
                tmp_path / "meta.sqlite", content=backend, snapshotters={}, events=Exchange()
            )
            closers.extend((metadata.close, backend.close))
            return metadata.content

        yield open
        for close in closers:
            await close()


class Shared:
    """A metadata store whose namespaces are called one and two."""

    def __init__(self, metadata: SqliteMetadataStore) -> None:
        self.content = metadata.content
        self.namespaces = metadata.namespaces

    async def put(self, namespace: str, data: bytes) -> str:
        with context.scope(namespace=namespace):
            return await put(self.content, data)


@pytest.fixture
async def shared(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shared]:
    policy: Policy = getattr(request, "param", "shared")
    backend = await LocalContentStore.open(tmp_path / "content")
    metadata = await SqliteMetadataStore.open(
        tmp_path / "meta.sqlite", content=backend, snapshotters={}, events=Exchange(), policy=policy
    )
    yield Shared(metadata)
    await metadata.close()
    await backend.close()


async def test_stating_a_digest_of_another_namespace_is_enough(shared: Shared) -> None:
    data = some_bytes(100_000)
    digest = await shared.put("one", data)
    with context.scope(namespace="two"):
        with pytest.raises(NotFound):
            await shared.content.info(digest)
        writer = await shared.content.writer("adopted", total=len(data), expected=digest)
        status = await writer.status()
        assert (status.offset, status.total, writer.digest()) == (len(data), len(data), digest)
        assert await shared.content.statuses() == [status]
        with pytest.raises(NotFound):
            await shared.content.info(digest)
        assert await writer.commit(size=len(data), expected=digest, labels={"mine": "yes"}) == digest
        assert await read_all(shared.content, digest) == data
        assert (await shared.content.info(digest)).labels == {"mine": "yes"}
        assert await shared.content.statuses() == []
    with context.scope(namespace="one"):
        assert (await shared.content.info(digest)).labels == {}


async def test_content_of_another_size_is_not_taken_over(shared: Shared) -> None:
    digest = await shared.put("one", b"12345")
    with context.scope(namespace="two"):
        writer = await shared.content.writer("other-size", total=6, expected=digest)
        assert (await writer.status()).offset == 0
        await writer.close()


async def test_writing_more_copies_what_was_taken_over(shared: Shared) -> None:
    data = some_bytes(3_000_000)
    digest = await shared.put("one", data)
    with context.scope(namespace="two"):
        writer = await shared.content.writer("appended", total=len(data), expected=digest)
        await writer.write(b"and more")
        assert (await writer.status()).offset == len(data) + 8
        longer = digests.of(data + b"and more")
        assert await writer.commit(size=len(data) + 8, expected=longer) == longer
        assert await read_all(shared.content, longer) == data + b"and more"


async def test_starting_over_forgets_what_was_taken_over(shared: Shared) -> None:
    digest = await shared.put("one", b"12345")
    with context.scope(namespace="two"):
        writer = await shared.content.writer("anew", expected=digest)
        await writer.truncate(0)
        await writer.write(b"12345")
        assert await writer.commit(size=5, expected=digest) == digest


@pytest.mark.parametrize("shared", ["isolated"], indirect=True)
async def test_isolated_namespaces_have_to_send(shared: Shared) -> None:
    digest = await shared.put("one", b"12345")
    with context.scope(namespace="two"):
        writer = await shared.content.writer("sent", total=5, expected=digest)
        assert (await writer.status()).offset == 0
        await writer.write(b"12345")
        assert await writer.commit(size=5, expected=digest) == digest
        with pytest.raises(AlreadyExists):
            await shared.content.writer("sent", expected=digest)


@pytest.mark.parametrize("shared", ["isolated"], indirect=True)
async def test_shareable_namespaces_give_also_when_isolated(shared: Shared) -> None:
    await shared.namespaces.create(Namespace("one", {"containerd.io/namespace.shareable": "true"}))
    digest = await shared.put("one", b"12345")
    with context.scope(namespace="two"):
        writer = await shared.content.writer("adopted", total=5, expected=digest)
        assert (await writer.status()).offset == 5
        assert await writer.commit() == digest
