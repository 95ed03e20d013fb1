# SPDX-License-Identifier: Apache-2.0
"""The suites, run against built-in plugins that run in processes of their own."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from orlop import context
from orlop.config import from_data
from orlop.interfaces.content import CONTENT, ContentStore
from orlop.interfaces.differ import DIFFER, Differ
from orlop.interfaces.metadata import METADATA
from orlop.interfaces.snapshotter import SNAPSHOTTER, Snapshotter
from orlop.interfaces.stream import STREAM_PROCESSOR, TAR, StreamProcessor
from orlop.kernel import Kernel
from orlop.plugin import PluginType
from orlop_images import media
from orlop_sdk.testing.content import ContentStoreSuite, OpenStore
from orlop_sdk.testing.differ import DifferSuite
from orlop_sdk.testing.snapshotter import OpenSnapshotter, SnapshotterSuite
from orlop_sdk.testing.stream import Sample, StreamProcessorSuite

TEXT = b"all work and no play " * 40
ZIPPED = gzip.compress(TEXT, mtime=0)


def kernel(base: Path, type: PluginType[Any], id: str) -> Kernel:
    uri = f"{type.name}.{id}"
    data = {"root": str(base / "r"), "state": str(base / "s"), "plugins": {uri: {"isolated": True}}}
    return Kernel(from_data(data), only=[uri])


class TestSnapshotter(SnapshotterSuite):
    @pytest.fixture
    async def open_snapshotter(self, short_tmp: Path) -> AsyncIterator[OpenSnapshotter]:
        running = kernel(short_tmp, SNAPSHOTTER, "native")

        async def open() -> Snapshotter:
            nonlocal running
            await running.close()
            running = kernel(short_tmp, SNAPSHOTTER, "native")
            await running.start()
            return running.get(SNAPSHOTTER, "native")

        yield open
        await running.close()


class TestContent(ContentStoreSuite):
    keeps_labels = False
    holds_blobs = False

    @pytest.fixture
    async def open_store(self, short_tmp: Path) -> AsyncIterator[OpenStore]:
        running = kernel(short_tmp, CONTENT, "content")

        async def open() -> ContentStore:
            nonlocal running
            await running.close()
            running = kernel(short_tmp, CONTENT, "content")
            await running.start()
            return running.get(CONTENT, "content")

        yield open
        await running.close()


class TestDiffer(DifferSuite):
    @pytest.fixture(autouse=True)
    def namespace(self) -> Iterator[None]:
        with context.scope(namespace="suite"):
            yield

    @pytest.fixture
    async def running(self, short_tmp: Path) -> AsyncIterator[Kernel]:
        async with kernel(short_tmp, DIFFER, "walking") as running:
            yield running

    @pytest.fixture
    def content(self, running: Kernel) -> ContentStore:
        return running.get(METADATA).content

    @pytest.fixture
    def differ(self, running: Kernel) -> Differ:
        return running.get(DIFFER, "walking")


class TestStreamProcessor(StreamProcessorSuite):
    samples = (
        Sample(media.OCI_GZIP, TAR, ZIPPED, TEXT),
        Sample(media.DOCKER_GZIP, TAR, ZIPPED + ZIPPED, TEXT + TEXT),
    )
    damaged = ((media.OCI_GZIP, b""), (media.OCI_GZIP, ZIPPED[:-1]), (media.OCI_GZIP, TEXT))

    @pytest.fixture
    async def processor(self, short_tmp: Path) -> AsyncIterator[StreamProcessor]:
        async with kernel(short_tmp, STREAM_PROCESSOR, "gzip") as running:
            yield running.get(STREAM_PROCESSOR, "gzip")
