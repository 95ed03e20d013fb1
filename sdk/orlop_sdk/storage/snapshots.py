# SPDX-License-Identifier: Apache-2.0
"""Durable records of snapshots, and the rules that every snapshotter shares.

One SQLite file. Each snapshot has a number that is never used again: the name of its directory. The rules of
`orlop.interfaces.snapshotter.Snapshotter` about keys, parents, kinds and children are enforced here; calls raise the
errors that the interface promises.

All methods block (for one or two disk flushes when they write) and may be called from any thread.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from orlop.values import (
    EMPTY,
    EPOCH,
    Labels,
    SnapshotInfo,
    SnapshotKind,
    Usage,
    apply_labels,
    check_labels,
    now,
)

_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE snapshot (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    parent INTEGER REFERENCES snapshot (id),
    kind INTEGER NOT NULL,
    labels TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    size INTEGER,
    inodes INTEGER
) STRICT;
CREATE INDEX snapshot_parent ON snapshot (parent);
"""
_COLUMNS: Final = "s.id, s.name, p.name, s.kind, s.labels, s.created, s.updated, s.parent, s.size, s.inodes"
_SELECT: Final = f"SELECT {_COLUMNS} FROM snapshot s LEFT JOIN snapshot p ON p.id = s.parent"  # noqa: S608  # constants
_MICROSECOND: Final = timedelta(microseconds=1)
_KINDS: Final = tuple(SnapshotKind)


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot with the numbers that its directories are named after."""

    id: int
    info: SnapshotInfo
    parents: tuple[int, ...] = ()
    """Numbers of all ancestors, nearest first."""


class SnapshotRecords:
    """The records in one file, which this object uses alone.

    Raises `Unavailable` when another process has the file open, `FailedPrecondition` when a newer version wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
        self._closed = False
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def get(self, key: str) -> StoredSnapshot:
        """A snapshot of any kind. Raises `NotFound`."""
        with self._reading() as db:
            return self._with_parents(db, _find(db, key))

    def usage(self, key: str) -> Usage | None:
        """The disk use that was recorded at commit; None for what is not committed. Raises `NotFound`."""
        with self._reading() as db:
            row = _find(db, key)
            return None if row[8] is None else Usage(row[8], row[9])

    def ids(self) -> set[int]:
        """The numbers of all snapshots."""
        with self._reading() as db:
            return {row[0] for row in db.execute("SELECT id FROM snapshot")}

    def all(self) -> list[StoredSnapshot]:
        """All snapshots in the order they were made, their ``parents`` left out."""
        with self._reading() as db:
            return [StoredSnapshot(row[0], _info(row)) for row in db.execute(f"{_SELECT} ORDER BY s.id")]

    def check_new(self, key: str, parent: str = "", labels: Labels = EMPTY) -> tuple[int, ...]:
        """Raise what `create` would raise now; return the numbers of the ancestors, nearest first.

        For snapshotters that have much to do before they record something.
        """
        check_labels(labels)
        with self._reading() as db:
            _check_free(db, key)
            if not parent:
                return ()
            row = _committed(db, parent)
            return (row[0], *self._with_parents(db, row).parents)

    def create(
        self, kind: SnapshotKind, key: str, parent: str = "", *, labels: Labels = EMPTY, place: Callable[[int], None]
    ) -> StoredSnapshot:
        """Record a new active snapshot or view.

        *place* is called with its number before that becomes true: to move the directory, finished, to where the
        number says. If it raises, nothing is recorded.
        """
        check_labels(labels)
        with self._writing() as db:
            _check_free(db, key)
            parent_id = _committed(db, parent)[0] if parent else None
            time = _microseconds(now())
            cursor = db.execute(
                "INSERT INTO snapshot (name, parent, kind, labels, created, updated) VALUES (?, ?, ?, ?, ?, ?)",
                (key, parent_id, int(kind), json.dumps(dict(labels)), time, time),
            )
            stored = self._with_parents(db, _find(db, key))
            assert cursor.lastrowid == stored.id
            place(stored.id)
            return stored

    def commit(self, name: str, key: str, usage: Usage, *, parent: str = "", labels: Labels = EMPTY) -> None:
        """Turn an active snapshot into a committed one, by the rules of ``Snapshotter.commit``."""
        check_labels(labels)
        with self._writing() as db:
            row = _find(db, key)
            if row[3] != SnapshotKind.ACTIVE:
                raise FailedPrecondition(f'snapshot "{key}": is not active, so it cannot be committed')
            _check_free(db, name)
            parent_id = row[7]
            if parent and parent != row[2]:
                if parent_id is not None:
                    raise FailedPrecondition(f'snapshot "{key}": has the parent "{row[2]}" already, not "{parent}"')
                parent_id = _committed(db, parent)[0]
            time = _microseconds(now())
            db.execute(
                "UPDATE snapshot SET name = ?, parent = ?, kind = ?, labels = ?, created = ?, updated = ?, size = ?, "
                "inodes = ? WHERE id = ?",
                (
                    name,
                    parent_id,
                    int(SnapshotKind.COMMITTED),
                    json.dumps(dict(labels)),
                    time,
                    time,
                    usage.size,
                    usage.inodes,
                    row[0],
                ),
            )

    def update(self, info: SnapshotInfo, fieldpaths: Sequence[str] = ()) -> StoredSnapshot:
        """Change labels, by the rules of ``Snapshotter.update``."""
        with self._writing() as db:
            row = _find(db, info.name)
            labels = apply_labels(json.loads(row[4]), info.labels, fieldpaths)
            check_labels(labels)
            # Clocks may stand still or be set back; whoever watches the time must see that something changed.
            updated = max(_microseconds(now()), row[6] + 1)
            db.execute(
                "UPDATE snapshot SET labels = ?, updated = ? WHERE id = ?", (json.dumps(labels), updated, row[0])
            )
            return self._with_parents(db, _find(db, info.name))

    def remove(self, key: str) -> int:
        """Forget a snapshot and return its number. Raises `NotFound`; `FailedPrecondition` while it has children."""
        with self._writing() as db:
            row = _find(db, key)
            child = db.execute("SELECT name FROM snapshot WHERE parent = ? LIMIT 1", (row[0],)).fetchone()
            if child is not None:
                raise FailedPrecondition(
                    f'snapshot "{key}": cannot remove snapshot with child "{child[0]}"; remove the children first'
                )
            db.execute("DELETE FROM snapshot WHERE id = ?", (row[0],))
            return int(row[0])

    def faults(self) -> list[str]:
        """What SQLite finds wrong with the file itself, a line each. Reads all of it."""
        with self._reading() as db:
            return [row[0] for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]

    def rebuild(self) -> None:
        """Make the file's indexes anew, after which it holds what its tables say."""
        with self._writing() as db:
            db.execute("REINDEX")

    def orphans(self) -> dict[int, str]:
        """Snapshots whose parent's record is gone, by number with their names."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT id, name FROM snapshot WHERE parent IS NOT NULL AND parent NOT IN (SELECT id FROM snapshot)"
            )
            return dict(rows.fetchall())

    def family(self, ids: Collection[int]) -> list[StoredSnapshot]:
        """These snapshots and all that are made on top of them, in the order they were made; ``parents`` left out."""
        with self._reading() as db:
            rows = db.execute(
                f"{_SELECT} WHERE s.id IN (WITH RECURSIVE down (id) AS (SELECT value FROM json_each(?) UNION "  # noqa: S608
                "SELECT c.id FROM snapshot c JOIN down ON c.parent = down.id) SELECT id FROM down) ORDER BY s.id",
                (json.dumps(list(ids)),),
            )
            return [StoredSnapshot(row[0], _info(row)) for row in rows]

    def forget(self, ids: Collection[int]) -> None:
        """Forget snapshots, whatever their parents and children; for those whose directories are lost."""
        with self._writing() as db:
            # In one statement, after which the references between parents and children are checked.
            db.execute("DELETE FROM snapshot WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(ids)),))

    def close(self) -> None:
        """Close the file. May be called twice; other calls raise `Unavailable` from then on."""
        with self._lock:
            self._closed = True
            self._connection.close()

    def _open(self) -> None:
        db = self._connection
        # Alone with the file, SQLite needs no shared memory, and a second process is refused instead of confused.
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise Unavailable(f'snapshot records "{self._path}": {error}; is another process using them?') from error
        except sqlite3.DatabaseError as error:
            raise FailedPrecondition(f'snapshot records "{self._path}": {error}') from error
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise FailedPrecondition(
                f'snapshot records "{self._path}": written by a newer release (format {version}, this one knows '
                f"{_VERSION}); go back to that release"
            )
        if version == 0:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_VERSION}")
        db.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed:
                raise Unavailable(f'snapshot records "{self._path}": closed')
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @staticmethod
    def _with_parents(db: sqlite3.Connection, row: tuple[Any, ...]) -> StoredSnapshot:
        parents = db.execute(
            "WITH RECURSIVE up (id, depth) AS (SELECT ?, 0 UNION ALL "
            "SELECT s.parent, depth + 1 FROM snapshot s JOIN up ON s.id = up.id WHERE s.parent IS NOT NULL) "
            "SELECT id FROM up WHERE depth > 0 ORDER BY depth",
            (row[0],),
        )
        return StoredSnapshot(row[0], _info(row), tuple(parent[0] for parent in parents))


def _find(db: sqlite3.Connection, key: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = db.execute(f"{_SELECT} WHERE s.name = ?", (key,)).fetchone()
    if row is None:
        raise NotFound(f'snapshot "{key}": not found')
    return row


def _committed(db: sqlite3.Connection, parent: str) -> tuple[Any, ...]:
    try:
        row = _find(db, parent)
    except NotFound as error:
        raise NotFound(f'parent snapshot "{parent}": not found') from error
    if row[3] != SnapshotKind.COMMITTED:
        raise InvalidArgument(f'parent snapshot "{parent}": is not committed; only committed snapshots can be parents')
    return row


def _check_free(db: sqlite3.Connection, key: str) -> None:
    if not key:
        raise InvalidArgument('snapshot "": a key or name must not be empty')
    if db.execute("SELECT 1 FROM snapshot WHERE name = ?", (key,)).fetchone() is not None:
        raise AlreadyExists(f'snapshot "{key}": already exists')


def _info(row: tuple[Any, ...]) -> SnapshotInfo:
    return SnapshotInfo(
        _KINDS[row[3]],
        row[1],
        row[2] or "",
        EMPTY if row[4] == "{}" else json.loads(row[4]),
        EPOCH + timedelta(0, 0, row[5]),
        EPOCH + timedelta(0, 0, row[6]),
    )


def _microseconds(time: datetime) -> int:
    return (time - EPOCH) // _MICROSECOND
