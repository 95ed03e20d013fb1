# SPDX-License-Identifier: Apache-2.0
"""The fixtures that the SDK gives every test of an author."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orlop import context
from orlop.interfaces.snapshotter import SNAPSHOTTER
from orlop.interfaces.stream import STREAM_PROCESSOR
from orlop_sdk.serving.proxy import Parts, serve
from orlop_sdk.storage.snapshots import SnapshotRecords
from orlop_sdk.testing.plugin import MakeKernel, Opening
from orlop_sdk.testing.snapshotter import OpenSnapshotter, SnapshotterSuite
from orlop_snapshots.native import NativeSnapshotter

URI = f"{SNAPSHOTTER.name}.native"


def test_places_are_short_and_private(orlop_place: Path) -> None:
    assert len(str(orlop_place)) < 40
    assert stat.S_IMODE(orlop_place.stat().st_mode) == 0o700
    assert list(orlop_place.iterdir()) == []


async def test_kernels_have_one_plugin_and_its_config(orlop_kernel: MakeKernel, orlop_place: Path) -> None:
    async with orlop_kernel(URI, {"root_path": str(orlop_place / "here")}) as kernel:
        await kernel.get(SNAPSHOTTER, "native").prepare("key")
        assert list(kernel.all(STREAM_PROCESSOR)) == []
    records = SnapshotRecords(orlop_place / "here/snapshots.db")
    assert records.get("key")
    records.close()


def test_namespaces_are_set(orlop_scope: str) -> None:
    assert context.namespace() == orlop_scope


class TestInstalled(SnapshotterSuite):
    @pytest.fixture
    async def open_snapshotter(self, orlop_opening: Opening) -> AsyncIterator[OpenSnapshotter]:
        async with orlop_opening("native", SNAPSHOTTER) as open:
            yield open


async def test_proxy_plugins_are_opened_by_their_socket(orlop_opening: Opening, orlop_place: Path) -> None:
    served = NativeSnapshotter(orlop_place / "served")
    async with serve(f"{orlop_place}/s.sock", Parts(snapshotter=served)):
        async with orlop_opening(f"snapshot={orlop_place}/s.sock") as open:
            await (await open()).prepare("key")
            assert (await served.stat("key")).name == "key"
        # Emptied, as the suites expect to find it.
        assert [info async for info in served.walk()] == []
    await served.close()
