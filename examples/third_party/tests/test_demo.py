# SPDX-License-Identifier: Apache-2.0
"""The conformance suites, and nothing else: what is this plugin's own is little."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from orlop.blocking import run_blocking
from orlop.interfaces.log import LogDriver
from orlop.interfaces.snapshotter import Snapshotter
from orlop_demo.log import DemoDriver, read
from orlop_demo.snapshotter import DemoSnapshotter
from orlop_sdk.testing.log import LogDriverSuite
from orlop_sdk.testing.snapshotter import OpenSnapshotter, SnapshotterSuite


class TestSnapshotter(SnapshotterSuite):
    @pytest.fixture
    def open_snapshotter(self, tmp_path: Path) -> OpenSnapshotter:
        async def open() -> Snapshotter:
            return await run_blocking(DemoSnapshotter, tmp_path)

        return open


class TestLog(LogDriverSuite):
    bad_uris = ("demo://relative", "demo:///", "demo:///x?max-size=1m")

    @pytest.fixture
    def driver(self) -> LogDriver:
        return DemoDriver()

    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        return f"demo://{tmp_path}/log"

    def logged(self, uri: str) -> Mapping[str, bytes]:
        return read(uri)
