# SPDX-License-Identifier: Apache-2.0
"""Records of snapshots: durable, alone with their file, and strict."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from orlop.values import SnapshotInfo, SnapshotKind, Usage
from orlop_sdk.storage.snapshots import SnapshotRecords


@pytest.fixture
def records(tmp_path: Path) -> Iterator[SnapshotRecords]:
    opened = SnapshotRecords(tmp_path / "records")
    yield opened
    opened.close()


def nothing(_id: int) -> None:
    """Places nothing anywhere."""


def add(records: SnapshotRecords, key: str, parent: str = "") -> int:
    return records.create(SnapshotKind.ACTIVE, key, parent, place=nothing).id


def committed(records: SnapshotRecords, name: str, parent: str = "") -> int:
    number = add(records, f"key-{name}", parent)
    records.commit(name, f"key-{name}", Usage(1, 2))
    return number


def test_numbers_are_never_used_again(records: SnapshotRecords) -> None:
    first = add(records, "a")
    assert records.remove("a") == first
    assert add(records, "a") > first


def test_parents_are_told_nearest_first(records: SnapshotRecords) -> None:
    numbers = [committed(records, "a"), committed(records, "b", "a"), committed(records, "c", "b")]
    assert records.get("c").parents == tuple(reversed(numbers[:2]))
    assert records.check_new("d", "c") == tuple(reversed(numbers))


def test_a_failed_placement_records_nothing(records: SnapshotRecords) -> None:
    def fail(_id: int) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        records.create(SnapshotKind.ACTIVE, "a", place=fail)
    with pytest.raises(NotFound):
        records.get("a")
    add(records, "a")


def test_usage_is_recorded_at_commit(records: SnapshotRecords) -> None:
    add(records, "a")
    assert records.usage("a") is None
    committed(records, "b")
    assert records.usage("b") == Usage(1, 2)


def test_labels_have_a_limit(records: SnapshotRecords) -> None:
    long = {"key": "x" * 4096}
    with pytest.raises(InvalidArgument, match="4096"):
        records.create(SnapshotKind.ACTIVE, "a", labels=long, place=nothing)
    add(records, "a")
    with pytest.raises(InvalidArgument, match="4096"):
        records.update(SnapshotInfo(SnapshotKind.ACTIVE, "a", labels=long))
    with pytest.raises(InvalidArgument, match="4096"):
        records.commit("b", "a", Usage(), labels=long)


def test_keys_are_not_empty(records: SnapshotRecords) -> None:
    with pytest.raises(InvalidArgument, match="empty"):
        add(records, "")
    add(records, "a")
    with pytest.raises(InvalidArgument, match="empty"):
        records.commit("", "a", Usage())


def test_commit_to_the_own_key_is_refused(records: SnapshotRecords) -> None:
    add(records, "a")
    with pytest.raises(AlreadyExists):
        records.commit("a", "a", Usage())


def test_a_parent_given_twice_may_be_the_same(records: SnapshotRecords) -> None:
    committed(records, "base")
    add(records, "a", "base")
    records.commit("b", "a", Usage(), parent="base")
    assert records.get("b").info.parent == "base"


def test_calls_from_many_threads(records: SnapshotRecords) -> None:
    def work(number: int) -> None:
        for turn in range(10):
            committed(records, f"{number}-{turn}")
            records.remove(f"{number}-{turn}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert records.all() == []


def test_a_second_process_is_refused(records: SnapshotRecords, tmp_path: Path) -> None:
    add(records, "a")
    program = (
        "import sys, pathlib; from orlop_sdk.storage.snapshots import *; SnapshotRecords(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "records")], capture_output=True, text=True, check=False
    )
    assert "is another process using them?" in done.stderr
    with pytest.raises(Unavailable, match="another process"):
        SnapshotRecords(tmp_path / "records")


def test_records_of_a_newer_release_are_left_alone(tmp_path: Path) -> None:
    SnapshotRecords(tmp_path / "records").close()
    with sqlite3.connect(tmp_path / "records") as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(FailedPrecondition, match="newer release"):
        SnapshotRecords(tmp_path / "records")


def test_what_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "records").write_bytes(b"something else entirely" * 100)
    with pytest.raises(FailedPrecondition, match="not a database"):
        SnapshotRecords(tmp_path / "records")


def test_closed_records_say_so(records: SnapshotRecords) -> None:
    records.close()
    with pytest.raises(Unavailable, match="closed"):
        records.get("a")
