# SPDX-License-Identifier: Apache-2.0
"""Namespaces."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from orlop import context
from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from orlop.interfaces.metadata import NamespaceStore
from orlop.values import Labels, Namespace, apply_labels, check_labels
from orlop_core.metadata import graph
from orlop_core.metadata.database import Database, Transaction
from orlop_core.metadata.links import CONTAINERS, CONTENT, IMAGES, NAMESPACES, SANDBOXES, SNAPSHOTS
from orlop_core.metadata.publish import event
from orlop_sdk.api.events.namespace_pb2 import NamespaceCreate, NamespaceDelete, NamespaceUpdate

_SELECT = f"SELECT n.name, {graph.LABELS} FROM node n WHERE ns = 0 AND kind = 'namespaces' AND present"
#: What keeps a namespace from being deleted, in the words of an error.
_CONTENTS = {IMAGES: "images", CONTENT: "blobs", CONTAINERS: "containers", SANDBOXES: "sandboxes"}


class Namespaces:
    """The namespace records. *deleted* is told of every deletion."""

    def __init__(self, database: Database, deleted: Callable[[], None]) -> None:
        self._database = database
        self._deleted = deleted

    async def get(self, name: str) -> Namespace:
        row = self._database.look_up(lambda db: db.execute(_SELECT + " AND name = ?", (name,)).fetchone())
        if row is None:
            raise NotFound(f'namespace "{name}": not found')
        return _namespace(row)

    async def list(self) -> list[Namespace]:
        rows = await self._database.read(lambda db: db.execute(_SELECT + " ORDER BY name").fetchall())
        return [_namespace(row) for row in rows]

    async def create(self, namespace: Namespace) -> None:
        context.check_identifier(namespace.name, "namespace")
        check_labels(namespace.labels)
        caller = _caller(namespace.name)

        def write(tx: Transaction) -> None:
            node = graph.create(tx, 0, NAMESPACES, namespace.name)
            if node is None:
                raise AlreadyExists(f'namespace "{namespace.name}": already exists')
            graph.set_labels(tx, node, 0, NAMESPACES, namespace.labels)
            message = NamespaceCreate(name=namespace.name, labels=namespace.labels)
            tx.changed(event=event(caller, "/namespaces/create", message))

        await self._database.write(write)

    async def update(self, namespace: Namespace, fieldpaths: Sequence[str] = ()) -> Namespace:
        what = f'namespace "{namespace.name}"'
        context.check_identifier(namespace.name, "namespace")
        if "labels" in fieldpaths:
            raise InvalidArgument(f'{what}: field "labels" cannot be updated as a whole; name no field for that')
        caller = _caller(namespace.name)

        def write(tx: Transaction) -> Labels:
            message = NamespaceUpdate(name=namespace.name, labels=namespace.labels)
            told = event(caller, "/namespaces/update", message)
            if not fieldpaths and not namespace.labels and graph.find_namespace(tx.db, namespace.name) is None:
                tx.changed(event=told)  # nothing was written, so it does not come into being
                return {}
            node = graph.namespace(tx, namespace.name)
            labels = apply_labels(graph.labels_of(tx.db, node), namespace.labels, fieldpaths, what)
            labels = graph.stored_labels(labels)
            check_labels(labels)
            graph.replace_labels(tx, node, 0, NAMESPACES, labels)
            tx.changed(event=told)
            return labels

        return Namespace(namespace.name, await self._database.write(write))

    async def delete(self, name: str) -> None:
        def write(tx: Transaction) -> None:
            node = _require(tx.db, name)
            _check_empty(tx.db, name, node)
            _remove_rest(tx, node)
            graph.remove(tx, node)
            tx.changed(removed=True, event=event(name, "/namespaces/delete", NamespaceDelete(name=name)))

        await self._database.write(write)
        self._deleted()


def _caller(name: str) -> str:
    """The namespace to tell of a change in: that of the call, as containerd does, else the changed one itself."""
    return context.namespace_or_none() or name


def _namespace(row: tuple[str, str]) -> Namespace:
    return Namespace(row[0], graph.parse_labels(row[1]))


def _require(db: sqlite3.Connection, name: str) -> int:
    node = graph.find_namespace(db, name)
    if node is None:
        raise NotFound(f'namespace "{name}": not found')
    return node


def _check_empty(db: sqlite3.Connection, name: str, node: int) -> None:
    kinds = [row[0] for row in db.execute("SELECT DISTINCT kind FROM node WHERE ns = ? AND present", (node,))]
    left = [_CONTENTS[kind] for kind in kinds if kind in _CONTENTS]
    left += [f"snapshots on {kind.removeprefix(SNAPSHOTS)} snapshotter" for kind in kinds if kind.startswith(SNAPSHOTS)]
    if left:
        raise FailedPrecondition(
            f'namespace "{name}": not empty, still has {", ".join(sorted(left))}; delete them first'
        )


def _remove_rest(tx: Transaction, node: int) -> None:
    """Remove what goes with a namespace: leases, ingests, and mere names."""
    for table in ("lease", "ingest"):
        tx.db.execute(f"DELETE FROM {table} WHERE node IN (SELECT id FROM node WHERE ns = ?)", (node,))
    for table, column in (("label", "node"), ("edge", "src"), ("edge", "dst"), ("condition", "src")):
        tx.db.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT id FROM node WHERE ns = ?)", (node,))
    tx.db.execute("DELETE FROM node WHERE ns = ?", (node,))


_: type[NamespaceStore] = Namespaces
