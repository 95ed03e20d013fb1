# SPDX-License-Identifier: Apache-2.0
"""The snapshotter suite, run against the views that a metadata store gives of snapshotters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from orlop import context
from orlop.blocking import run_blocking
from orlop.interfaces.snapshotter import Snapshotter
from orlop_core.content.local import LocalContentStore
from orlop_core.events.exchange import Exchange
from orlop_core.metadata.store import SqliteMetadataStore
from orlop_sdk.testing.snapshotter import OpenSnapshotter, SnapshotterSuite
from orlop_snapshots.overlayfs import OverlaySnapshotter, default_options


class TestMetadataView(SnapshotterSuite):
    """A namespace's view of overlayfs; store and snapshotter begin anew at every opening."""

    rebases = True
    renames_directories = False

    @pytest.fixture(autouse=True)
    def namespace(self) -> Iterator[None]:
        with context.scope(namespace="testsuite"):
            yield

    @pytest.fixture
    async def open_snapshotter(self, short_tmp: Path) -> AsyncIterator[OpenSnapshotter]:
        closers: list[Callable[[], Awaitable[None]]] = []

        async def close_all() -> None:
            for close in closers:
                await close()
            closers.clear()

        async def open() -> Snapshotter:
            await close_all()
            content = await LocalContentStore.open(short_tmp / "content")
            backend = await run_blocking(OverlaySnapshotter, short_tmp / "root", options=default_options())
            metadata = await SqliteMetadataStore.open(
                short_tmp / "meta.sqlite", content=content, snapshotters={"overlayfs": backend}, events=Exchange()
            )
            closers.extend((metadata.close, backend.close, content.close))
            return metadata.snapshotters["overlayfs"]

        yield open
        await close_all()
