# SPDX-License-Identifier: Apache-2.0
"""What the tables promise each other, and what makes a promise good again that was broken."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

_NODES: Final = "(SELECT id FROM node)"
_NAMESPACES: Final = "(SELECT id FROM node WHERE ns = 0)"

#: Where records are, and which nodes they belong to.
RECORDS: Final = {
    "image": "kind = 'images'",
    "container": "kind = 'containers'",
    "sandbox": "kind = 'sandboxes'",
    "content": "kind = 'content'",
    "ingest": "kind = 'ingests'",
    "lease": "kind = 'leases'",
    "snapshot": "kind LIKE 'snapshots/%'",
}


@dataclass(frozen=True, slots=True)
class Promise:
    """Holds when *query* finds no row; each row names what breaks it. *repair* makes it hold."""

    query: str
    problem: str
    remedy: str
    repair: tuple[str, ...]


def _node_is_gone(table: str) -> str:
    return f"DELETE FROM {table} WHERE node NOT IN {_NODES}"


_HOMELESS: Final = f"SELECT id FROM node WHERE ns != 0 AND ns NOT IN {_NAMESPACES}"

#: In order: what an earlier repair leaves, a later one clears.
PROMISES: Final = (
    Promise(
        f"SELECT kind || ' \"' || name || '\"' FROM node WHERE present AND id IN ({_HOMELESS})",
        "belongs to no namespace",
        "forget it",
        (
            *(f"DELETE FROM {table} WHERE node IN ({_HOMELESS})" for table in ("pending_commit", *RECORDS)),
            f"DELETE FROM node WHERE id IN ({_HOMELESS})",
        ),
    ),
    *(
        Promise(
            f"SELECT '{table} of number ' || node FROM {table}"
            f" WHERE node NOT IN (SELECT id FROM node WHERE {kind} AND present)",
            "has a record but no name",
            "forget it",
            (f"DELETE FROM {table} WHERE node NOT IN (SELECT id FROM node WHERE {kind} AND present)",),
        )
        for table, kind in RECORDS.items()
    ),
    *(
        Promise(
            f"SELECT '{table} \"' || name || '\"' FROM node"
            f" WHERE {kind} AND present AND id NOT IN (SELECT node FROM {table})",
            "has a name but no record",
            "forget it",
            (f"UPDATE node SET present = 0 WHERE {kind} AND present AND id NOT IN (SELECT node FROM {table})",),
        )
        for table, kind in RECORDS.items()
    ),
    Promise(
        "SELECT 'snapshot \"' || n.name || '\"' FROM snapshot r JOIN node n ON n.id = r.node"
        " WHERE r.parent IS NOT NULL AND r.parent NOT IN (SELECT node FROM snapshot)",
        "has a parent without a record",
        "forget it, and what is made on top of it",
        (
            "WITH RECURSIVE lost (id) AS (SELECT node FROM snapshot"
            " WHERE parent IS NOT NULL AND parent NOT IN (SELECT node FROM snapshot)"
            " UNION SELECT r.node FROM snapshot r JOIN lost ON r.parent = lost.id)"
            " UPDATE node SET present = 0 WHERE id IN (SELECT id FROM lost)",
            "DELETE FROM pending_commit WHERE node IN (SELECT id FROM node WHERE NOT present)",
            "DELETE FROM snapshot WHERE node IN (SELECT id FROM node WHERE NOT present)",
        ),
    ),
    Promise(
        "SELECT 'commit to \"' || name || '\"' FROM pending_commit WHERE node NOT IN (SELECT node FROM snapshot)"
        " OR parent NOT IN (SELECT node FROM snapshot)",
        "is of a snapshot without a record",
        "forget it",
        (
            "DELETE FROM pending_commit WHERE node NOT IN (SELECT node FROM snapshot)"
            " OR parent NOT IN (SELECT node FROM snapshot)",
        ),
    ),
    Promise(
        "SELECT 'label \"' || key || '\"' FROM label WHERE node NOT IN (SELECT id FROM node WHERE present)",
        "is on something that does not exist",
        "forget it",
        ("DELETE FROM label WHERE node NOT IN (SELECT id FROM node WHERE present)",),
    ),
    Promise(
        "SELECT 'extension \"' || key || '\"' FROM extension WHERE node NOT IN (SELECT id FROM node WHERE present)",
        "is of something that does not exist",
        "forget it",
        ("DELETE FROM extension WHERE node NOT IN (SELECT id FROM node WHERE present)",),
    ),
    *(
        Promise(
            f"SELECT '{table} ' || src || ' -> ' || dst FROM {table} WHERE src NOT IN {_NODES} OR dst NOT IN {_NODES}",
            "has an end that does not exist",
            "forget it",
            (f"DELETE FROM {table} WHERE src NOT IN {_NODES} OR dst NOT IN {_NODES}",),
        )
        for table in ("edge", "condition")
    ),
    Promise(
        "SELECT 'edge ' || e.src || ' -> ' || e.dst FROM edge e"
        " JOIN node n ON n.id = CASE e.how WHEN 2 THEN e.dst ELSE e.src END WHERE NOT n.present",
        "belongs to something that does not exist",
        "forget it",
        (
            "DELETE FROM edge WHERE (how < 2 AND src IN (SELECT id FROM node WHERE NOT present))"
            " OR (how = 2 AND dst IN (SELECT id FROM node WHERE NOT present))",
        ),
    ),
    Promise(
        "SELECT 'snapshot \"' || n.name || '\"' FROM snapshot r JOIN node n ON n.id = r.node"
        " WHERE r.parent IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM edge e WHERE e.src = r.node AND e.how = 0 AND e.dst = r.parent)",
        "does not keep its parent",
        "note that it does",
        ("INSERT OR IGNORE INTO edge SELECT node, 0, parent FROM snapshot WHERE parent IS NOT NULL",),
    ),
    Promise(
        "SELECT 'image \"' || n.name || '\"' FROM image r JOIN node n ON n.id = r.node WHERE NOT EXISTS (SELECT 1"
        " FROM edge e JOIN node t ON t.id = e.dst WHERE e.src = r.node AND e.how = 0 AND t.kind = 'content'"
        " AND t.name = r.digest)",
        "does not keep its target",
        "note that it does",
        (
            "INSERT OR IGNORE INTO node (ns, kind, name, present)"
            " SELECT n.ns, 'content', r.digest, 0 FROM image r JOIN node n ON n.id = r.node",
            "INSERT OR IGNORE INTO edge SELECT r.node, 0, t.id FROM image r JOIN node n ON n.id = r.node"
            " JOIN node t ON t.ns = n.ns AND t.kind = 'content' AND t.name = r.digest",
        ),
    ),
    Promise(
        "SELECT 'container \"' || n.name || '\"' FROM container r JOIN node n ON n.id = r.node"
        " WHERE r.snapshotter != '' AND r.snapshot_key != '' AND NOT EXISTS (SELECT 1 FROM edge e"
        " JOIN node t ON t.id = e.dst WHERE e.src = r.node AND e.how = 0 AND t.kind = 'snapshots/' || r.snapshotter"
        " AND t.name = r.snapshot_key)",
        "does not keep its snapshot",
        "note that it does",
        (
            "INSERT OR IGNORE INTO node (ns, kind, name, present) SELECT n.ns, 'snapshots/' || r.snapshotter,"
            " r.snapshot_key, 0 FROM container r JOIN node n ON n.id = r.node WHERE r.snapshotter != ''",
            "INSERT OR IGNORE INTO edge SELECT r.node, 0, t.id FROM container r JOIN node n ON n.id = r.node"
            " JOIN node t ON t.ns = n.ns AND t.kind = 'snapshots/' || r.snapshotter AND t.name = r.snapshot_key"
            " WHERE r.snapshotter != ''",
        ),
    ),
)


def damage(db: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong with the file itself. Reads all of it."""
    return [row[0] for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]


def broken(db: sqlite3.Connection, promises: Iterable[Promise] = PROMISES) -> Iterator[tuple[Promise, str]]:
    """Each promise that does not hold, with the subject that breaks it."""
    for promise in promises:
        for row in db.execute(promise.query):
            yield promise, str(row[0])


def check_database(db: sqlite3.Connection) -> list[str]:
    """All faults of the file, one line each."""
    found = [f"metadata file: {fault}" for fault in damage(db)]
    return found + [f"metadata file: {subject} {promise.problem}" for promise, subject in broken(db)]
