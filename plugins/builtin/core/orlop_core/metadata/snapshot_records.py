# SPDX-License-Identifier: Apache-2.0
"""Records of snapshots: which key of which namespace is which snapshot of the back end."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orlop.errors import AlreadyExists, FailedPrecondition, NotFound
from orlop.values import EMPTY, Labels, apply_labels, check_labels
from orlop_core.metadata import graph
from orlop_core.metadata.database import Transaction
from orlop_core.metadata.links import SNAPSHOTS
from orlop_core.metadata.publish import event
from orlop_core.metadata.times import now_micros
from orlop_sdk.api.events.snapshot_pb2 import SnapshotCommit, SnapshotPrepare, SnapshotRemove

SELECT: Final = (
    f"SELECT n.id, n.name, r.backend, coalesce(p.name, ''), r.created, r.updated, {graph.LABELS} "
    "FROM node n JOIN snapshot r ON r.node = n.id LEFT JOIN node p ON p.id = r.parent "
    f"WHERE n.ns = {graph.NAMESPACE_ID} AND n.kind = ?"
)
_FIND: Final = f"{SELECT} AND n.name = ? AND n.present"
#: CROSS keeps SQLite from going through all snapshots instead of the few commits that are under way, if any.
_PENDING: Final = "pending_commit c CROSS JOIN node n ON n.id = c.node"
_NAME_TAKEN: Final = f"SELECT 1 FROM {_PENDING} WHERE n.ns = ? AND n.kind = ? AND c.name = ?"


@dataclass(frozen=True, slots=True)
class Record:
    """A snapshot as recorded; what kind it is, only the back end knows."""

    node: int
    key: str
    backend: str
    parent: str
    created: int
    updated: int
    labels: Labels = EMPTY


@dataclass(frozen=True, slots=True)
class New:
    """A snapshot that the back end has made and that is to be recorded."""

    key: str
    backend: str
    parent: str
    labels: Labels


@dataclass(frozen=True, slots=True)
class Pending:
    """A commit that the back end has been asked for, or is about to be."""

    node: int
    ns: str
    key: str
    name: str
    backend: str


@dataclass(frozen=True, slots=True)
class SnapshotRecords:
    """The records of one snapshotter, in all namespaces."""

    snapshotter: str

    @property
    def kind(self) -> str:
        """The kind of its nodes."""
        return SNAPSHOTS + self.snapshotter

    def find(self, db: sqlite3.Connection, ns: str, key: str) -> Record | None:
        """One record, or None."""
        row = db.execute(_FIND, (ns, self.kind, key)).fetchone()
        return None if row is None else record(row)

    def require(self, db: sqlite3.Connection, ns: str, key: str, what: str = "snapshot") -> Record:
        """One record. Raises `NotFound`."""
        found = self.find(db, ns, key)
        if found is None:
            raise NotFound(f'{what} "{key}": not found')
        return found

    def add(self, tx: Transaction, ns: str, new: New, lease: str | None, *, announce: bool) -> None:
        """Record a new snapshot. Raises `AlreadyExists`, and `NotFound` for a parent that is gone."""
        space = graph.namespace(tx, ns)
        parent = self.require(tx.db, ns, new.parent, "parent snapshot").node if new.parent else None
        if tx.db.execute(_NAME_TAKEN, (space, self.kind, new.key)).fetchone() is not None:
            raise AlreadyExists(f'snapshot "{new.key}": already exists')
        node = graph.create(tx, space, self.kind, new.key)
        if node is None:
            raise AlreadyExists(f'snapshot "{new.key}": already exists')
        graph.keep(tx, space, (self.kind, new.key), lease)
        self._insert(tx, node, space, new, parent)
        message = SnapshotPrepare(key=new.key, parent=new.parent, snapshotter=self.snapshotter)
        tx.changed(event=event(ns, "/snapshot/prepare", message) if announce else None)

    def set_labels(self, tx: Transaction, ns: str, key: str, labels: Labels, fieldpaths: tuple[str, ...]) -> Record:
        """Change labels. Raises `NotFound`, `InvalidArgument`."""
        found = self.require(tx.db, ns, key)
        changed = apply_labels(found.labels, labels, fieldpaths)
        check_labels(changed)
        tx.db.execute("UPDATE snapshot SET updated = ? WHERE node = ?", (now_micros(), found.node))
        graph.replace_labels(tx, found.node, graph.namespace(tx, ns), self.kind, changed)
        tx.changed()
        return self.require(tx.db, ns, key)

    def remove(self, tx: Transaction, ns: str, key: str, lease: str | None) -> str:
        """Forget a snapshot and return the back end's key. Raises `NotFound`, `FailedPrecondition`."""
        found = self.require(tx.db, ns, key)
        self._check_idle(tx, found)
        children = tx.db.execute(
            "SELECT EXISTS (SELECT 1 FROM snapshot WHERE parent = ?1)"
            " OR EXISTS (SELECT 1 FROM pending_commit WHERE parent = ?1)",
            (found.node,),
        ).fetchone()[0]
        if children:
            raise FailedPrecondition(f'snapshot "{key}": cannot remove snapshot with child; remove its children first')
        graph.let_go(tx, graph.namespace(tx, ns), (self.kind, key), lease)
        tx.db.execute("DELETE FROM snapshot WHERE node = ?", (found.node,))
        graph.remove(tx, found.node)
        message = SnapshotRemove(key=key, snapshotter=self.snapshotter)
        tx.changed(removed=True, event=event(ns, "/snapshot/remove", message))
        return found.backend

    def begin_commit(
        self, tx: Transaction, ns: str, key: str, new: New, lease: str | None
    ) -> tuple[Record, Record | None]:
        """Note a commit before the back end does it. Returns the snapshot and, if one is given, its new parent."""
        space = graph.namespace(tx, ns)
        graph.current_lease(tx, space, lease)
        if self.find(tx.db, ns, new.key) or tx.db.execute(_NAME_TAKEN, (space, self.kind, new.key)).fetchone():
            raise AlreadyExists(f'snapshot "{new.key}": already exists')
        active = self.require(tx.db, ns, key)
        self._check_idle(tx, active)
        parent = self.require(tx.db, ns, new.parent, "parent snapshot") if new.parent else None
        tx.db.execute(
            "INSERT INTO pending_commit VALUES (?, ?, ?, ?, ?, ?)",
            (
                active.node,
                new.key,
                new.backend,
                parent and parent.node,
                json.dumps(graph.stored_labels(new.labels)),
                lease,
            ),
        )
        graph.touch(tx, active.node)
        if parent is not None:
            graph.touch(tx, parent.node)
        return active, parent

    def drop_commit(self, tx: Transaction, node: int) -> None:
        """Forget a commit that the back end did not do."""
        tx.db.execute("DELETE FROM pending_commit WHERE node = ?", (node,))

    def finish_commit(self, tx: Transaction, pending: Pending) -> None:
        """Replace the record of the active snapshot by that of the committed one."""
        db = tx.db
        row = db.execute(
            "SELECT coalesce(c.parent, s.parent), c.labels, c.lease FROM pending_commit c "
            "JOIN snapshot s ON s.node = c.node WHERE c.node = ?",
            (pending.node,),
        ).fetchone()
        parent, labels, lease = row[0], graph.parse_labels(row[1]), row[2]
        parent_name = db.execute("SELECT name FROM node WHERE id = ?", (parent,)).fetchone()
        space = graph.namespace(tx, pending.ns)
        graph.let_go(tx, space, (self.kind, pending.key), lease)
        db.execute("DELETE FROM pending_commit WHERE node = ?", (pending.node,))
        db.execute("DELETE FROM snapshot WHERE node = ?", (pending.node,))
        graph.remove(tx, pending.node)
        node = graph.create(tx, space, self.kind, pending.name)
        if node is None:
            raise AlreadyExists(f'snapshot "{pending.name}": already exists')
        new = New(pending.name, pending.backend, parent_name[0] if parent_name else "", labels)
        self._insert(tx, node, space, new, parent)
        if lease is not None and graph.lease_exists(tx, space, lease):
            graph.keep(tx, space, (self.kind, pending.name), lease)
        message = SnapshotCommit(key=pending.key, name=pending.name, snapshotter=self.snapshotter)
        tx.changed(event=event(pending.ns, "/snapshot/commit", message))

    def pending(self, db: sqlite3.Connection) -> list[Pending]:
        """Commits noted and not finished."""
        rows = db.execute(
            f"SELECT c.node, s.name, n.name, c.name, c.backend FROM {_PENDING} "
            "CROSS JOIN node s ON s.id = n.ns WHERE n.kind = ?",
            (self.kind,),
        )
        return [Pending(*row) for row in rows]

    def backends(self, db: sqlite3.Connection) -> set[str]:
        """The back end's keys of all records, commits under way included."""
        rows = db.execute(
            "SELECT r.backend FROM snapshot r JOIN node n ON n.id = r.node WHERE n.kind = ?1 "
            f"UNION SELECT c.backend FROM {_PENDING} WHERE n.kind = ?1",
            (self.kind,),
        )
        return {row[0] for row in rows}

    def knows(self, db: sqlite3.Connection, backend: str) -> bool:
        """Whether any record is about this snapshot of the back end."""
        row = db.execute(
            "SELECT 1 FROM snapshot r JOIN node n ON n.id = r.node WHERE r.backend = ?1 AND n.kind = ?2 "
            f"UNION ALL SELECT 1 FROM {_PENDING} WHERE c.backend = ?1 AND n.kind = ?2",
            (backend, self.kind),
        ).fetchone()
        return row is not None

    def everything(self, db: sqlite3.Connection) -> list[tuple[int, str, str, str, str]]:
        """Node, namespace, key, back end's key and the parent's back end's key of every record."""
        return db.execute(
            "SELECT n.id, s.name, n.name, r.backend, coalesce(p.backend, '') FROM snapshot r "
            "JOIN node n ON n.id = r.node JOIN node s ON s.id = n.ns LEFT JOIN snapshot p ON p.node = r.parent "
            "WHERE n.kind = ? ORDER BY n.id",
            (self.kind,),
        ).fetchall()

    def forget(self, tx: Transaction, nodes: Sequence[int]) -> None:
        """Drop records, and those of all descendants."""
        rows = tx.db.execute(
            "WITH RECURSIVE lost (id) AS (SELECT value FROM json_each(?) "
            "UNION SELECT r.node FROM snapshot r JOIN lost ON r.parent = lost.id) SELECT id FROM lost",
            (json.dumps(list(nodes)),),
        ).fetchall()
        ids = json.dumps([row[0] for row in rows])
        for table in ("pending_commit", "snapshot"):
            tx.db.execute(f"DELETE FROM {table} WHERE node IN (SELECT value FROM json_each(?))", (ids,))
        for (node,) in rows:
            graph.remove(tx, node)

    def _check_idle(self, tx: Transaction, found: Record) -> None:
        if tx.db.execute("SELECT 1 FROM pending_commit WHERE node = ?", (found.node,)).fetchone() is not None:
            raise FailedPrecondition(f'snapshot "{found.key}": is being committed')

    def _insert(self, tx: Transaction, node: int, space: int, new: New, parent: int | None) -> None:
        moment = now_micros()
        tx.db.execute("INSERT INTO snapshot VALUES (?, ?, ?, ?, ?)", (node, new.backend, parent, moment, moment))
        if new.parent:
            graph.link(tx, node, space, (self.kind, new.parent))
        graph.set_labels(tx, node, space, self.kind, new.labels)


def record(row: tuple[int, str, str, str, int, int, str]) -> Record:
    """A record out of a row of `SELECT`."""
    node, key, backend, parent, created, updated, labels = row
    return Record(node, key, backend, parent, created, updated, graph.parse_labels(labels))
