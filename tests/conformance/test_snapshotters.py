# SPDX-License-Identifier: Apache-2.0
"""The snapshotter suite, run against every snapshotter there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlop.blocking import run_blocking
from orlop.interfaces.snapshotter import Snapshotter
from orlop_sdk.testing.snapshotter import OpenSnapshotter, SnapshotterSuite
from orlop_snapshots.native import NativeSnapshotter
from orlop_snapshots.overlayfs import OverlaySnapshotter, default_options


class TestOverlayfs(SnapshotterSuite):
    rebases = True
    renames_directories = False

    @pytest.fixture
    def open_snapshotter(self, short_tmp: Path) -> OpenSnapshotter:
        async def open() -> Snapshotter:
            return await run_blocking(OverlaySnapshotter, short_tmp / "root", options=default_options())

        return open


class TestNative(SnapshotterSuite):
    @pytest.fixture
    def open_snapshotter(self, short_tmp: Path) -> OpenSnapshotter:
        async def open() -> Snapshotter:
            return await run_blocking(NativeSnapshotter, short_tmp / "root")

        return open
