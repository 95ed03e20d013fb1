# SPDX-License-Identifier: Apache-2.0
"""Leases: a lease is a root, and what it keeps are edges."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from orlop.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented
from orlop.interfaces.metadata import LeaseStore
from orlop.values import EMPTY, Labels, Lease, LeaseResource, check_labels, now
from orlop_core.metadata import graph
from orlop_core.metadata.database import Database, Transaction
from orlop_core.metadata.links import CONTENT, IMAGES, INGESTS, LEASES, SNAPSHOTS
from orlop_core.metadata.query import Query
from orlop_core.metadata.times import from_micros, to_micros
from orlop_sdk import digest

_SELECT: Final = (
    f"SELECT n.name, r.created, {graph.LABELS} FROM node n JOIN lease r ON r.node = n.id "
    f"WHERE n.ns = {graph.NAMESPACE_ID} AND n.kind = 'leases'"
)
_RESOURCES: Final = (
    "SELECT t.name, t.kind FROM edge e JOIN node t ON t.id = e.dst "
    "WHERE e.src = ? AND e.how = 0 ORDER BY t.kind, t.name"
)


class Leases:
    """The leases of all namespaces.

    *collect* runs a garbage collection for synchronous deletes; *collectibles* are the further resource types.
    """

    def __init__(
        self, database: Database, collect: Callable[[], Awaitable[object]], collectibles: Collection[str]
    ) -> None:
        self._database = database
        self._collect = collect
        self._collectibles = collectibles

    async def create(self, id: str = "", labels: Labels = EMPTY) -> Lease:
        ns, _ = graph.call_scope()
        check_labels(labels)
        lease = Lease(id or f"{time.time_ns()}-{secrets.token_urlsafe(3)}", now(), graph.stored_labels(labels))

        def write(tx: Transaction) -> None:
            space = graph.namespace(tx, ns)
            node = graph.create(tx, space, LEASES, lease.id)
            if node is None:
                raise AlreadyExists(f'lease "{lease.id}": already exists')
            tx.db.execute("INSERT INTO lease VALUES (?, ?)", (node, to_micros(lease.created_at)))
            graph.set_labels(tx, node, space, LEASES, lease.labels)
            tx.changed()

        await self._database.write(write)
        return lease

    async def delete(self, id: str, *, sync: bool = False) -> None:
        ns, _ = graph.call_scope()

        def write(tx: Transaction) -> None:
            node = _require(tx.db, ns, id)
            tx.db.execute("DELETE FROM lease WHERE node = ?", (node,))
            graph.remove(tx, node)
            tx.changed(removed=True)

        await self._database.write(write)
        if sync:
            await self._collect()

    async def resources(self, lease: str) -> list[LeaseResource]:
        ns, _ = graph.call_scope()

        def read(db: sqlite3.Connection) -> list[LeaseResource]:
            rows = db.execute(_RESOURCES, (_require(db, ns, lease),))
            return [LeaseResource(id=name, type=kind) for name, kind in rows]

        return await self._database.read(read)

    async def list(self, filters: Sequence[str] = ()) -> list[Lease]:
        ns, _ = graph.call_scope()
        query = Query(filters, name="id")
        return await query.all(self._database, _SELECT, (ns,), _lease, _fields)

    async def add(self, lease: str, resource: LeaseResource) -> None:
        ns, _ = graph.call_scope()

        def write(tx: Transaction) -> None:
            node = _require(tx.db, ns, lease)
            self._check(resource)
            if not resource.id:
                raise InvalidArgument(f'lease resource of type "{resource.type}": needs an id')
            graph.link(tx, node, graph.namespace(tx, ns), (resource.type, resource.id))
            tx.changed()

        await self._database.write(write)

    async def remove(self, lease: str, resource: LeaseResource) -> None:
        ns, _ = graph.call_scope()

        def write(tx: Transaction) -> None:
            node = _require(tx.db, ns, lease)
            self._check(resource)
            graph.unlink(tx, node, graph.namespace(tx, ns), (resource.type, resource.id))
            tx.changed(removed=True)

        await self._database.write(write)

    def _check(self, resource: LeaseResource) -> None:
        kind, separator, snapshotter = resource.type.partition("/")
        if kind == SNAPSHOTS.rstrip("/"):
            if not snapshotter or "/" in snapshotter:
                raise InvalidArgument(f'lease resource type "{resource.type}": must read snapshots/<snapshotter>')
        elif kind in (CONTENT, INGESTS, IMAGES) or kind in self._collectibles:
            if separator:
                raise InvalidArgument(f'lease resource type "{resource.type}": must read {kind}')
            if kind == CONTENT:
                try:
                    digest.parse(resource.id)
                except InvalidArgument as error:
                    raise InvalidArgument(f'lease resource of type "{kind}": {error}') from error
        else:
            raise Unimplemented(f'lease resource type "{resource.type}": not known here')


def _require(db: sqlite3.Connection, ns: str, id: str) -> int:
    node = graph.find(db, ns, LEASES, id)
    if node is None:
        raise NotFound(f'lease "{id}": not found')
    return node


def _lease(row: tuple[str, int, str]) -> Lease:
    name, created, labels = row
    return Lease(name, from_micros(created), graph.parse_labels(labels))


def _fields(lease: Lease) -> dict[str, str | Labels]:
    return {"id": lease.id, "labels": lease.labels}


_: type[LeaseStore] = Leases
