# SPDX-License-Identifier: Apache-2.0
"""A metadata store over real back ends, without a kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orlop import context
from orlop.blocking import run_blocking
from orlop.interfaces.content import ContentStore
from orlop.interfaces.snapshotter import Snapshotter
from orlop_core.content.local import LocalContentStore
from orlop_core.events.exchange import Exchange
from orlop_core.metadata.store import SqliteMetadataStore
from orlop_snapshots.native import NativeSnapshotter


@dataclass
class Core:
    """A metadata store, what it stands on, and the means to stop and start it."""

    root: Path
    metadata: SqliteMetadataStore
    content: ContentStore
    snapshots: Snapshotter
    events: Exchange

    @classmethod
    async def open(cls, root: Path) -> Core:
        events = Exchange()
        content = await LocalContentStore.open(root / "content")
        snapshots = await run_blocking(NativeSnapshotter, root / "native", sync_remove=True)
        metadata = await SqliteMetadataStore.open(
            root / "meta.sqlite", content=content, snapshotters={"native": snapshots}, events=events
        )
        return cls(root, metadata, content, snapshots, events)

    async def close(self) -> None:
        await self.metadata.close()
        await self.snapshots.close()
        await self.content.close()

    async def reopen(self) -> None:
        await self.close()
        self.__dict__.update((await self.open(self.root)).__dict__)


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    opened = await Core.open(tmp_path)
    yield opened
    faults = await opened.metadata.check()
    await opened.close()
    assert faults == []


@pytest.fixture
def in_namespace() -> Iterator[None]:
    """Run the test in the namespace ``default``."""
    with context.scope(namespace="default"):
        yield
