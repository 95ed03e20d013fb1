# SPDX-License-Identifier: Apache-2.0
"""Snapshots as directories: what failures and crashes leave, and how it goes away."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from orlop.errors import AlreadyExists, FailedPrecondition, Unimplemented
from orlop.values import Mount
from orlop_sdk.storage.directories import RECORDS, DirectorySnapshotter, NewSnapshot
from orlop_sdk.storage.snapshots import StoredSnapshot


class Plain(DirectorySnapshotter):
    """As small as a snapshotter can be."""

    failure: Exception | None = None

    def populate(self, directory: Path, new: NewSnapshot) -> None:
        (directory / "half").touch()
        if self.failure is not None:
            raise self.failure

    def describe(self, snapshot: StoredSnapshot) -> list[Mount]:
        return [Mount("bind", str(self.directory(snapshot.id)), options=("rbind", "rw"))]


def names(root: Path) -> list[str]:
    """The directories that there are, without the random part of what is put aside."""
    return sorted(name.split("-")[0] for name in os.listdir(root / "snapshots"))


async def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    snapshotter = Plain(tmp_path, sync_remove=True)
    snapshotter.failure = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        await snapshotter.prepare("a")
    assert names(tmp_path) == []
    snapshotter.failure = None
    await snapshotter.prepare("a")
    with pytest.raises(AlreadyExists):
        await snapshotter.prepare("a")
    assert names(tmp_path) == ["1"]
    await snapshotter.close()


async def test_removal_waits_for_cleanup(tmp_path: Path) -> None:
    snapshotter = Plain(tmp_path)
    for key in "ab":
        await snapshotter.prepare(key)
    await snapshotter.remove("a")
    assert names(tmp_path) == ["2", "rm"]
    await snapshotter.cleanup()
    assert names(tmp_path) == ["2"]
    await snapshotter.close()


async def test_removal_at_once(tmp_path: Path) -> None:
    snapshotter = Plain(tmp_path, sync_remove=True)
    await snapshotter.prepare("a")
    await snapshotter.remove("a")
    assert names(tmp_path) == []
    await snapshotter.close()


async def test_the_next_start_puts_leftovers_aside(tmp_path: Path) -> None:
    first = Plain(tmp_path)
    await first.prepare("a")
    await first.close()
    for name in ("new-1234", "del-5678", "77", "rm-9"):
        (tmp_path / "snapshots" / name).mkdir()
        (tmp_path / "snapshots" / name / "file").touch()
    second = Plain(tmp_path)
    assert names(tmp_path) == ["1", "rm", "rm", "rm", "rm"]
    await second.cleanup()
    assert names(tmp_path) == ["1"]
    await second.close()


async def test_a_directory_without_record_does_not_stop_the_next_snapshot(tmp_path: Path) -> None:
    snapshotter = Plain(tmp_path)
    (tmp_path / "snapshots/1").mkdir()
    (tmp_path / "snapshots/1/left").touch()
    (mount,) = await snapshotter.prepare("a")
    assert await asyncio.to_thread(os.listdir, mount.source) == ["half"]
    assert names(tmp_path) == ["1", "rm"]
    await snapshotter.close()


async def test_a_directory_that_is_gone_does_not_stop_removal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    snapshotter = Plain(tmp_path)
    (mount,) = await snapshotter.prepare("a")
    await asyncio.to_thread(Path(mount.source).rename, tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        await snapshotter.remove("a")
    assert "was gone already" in caplog.text
    assert [info async for info in snapshotter.walk()] == []
    await snapshotter.close()


async def test_snapshots_of_another_program_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "snapshots/1/fs").mkdir(parents=True)
    (tmp_path / "metadata.db").touch()
    with pytest.raises(FailedPrecondition, match="another program"):
        Plain(tmp_path)
    assert not (tmp_path / RECORDS).exists()
    assert names(tmp_path) == ["1"]


async def test_parents_are_not_changed_where_that_has_no_meaning(tmp_path: Path) -> None:
    snapshotter = Plain(tmp_path)
    await snapshotter.prepare("a")
    await snapshotter.commit("base", "a")
    await snapshotter.prepare("b")
    with pytest.raises(Unimplemented, match="parent"):
        await snapshotter.commit("c", "b", parent="base")
    await snapshotter.close()


async def test_others_cannot_look_in(tmp_path: Path) -> None:
    snapshotter = Plain(tmp_path / "root")
    assert (tmp_path / "root").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "root/snapshots").stat().st_mode & 0o777 == 0o700
    await snapshotter.close()
