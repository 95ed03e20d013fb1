# SPDX-License-Identifier: Apache-2.0
"""Garbage collection: mark in SQL without stopping anybody, then sweep in one short transaction.

The mark reads one state of the database while writers go on. What they add meanwhile can only make a thing reachable
through a node that they touched (gave references, made a root) or created, and the writer's thread notes those. The
sweep, in the writer's thread, starts from the noted nodes once more and spares what it reaches; what became garbage
meanwhile waits for the next collection. So writers wait for the sweep only, which takes time in proportion to the
garbage and to what was written during the mark, not to what is kept.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from orlop.values import Event
from orlop_core.metadata.database import Transaction
from orlop_core.metadata.links import CONTENT, IMAGES, INGESTS, LEASES, SNAPSHOTS
from orlop_core.metadata.publish import event
from orlop_sdk.api.events.image_pb2 import ImageDelete
from orlop_sdk.api.events.snapshot_pb2 import SnapshotRemove

Item = tuple[str, str, str]
"""Namespace, kind and name."""

#: Whether the node is a root at the time ?1. A commit under way needs its snapshot and the parent it may get.
_IS_ROOT: Final = """((root = 1 AND (expires IS NULL OR expires >= :now))
    OR id IN (SELECT node FROM pending_commit) OR id IN (SELECT parent FROM pending_commit))"""

#: What is reached while not flat is followed by all edges; what is only kept flat, by those that are part of it.
_MARK: Final = """
    UNION
    SELECT e.dst, m.flat AND e.how = 0 FROM mark m JOIN edge e ON e.src = m.id WHERE m.flat = 0 OR e.how = 0
    UNION
    SELECT c.dst, 0 FROM mark m JOIN condition c ON c.src = m.id JOIN node n ON n.id = c.dst
    WHERE m.flat = 0 AND n.used IS NOT NULL
        AND CASE WHEN c.younger THEN :now - n.used < c.age ELSE :now - n.used > c.age END
"""

_UNMARKED: Final = f"""
WITH RECURSIVE mark (id, flat) AS (SELECT id, flat FROM node WHERE {_IS_ROOT} {_MARK})
SELECT id FROM node WHERE ns != 0 AND id NOT IN (SELECT id FROM mark)
"""

_REACHED: Final = f"""
WITH RECURSIVE mark (id, flat) AS (SELECT value, 0 FROM json_each(:start) {_MARK})
SELECT DISTINCT id FROM mark
"""

_NODE: Final = (
    "SELECT n.id FROM node n JOIN node s ON s.id = n.ns WHERE s.name = ? AND s.ns = 0 AND n.kind = ? AND n.name = ?"
)

_TABLES: Final = {CONTENT: "content", IMAGES: "image", INGESTS: "ingest", LEASES: "lease"}


@dataclass(slots=True)
class Swept:
    """What a sweep removed: how many of each kind, and which things that are kept elsewhere."""

    removed: Counter[str] = field(default_factory=Counter)
    backends: dict[str, list[str]] = field(default_factory=dict)
    """By kind, what the back ends call what was removed."""
    elsewhere: list[Item] = field(default_factory=list)


def begin(tx: Transaction) -> None:
    """Start to note what writers touch."""
    tx.state.touched = set()
    tx.state.created = set()


def end(tx: Transaction) -> None:
    """Stop noting."""
    tx.state.touched = None
    tx.state.created = set()


def mark(db: sqlite3.Connection, now: int) -> set[int]:
    """The nodes that no root reaches, mere names included, in the state of one moment."""
    return {row[0] for row in db.execute(_UNMARKED, {"now": now})}


def sweep(
    tx: Transaction,
    unmarked: set[int],
    now: int,
    *,
    busy: set[tuple[str, str]],
    elsewhere: Mapping[Item, Iterable[Item]],
) -> Swept:
    """Remove the unmarked nodes that are still unreachable, and say which things kept elsewhere nobody refers to.

    *busy* are ingests (namespace, ref) that have a writer open. *elsewhere* are things that are not in use, each with
    what it is attached to.
    """
    assert tx.state.touched is not None
    dead = unmarked - tx.state.created - _spared(tx, unmarked, now)
    swept = Swept(elsewhere=_unreferenced(tx.db, elsewhere, dead))
    removable = _removable(tx.db, dead, busy)
    for kind, items in removable.items():
        swept.removed[kind] += len(items)
        tx.outcome.events += _events(kind, items)
        swept.backends[kind] = _backends(tx.db, kind, items)
    _delete(tx.db, removable)
    # A name that only the dead referred to, or nobody, is not marked either.
    forget_names(tx.db, dead)
    end(tx)
    return swept


def _spared(tx: Transaction, unmarked: set[int], now: int) -> set[int]:
    touched = tx.state.touched or set()
    start = tx.state.created | (touched - unmarked)
    if doubtful := touched & unmarked:
        query = f"SELECT id FROM node WHERE id IN (SELECT value FROM json_each(:ids)) AND {_IS_ROOT}"
        start |= {row[0] for row in tx.db.execute(query, {"ids": json.dumps(list(doubtful)), "now": now})}
    if not start:
        return set()
    return {row[0] for row in tx.db.execute(_REACHED, {"start": json.dumps(list(start)), "now": now})}


def _removable(
    db: sqlite3.Connection, dead: set[int], busy: set[tuple[str, str]]
) -> dict[str, list[tuple[int, str, str]]]:
    """Existing nodes among the dead by kind: id, namespace, name."""
    rows = db.execute(
        "SELECT n.id, s.name, n.kind, n.name FROM node n JOIN node s ON s.id = n.ns "
        "WHERE n.id IN (SELECT value FROM json_each(?)) AND n.present ORDER BY n.id",
        (json.dumps(list(dead)),),
    )
    found: dict[str, list[tuple[int, str, str]]] = {}
    for node, ns, kind, name in rows:
        if kind == INGESTS and (ns, name) in busy:
            continue
        found.setdefault(kind, []).append((node, ns, name))
    return found


def _events(kind: str, items: Sequence[tuple[int, str, str]]) -> list[Event]:
    if kind.startswith(SNAPSHOTS):
        snapshotter = kind.removeprefix(SNAPSHOTS)

        return [
            event(ns, "/snapshot/remove", SnapshotRemove(key=name, snapshotter=snapshotter)) for _, ns, name in items
        ]
    if kind == IMAGES:
        return [event(ns, "/images/delete", ImageDelete(name=name)) for _, ns, name in items]
    return []


def _backends(db: sqlite3.Connection, kind: str, items: Sequence[tuple[int, str, str]]) -> list[str]:
    if kind == CONTENT:
        return [name for _, _, name in items]
    table = "snapshot" if kind.startswith(SNAPSHOTS) else "ingest" if kind == INGESTS else ""
    if not table:
        return []
    nodes = json.dumps([node for node, _, _ in items])
    rows = db.execute(f"SELECT backend FROM {table} WHERE node IN (SELECT value FROM json_each(?))", (nodes,))
    return [row[0] for row in rows]


def _delete(db: sqlite3.Connection, removable: dict[str, list[tuple[int, str, str]]]) -> None:
    everything: list[int] = []
    snapshots: list[int] = []
    for kind, items in removable.items():
        nodes = [item[0] for item in items]
        everything += nodes
        if kind.startswith(SNAPSHOTS):
            snapshots += nodes
        else:
            db.execute(
                f"DELETE FROM {_TABLES[kind]} WHERE node IN (SELECT value FROM json_each(?))", (json.dumps(nodes),)
            )
    # In one statement, after which the references between parents and children are checked.
    db.execute("DELETE FROM snapshot WHERE node IN (SELECT value FROM json_each(?))", (json.dumps(snapshots),))
    ids = json.dumps(everything)
    for statement in (
        "DELETE FROM label WHERE node IN (SELECT value FROM json_each(?))",
        "DELETE FROM edge WHERE how < 2 AND src IN (SELECT value FROM json_each(?))",
        "DELETE FROM edge WHERE how = 2 AND dst IN (SELECT value FROM json_each(?))",
        "DELETE FROM condition WHERE src IN (SELECT value FROM json_each(?))",
        "UPDATE node SET present = 0, root = 0, flat = 0, expires = NULL, used = NULL "
        "WHERE id IN (SELECT value FROM json_each(?))",
    ):
        db.execute(statement, (ids,))


def forget_names(db: sqlite3.Connection, among: Collection[int] | None = None) -> None:
    """Drop the mere names that nothing refers to any more, of these nodes or of all."""
    which = "present = 0" if among is None else "id IN (SELECT value FROM json_each(?)) AND present = 0"
    db.execute(
        f"DELETE FROM node WHERE {which} AND NOT EXISTS (SELECT 1 FROM edge WHERE dst = node.id) "
        "AND NOT EXISTS (SELECT 1 FROM edge WHERE src = node.id) "
        "AND NOT EXISTS (SELECT 1 FROM condition WHERE dst = node.id)",
        () if among is None else (json.dumps(list(among)),),
    )


def _unreferenced(db: sqlite3.Connection, items: Mapping[Item, Iterable[Item]], dead: set[int]) -> list[Item]:
    def stays(item: Item) -> bool:
        row = db.execute(_NODE, item).fetchone()
        return row is not None and row[0] not in dead

    return [item for item, keepers in items.items() if not stays(item) and not any(map(stays, keepers))]
