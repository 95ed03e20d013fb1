# SPDX-License-Identifier: Apache-2.0
"""The snapshotters as plugins of a kernel in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orlop.config import from_data
from orlop.errors import ConfigError
from orlop.interfaces.snapshotter import SNAPSHOTTER
from orlop.kernel import Kernel
from orlop.plugin import PluginStatus
from orlop_snapshots import overlayfs as implementation
from orlop_snapshots.overlayfs import OverlaySnapshotter
from orlop_snapshots.plugins import native, overlayfs


def kernel(tmp_path: Path, **tables: dict[str, Any]) -> Kernel:
    data = {
        "version": 3,
        "root": str(tmp_path / "root"),
        "state": str(tmp_path / "state"),
        "plugins": {f"{SNAPSHOTTER.name}.{id}": table for id, table in tables.items()},
    }
    return Kernel(from_data(data), only=[native.uri, overlayfs.uri])


def status(running: Kernel, id: str) -> PluginStatus:
    return next(status for status in running.registry.statuses() if status.uri == f"{SNAPSHOTTER.name}.{id}")


async def test_both_come_up_and_tell_their_root(tmp_path: Path) -> None:
    async with kernel(tmp_path) as running:
        for id in ("native", "overlayfs"):
            assert status(running, id).state == "ok"
            assert status(running, id).exports["root"] == str(tmp_path / "root" / f"{SNAPSHOTTER.name}.{id}")
            await running.get(SNAPSHOTTER, id).prepare("key")
        assert status(running, "overlayfs").capabilities == ("rebase", "remap-ids")
        assert status(running, "native").capabilities == ("remap-ids",)


async def test_settings_reach_the_snapshotter(tmp_path: Path) -> None:
    tables: dict[str, Any] = {
        "root_path": str(tmp_path / "other"),
        "upperdir_label": True,
        "sync_remove": True,
        "slow_chown": True,
        "mount_options": ["volatile"],
    }
    async with kernel(tmp_path, overlayfs=tables) as running:
        snapshotter = running.get(SNAPSHOTTER, "overlayfs")
        assert isinstance(snapshotter, OverlaySnapshotter)
        assert snapshotter.root == tmp_path / "other"
        await snapshotter.prepare("key")
        assert "containerd.io/snapshot/overlay.upperdir" in (await snapshotter.stat("key")).labels
        await snapshotter.commit("base", "key")
        assert "volatile" in (await snapshotter.prepare("key", "base"))[0].options
        assert status(running, "overlayfs").exports["root"] == str(tmp_path / "other")


async def test_wrong_settings_are_faults_of_the_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="upperdir_label"):
        await kernel(tmp_path, overlayfs={"upperdir_label": "perhaps"}).start()


async def test_what_the_host_lacks_skips_the_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(implementation, "mount_one", refuse)
    async with kernel(tmp_path) as running:
        found = status(running, "overlayfs")
        assert found.state == "skipped"
        assert "modprobe overlay" in found.reason
        assert "skip plugin" in found.reason
        assert status(running, "native").state == "ok"
