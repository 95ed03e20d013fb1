# SPDX-License-Identifier: Apache-2.0
"""Container records."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from orlop import context
from orlop.errors import AlreadyExists, InvalidArgument, NotFound
from orlop.interfaces.metadata import ContainerStore
from orlop.values import Container, Labels, apply_labels, check_labels, now
from orlop_core.metadata import graph, payloads
from orlop_core.metadata.database import Database, Transaction
from orlop_core.metadata.links import CONTAINERS, SNAPSHOTS
from orlop_core.metadata.publish import event
from orlop_core.metadata.query import Query
from orlop_core.metadata.times import from_micros, to_micros
from orlop_sdk.api.events.container_pb2 import ContainerCreate, ContainerDelete, ContainerUpdate

_SELECT: Final = (
    "SELECT n.id, n.name, r.runtime, r.options_type, r.options, r.spec_type, r.spec, r.image, r.snapshotter, "
    f"r.snapshot_key, r.sandbox, r.created, r.updated, {graph.LABELS}, {payloads.EXTENSIONS} "
    "FROM node n JOIN container r ON r.node = n.id "
    f"WHERE n.ns = {graph.NAMESPACE_ID} AND n.kind = 'containers'"
)
_FIND: Final = f"{_SELECT} AND n.name = ? AND n.present"


class Containers:
    """The container records of all namespaces."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, id: str) -> Container:
        ns, _ = graph.call_scope()
        return self._database.look_up(lambda db: _load(db, ns, id)[1])

    async def list(self, filters: Sequence[str] = ()) -> list[Container]:
        ns, _ = graph.call_scope()
        query = Query(filters, name="id", columns={"runtime.name": "r.runtime", "image": "r.image"})
        return await query.all(self._database, _SELECT, (ns,), _container, _fields)

    async def create(self, container: Container) -> Container:
        ns, _ = graph.call_scope()
        context.check_identifier(container.id, "container")
        _check(container)
        moment = now()
        labels = graph.stored_labels(container.labels)
        stored = replace(container, labels=labels, created_at=moment, updated_at=moment)
        runtime = ContainerCreate.Runtime(name=container.runtime.name)
        if (options := container.runtime.options) is not None:
            runtime.options.type_url, runtime.options.value = options.type_url, options.value
        message = ContainerCreate(id=container.id, image=container.image, runtime=runtime)

        def write(tx: Transaction) -> None:
            space = graph.namespace(tx, ns)
            node = graph.create(tx, space, CONTAINERS, container.id)
            if node is None:
                raise AlreadyExists(f'container "{container.id}": already exists')
            _store(tx, node, space, stored)
            graph.set_labels(tx, node, space, CONTAINERS, labels)
            tx.changed(event=event(ns, "/containers/create", message))

        await self._database.write(write)
        return stored

    async def update(self, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        ns, _ = graph.call_scope()
        if not container.id:
            raise InvalidArgument("container: id must not be empty")

        def write(tx: Transaction) -> Container:
            node, current = _load(tx.db, ns, container.id)
            updated = replace(_merge(current, container, fieldpaths), updated_at=now())
            _check(updated)
            space = graph.namespace(tx, ns)
            graph.unlink(tx, node, space, (SNAPSHOTS + current.snapshotter, current.snapshot_key))
            _store(tx, node, space, updated)
            graph.replace_labels(tx, node, space, CONTAINERS, updated.labels)
            message = ContainerUpdate(
                id=updated.id, image=updated.image, labels=updated.labels, snapshot_key=updated.snapshot_key
            )
            tx.changed(event=event(ns, "/containers/update", message))
            return updated

        return await self._database.write(write)

    async def delete(self, id: str) -> None:
        ns, _ = graph.call_scope()

        def write(tx: Transaction) -> None:
            node = graph.find(tx.db, ns, CONTAINERS, id)
            if node is None:
                raise NotFound(f'container "{id}": not found')
            tx.db.execute("DELETE FROM container WHERE node = ?", (node,))
            graph.remove(tx, node)
            tx.changed(removed=True, event=event(ns, "/containers/delete", ContainerDelete(id=id)))

        await self._database.write(write)


def _load(db: sqlite3.Connection, ns: str, id: str) -> tuple[int, Container]:
    row = db.execute(_FIND, (ns, id)).fetchone()
    if row is None:
        raise NotFound(f'container "{id}": not found')
    return row[0], _container(row)


def _container(row: tuple[Any, ...]) -> Container:
    return Container(
        id=row[1],
        runtime=payloads.runtime(*row[2:5]),
        spec=payloads.from_columns(*row[5:7]),
        image=row[7],
        snapshotter=row[8],
        snapshot_key=row[9],
        sandbox=row[10],
        labels=graph.parse_labels(row[13]),
        extensions=payloads.parse_extensions(row[14]),
        created_at=from_micros(row[11]),
        updated_at=from_micros(row[12]),
    )


def _fields(container: Container) -> dict[str, str | Labels]:
    return {
        "id": container.id,
        "runtime": {"name": container.runtime.name},
        "image": container.image,
        "labels": container.labels,
    }


def _store(tx: Transaction, node: int, space: int, container: Container) -> None:
    tx.db.execute(
        "INSERT OR REPLACE INTO container VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            node,
            container.runtime.name,
            *payloads.to_columns(container.runtime.options),
            *payloads.to_columns(container.spec),
            container.image,
            container.snapshotter,
            container.snapshot_key,
            container.sandbox,
            to_micros(container.created_at),
            to_micros(container.updated_at),
        ),
    )
    payloads.store_extensions(tx, node, container.extensions)
    if container.snapshotter:
        graph.link(tx, node, space, (SNAPSHOTS + container.snapshotter, container.snapshot_key))


def _merge(current: Container, new: Container, fieldpaths: Sequence[str]) -> Container:
    if not fieldpaths:
        if new.snapshotter != current.snapshotter:
            raise InvalidArgument(f'container "{new.id}": field "snapshotter" cannot be changed')
        if new.runtime.name != current.runtime.name:
            raise InvalidArgument(f'container "{new.id}": field "runtime.name" cannot be changed')
        fieldpaths = ("labels", "spec", "extensions", "image", "snapshotkey")
    result = current
    for path in fieldpaths:
        if path == "labels" or path.startswith("labels."):
            result = replace(result, labels=apply_labels(result.labels, new.labels, [path]))
        elif path == "extensions" or path.startswith("extensions."):
            extensions = payloads.merge_extensions(result.extensions, new.extensions, path)
            result = replace(result, extensions=extensions)
        elif path == "spec":
            result = replace(result, spec=new.spec)
        elif path == "image":
            result = replace(result, image=new.image)
        elif path == "snapshotkey":
            result = replace(result, snapshot_key=new.snapshot_key)
        else:
            raise InvalidArgument(f'container "{new.id}": field "{path}" cannot be updated')
    return replace(result, labels=graph.stored_labels(result.labels))


def _check(container: Container) -> None:
    what = f'container "{container.id}"'
    payloads.check_extensions(container.extensions, what)
    check_labels(container.labels)
    if not container.runtime.name:
        raise InvalidArgument(f"{what}: runtime name must be set")
    if container.spec is None:
        raise InvalidArgument(f"{what}: spec must be set")
    if container.snapshot_key and not container.snapshotter:
        raise InvalidArgument(f"{what}: snapshotter must be set where snapshot key is")


_: type[ContainerStore] = Containers
