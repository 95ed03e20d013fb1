# SPDX-License-Identifier: Apache-2.0
"""The power fails at random instants: what was acknowledged is there, whole, and the stores are sound."""

from __future__ import annotations

import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.powercut import Disk, Operation, record
from tests.unit.core.conftest import Core
from tests.unit.core.test_crash import CHURN, examine, promised

from orlop.errors import OrlopError
from orlop.interfaces.check import Checkup

LINES = 250
"""How much is acknowledged before the program is ended."""
CUTS = 150


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A directory in memory if there is one, for hundreds of copies of the stores."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def operations(memory: Path) -> list[Operation]:
    """What a metadata store, a content store and a snapshotter do to their files, under load, as strace sees it."""
    root = memory / "root"
    root.mkdir()
    return record([sys.executable, str(CHURN), str(root), "0", "30000"], root, memory, lines=LINES, seconds=100)


async def survive(disk: Disk, seed: int, place: Path) -> None:
    """Open what a power cut leaves now, and hold it against what was acknowledged."""
    disk.after_cut(place, seed)
    core = await Core.open(place)
    try:
        await examine(core, promised(disk.said))
        for store in (core.content, core.snapshots):
            assert [each async for each in store.check_up(Checkup()) if not each.note] == []  # type: ignore[union-attr]
    finally:
        await core.close()
        shutil.rmtree(place)


async def cut_at(instants: list[int], operations: list[Operation], place: Path, disk: Disk) -> None:
    """Cut the power after so many operations, each time anew."""
    done = 0
    for instant in instants:
        for operation in operations[done:instant]:
            disk.apply(operation)
        done = instant
        print(f"cut after {instant} of {len(operations)} operations, the last {operations[instant - 1].kind}")
        await survive(disk, instant, place)


@pytest.mark.timeout(400)
async def test_the_power_fails(operations: list[Operation], memory: Path) -> None:
    assert sum(operation.kind == "said" for operation in operations) >= LINES // 2
    chance = random.Random(5)
    instants = sorted(chance.randint(1, len(operations)) for _ in range(CUTS))
    await cut_at(instants, operations, memory / "cut", Disk())


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "path",
    [
        "/content/ingest/.*/data",
        "/content/blobs",
        "/content/blobs/sha256",
        "/meta.sqlite(-wal)?",
        "/native/snapshots.db-wal",
        "/native/snapshots",
    ],
)
async def test_a_disk_that_lies_is_noticed(operations: list[Operation], memory: Path, path: str) -> None:
    """The simulation has teeth: where any one fsync does nothing, what was acknowledged gets lost."""
    assert any(operation.kind == "sync" and re.fullmatch(path, operation.path) for operation in operations)
    chance = random.Random(6)
    instants = sorted(chance.randint(1, len(operations)) for _ in range(CUTS))
    with pytest.raises((AssertionError, OrlopError)):
        await cut_at(instants, operations, memory / path.replace("/", "_"), Disk(lies=path))
