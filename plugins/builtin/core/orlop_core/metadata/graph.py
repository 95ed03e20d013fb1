# SPDX-License-Identifier: Apache-2.0
"""Nodes, their labels, and the edges between them: what every write of a record has in common."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from orlop import context
from orlop.errors import NotFound
from orlop.values import EMPTY, Labels
from orlop_core.metadata import links
from orlop_core.metadata.database import Transaction
from orlop_core.metadata.links import LEASES, NAMESPACES, Meaning, Target

#: How an edge came about; see `orlop_core.metadata.schema`.
PART: Final = 0
REFERENCE: Final = 1
BACK_REFERENCE: Final = 2

#: Id of a namespace by name, to be used within larger statements.
NAMESPACE_ID: Final = "(SELECT id FROM node WHERE ns = 0 AND kind = 'namespaces' AND name = ? AND present)"
#: All labels of the node ``n`` as one JSON object.
LABELS: Final = "(SELECT json_group_object(key, value) FROM label WHERE node = n.id)"

# Without the look for white space that `json.loads` takes, which costs more than the labels do.
_decode: Final = json.JSONDecoder().raw_decode


def parse_labels(text: str) -> Labels:
    """Labels out of the JSON that `LABELS` makes."""
    return EMPTY if text == "{}" else _decode(text)[0]


def stored_labels(labels: Labels) -> dict[str, str]:
    """Labels as they are kept: one without a value counts as absent, as in containerd."""
    return {key: value for key, value in labels.items() if value}


def find_namespace(db: sqlite3.Connection, name: str) -> int | None:
    """The id of a namespace, or None."""
    row = db.execute(f"SELECT {NAMESPACE_ID}", (name,)).fetchone()
    return row[0]  # type: ignore[no-any-return]


def namespace(tx: Transaction, name: str) -> int:
    """The id of a namespace, which comes into being if need be."""
    found = find_namespace(tx.db, name)
    if found is not None:
        return found
    node = create(tx, 0, NAMESPACES, name)
    assert node is not None
    return node


def find(db: sqlite3.Connection, ns: str, kind: str, name: str) -> int | None:
    """The id of a node that exists, or None."""
    row = db.execute(
        f"SELECT id FROM node WHERE ns = {NAMESPACE_ID} AND kind = ? AND name = ? AND present", (ns, kind, name)
    ).fetchone()
    return None if row is None else row[0]


def create(tx: Transaction, ns: int, kind: str, name: str) -> int | None:
    """Make a node and return its id, or None when it exists."""
    row = tx.db.execute(
        "SELECT id, present FROM node WHERE ns = ? AND kind = ? AND name = ?", (ns, kind, name)
    ).fetchone()
    if row is None:
        node = _insert(tx, ns, kind, name, present=1)
    elif row[1]:
        return None
    else:
        node = row[0]
        tx.db.execute("UPDATE node SET present = 1 WHERE id = ?", (node,))
    if tx.state.touched is not None:
        tx.state.created.add(node)
    return node


def remove(tx: Transaction, node: int) -> None:
    """Remove a node whose record is gone already. It stays as a mere name while anything refers to it."""
    db = tx.db
    forget_labels(tx, node)
    db.execute("DELETE FROM edge WHERE src = ? AND how = 0", (node,))
    db.execute("DELETE FROM extension WHERE node = ?", (node,))
    referred = db.execute(
        "SELECT EXISTS (SELECT 1 FROM edge WHERE dst = ?1) OR EXISTS (SELECT 1 FROM edge WHERE src = ?1)"
        " OR EXISTS (SELECT 1 FROM condition WHERE dst = ?1)",
        (node,),
    ).fetchone()[0]
    if referred:
        db.execute("UPDATE node SET present = 0, root = 0, flat = 0, expires = NULL, used = NULL WHERE id = ?", (node,))
    else:
        db.execute("DELETE FROM node WHERE id = ?", (node,))


def forget_labels(tx: Transaction, node: int) -> None:
    """Drop labels, and the edges that came of them."""
    db = tx.db
    db.execute("DELETE FROM label WHERE node = ?", (node,))
    db.execute("DELETE FROM edge WHERE src = ? AND how = 1", (node,))
    db.execute("DELETE FROM edge WHERE dst = ? AND how = 2", (node,))
    db.execute("DELETE FROM condition WHERE src = ?", (node,))


def set_labels(tx: Transaction, node: int, ns: int, kind: str, labels: Labels) -> None:
    """Give a new node its labels, and draw the edges they stand for."""
    labels = stored_labels(labels)
    meaning = links.read(kind, labels)
    if labels:
        tx.db.executemany("INSERT INTO label VALUES (?, ?, ?)", [(node, *item) for item in labels.items()])
    if meaning.root or meaning.flat or meaning.used is not None:
        tx.db.execute(
            "UPDATE node SET root = ?, flat = ?, expires = ?, used = ? WHERE id = ?",
            (meaning.root, meaning.flat, meaning.expires, meaning.used, node),
        )
    touch(tx, node)
    if meaning.used is not None and tx.state.touched is not None:
        # References under a condition start to count, or cease to, with this time.
        tx.state.touched.update(row[0] for row in tx.db.execute("SELECT src FROM condition WHERE dst = ?", (node,)))
    _draw(tx, node, ns, meaning)


def replace_labels(tx: Transaction, node: int, ns: int, kind: str, labels: Labels) -> None:
    """Give a node other labels."""
    forget_labels(tx, node)
    tx.db.execute("UPDATE node SET root = 0, flat = 0, expires = NULL, used = NULL WHERE id = ?", (node,))
    set_labels(tx, node, ns, kind, labels)


def labels_of(db: sqlite3.Connection, node: int) -> dict[str, str]:
    """The labels of a node."""
    return dict(db.execute("SELECT key, value FROM label WHERE node = ?", (node,)))


def link(tx: Transaction, source: int, ns: int, target: Target, how: int = PART) -> None:
    """Draw an edge to a thing that need not exist."""
    destination = _name(tx, ns, target)
    tx.db.execute("INSERT OR IGNORE INTO edge VALUES (?, ?, ?)", (source, how, destination))
    touch(tx, source)


def unlink(tx: Transaction, source: int, ns: int, target: Target) -> None:
    """Remove an edge that is part of the source; nothing if there is none."""
    tx.db.execute(
        "DELETE FROM edge WHERE src = ? AND how = 0"
        " AND dst = (SELECT id FROM node WHERE ns = ? AND kind = ? AND name = ?)",
        (source, ns, *target),
    )


def touch(tx: Transaction, node: int) -> None:
    """Note that a node got references or became a root, for a collection that is marking meanwhile."""
    if tx.state.touched is not None:
        tx.state.touched.add(node)


def current_lease(tx: Transaction, ns: int, lease: str | None) -> int | None:
    """The id of the lease a call came with. Raises `NotFound` when there is no such lease."""
    if lease is None:
        return None
    row = tx.db.execute(
        "SELECT id FROM node WHERE ns = ? AND kind = ? AND name = ? AND present", (ns, LEASES, lease)
    ).fetchone()
    if row is None:
        raise NotFound(f'lease "{lease}": not found')
    return row[0]  # type: ignore[no-any-return]


def lease_exists(tx: Transaction, ns: int, lease: str) -> bool:
    """Whether a lease is still there."""
    row = tx.db.execute(
        "SELECT 1 FROM node WHERE ns = ? AND kind = ? AND name = ? AND present", (ns, LEASES, lease)
    ).fetchone()
    return row is not None


def keep(tx: Transaction, ns: int, target: Target, lease: str | None) -> bool:
    """Add a thing to the lease of the call, if it came with one. Raises `NotFound` for an unknown lease."""
    node = current_lease(tx, ns, lease)
    if node is not None:
        link(tx, node, ns, target)
    return node is not None


def let_go(tx: Transaction, ns: int, target: Target, lease: str | None) -> None:
    """Take a deleted thing off the lease of the call, if that lease exists."""
    if lease is None:
        return
    row = tx.db.execute("SELECT id FROM node WHERE ns = ? AND kind = ? AND name = ?", (ns, LEASES, lease)).fetchone()
    if row is not None:
        unlink(tx, row[0], ns, target)


def call_scope() -> tuple[str, str | None]:
    """Namespace and lease of the current call. Raises as `orlop.context.namespace`."""
    return context.namespace(), context.lease()


def _draw(tx: Transaction, node: int, ns: int, meaning: Meaning) -> None:
    for target in meaning.references:
        link(tx, node, ns, target, REFERENCE)
    for target in meaning.back_references:
        keeper = _name(tx, ns, target)
        tx.db.execute("INSERT OR IGNORE INTO edge VALUES (?, ?, ?)", (keeper, BACK_REFERENCE, node))
        touch(tx, keeper)
    conditions: Iterable[tuple[Any, ...]] = [
        (node, _name(tx, ns, target), younger, age) for target, younger, age in meaning.conditions
    ]
    tx.db.executemany("INSERT OR IGNORE INTO condition VALUES (?, ?, ?, ?)", conditions)


def _name(tx: Transaction, ns: int, target: Target) -> int:
    """The id of a node, present or not."""
    row = tx.db.execute("SELECT id FROM node WHERE ns = ? AND kind = ? AND name = ?", (ns, *target)).fetchone()
    if row is not None:
        return row[0]  # type: ignore[no-any-return]
    return _insert(tx, ns, *target, present=0)


def _insert(tx: Transaction, ns: int, kind: str, name: str, *, present: int) -> int:
    cursor = tx.db.execute("INSERT INTO node (ns, kind, name, present) VALUES (?, ?, ?, ?)", (ns, kind, name, present))
    assert cursor.lastrowid is not None
    if tx.state.touched is not None:
        # Even a mere name: a number that was free when the mark read its state may have a new owner by now.
        tx.state.created.add(cursor.lastrowid)
    return cursor.lastrowid
