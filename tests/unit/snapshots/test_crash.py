# SPDX-License-Identifier: Apache-2.0
"""Killed at any instant, a snapshotter has every snapshot as the last call that returned left it, or not at all."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.unit.snapshots.churn import SNAPSHOTTERS

from orlop.values import SnapshotKind
from orlop_sdk.linux.mount import temporary_mount
from orlop_sdk.storage.directories import DirectorySnapshotter

PROGRAM = Path(__file__).with_name("churn.py")
TURNS = 6


def churn(name: str, root: Path, prefix: str, seconds: float) -> list[list[str]]:
    """Run the program, kill it, and return what it said."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), name, str(root), prefix], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    lines += process.stdout.readlines()
    process.stdout.close()
    timer.join()
    process.wait()
    return [line.split() for line in lines if line.endswith("\n")]


def expected(lines: list[list[str]]) -> tuple[dict[str, SnapshotKind], set[str]]:
    """What must be there, and the names about which nothing is promised: those of the call that was interrupted."""
    there: dict[str, SnapshotKind] = {}
    open_names: set[str] = set()
    for verb, *names in lines:
        if verb == "start":
            open_names = set(names)
            continue
        open_names -= set(names)
        if verb == "removed":
            there.pop(names[0], None)
        else:
            there[names[0]] = SnapshotKind.ACTIVE if verb == "active" else SnapshotKind.COMMITTED
    return there, open_names


@pytest.mark.parametrize("name", SNAPSHOTTERS)
async def test_killed_at_any_instant(name: str, short_tmp: Path) -> None:
    root = short_tmp / "root"
    chance = random.Random(name)
    promised: dict[str, SnapshotKind] = {}
    for turn in range(TURNS):
        lines = churn(name, root, f"turn{turn}", chance.uniform(0.05, 0.25))
        there, unsure = expected(lines)
        promised |= there
        snapshotter = SNAPSHOTTERS[name](root)
        found = {info.name: info.kind async for info in snapshotter.walk()}
        for key in unsure:
            if key in found:
                promised[key] = found[key]
            else:
                promised.pop(key, None)
        assert found == promised
        await snapshotter.cleanup()
        await check(snapshotter, found, short_tmp)
        await snapshotter.close()


async def check(snapshotter: DirectorySnapshotter, found: dict[str, SnapshotKind], place: Path) -> None:
    """No directory is missing and none is left over; every snapshot can be mounted and shows its parents."""
    directories = os.listdir(snapshotter.root / "snapshots")
    assert len(directories) == len(found)
    last = max((key for key, kind in found.items() if kind == SnapshotKind.COMMITTED), default=None)
    if last is None:
        return
    mounts = await snapshotter.view("look", last)
    with temporary_mount(mounts, place) as tree:
        assert os.listdir(tree) == ["file"]
    await snapshotter.remove("look")
    await snapshotter.cleanup()
