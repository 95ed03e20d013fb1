# SPDX-License-Identifier: Apache-2.0
"""Sandbox records."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from orlop import context
from orlop.errors import AlreadyExists, InvalidArgument, NotFound
from orlop.interfaces.metadata import SandboxStore
from orlop.values import Labels, Sandbox, apply_labels, check_labels, now
from orlop_core.metadata import graph, payloads
from orlop_core.metadata.database import Database, Transaction
from orlop_core.metadata.links import SANDBOXES
from orlop_core.metadata.query import Query
from orlop_core.metadata.times import from_micros, to_micros

_SELECT: Final = (
    "SELECT n.id, n.name, r.runtime, r.options_type, r.options, r.spec_type, r.spec, r.sandboxer, r.created, "
    f"r.updated, {graph.LABELS}, {payloads.EXTENSIONS} FROM node n JOIN sandbox r ON r.node = n.id "
    f"WHERE n.ns = {graph.NAMESPACE_ID} AND n.kind = 'sandboxes'"
)
_FIND: Final = f"{_SELECT} AND n.name = ? AND n.present"


class Sandboxes:
    """The sandbox records of all namespaces. Events about sandboxes are their controllers' to publish."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, id: str) -> Sandbox:
        ns, _ = graph.call_scope()
        return self._database.look_up(lambda db: _load(db, ns, id)[1])

    async def list(self, filters: Sequence[str] = ()) -> list[Sandbox]:
        ns, _ = graph.call_scope()
        query = Query(filters, name="id")
        return await query.all(self._database, _SELECT, (ns,), _sandbox, _fields)

    async def create(self, sandbox: Sandbox) -> Sandbox:
        ns, _ = graph.call_scope()
        context.check_identifier(sandbox.id, "sandbox")
        _check(sandbox)
        moment = now()
        labels = graph.stored_labels(sandbox.labels)
        stored = replace(sandbox, labels=labels, created_at=moment, updated_at=moment)

        def write(tx: Transaction) -> None:
            space = graph.namespace(tx, ns)
            node = graph.create(tx, space, SANDBOXES, sandbox.id)
            if node is None:
                raise AlreadyExists(f'sandbox "{sandbox.id}": already exists')
            _store(tx, node, stored)
            graph.set_labels(tx, node, space, SANDBOXES, labels)
            tx.changed()

        await self._database.write(write)
        return stored

    async def update(self, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> Sandbox:
        ns, _ = graph.call_scope()

        def write(tx: Transaction) -> Sandbox:
            node, current = _load(tx.db, ns, sandbox.id)
            updated = replace(_merge(current, sandbox, fieldpaths), updated_at=now())
            _check(updated)
            _store(tx, node, updated)
            graph.replace_labels(tx, node, graph.namespace(tx, ns), SANDBOXES, updated.labels)
            tx.changed()
            return updated

        return await self._database.write(write)

    async def delete(self, id: str) -> None:
        ns, _ = graph.call_scope()

        def write(tx: Transaction) -> None:
            node = graph.find(tx.db, ns, SANDBOXES, id)
            if node is None:
                raise NotFound(f'sandbox "{id}": not found')
            tx.db.execute("DELETE FROM sandbox WHERE node = ?", (node,))
            graph.remove(tx, node)
            tx.changed(removed=True)

        await self._database.write(write)


def _load(db: sqlite3.Connection, ns: str, id: str) -> tuple[int, Sandbox]:
    row = db.execute(_FIND, (ns, id)).fetchone()
    if row is None:
        raise NotFound(f'sandbox "{id}": not found')
    return row[0], _sandbox(row)


def _sandbox(row: tuple[Any, ...]) -> Sandbox:
    return Sandbox(
        id=row[1],
        runtime=payloads.runtime(*row[2:5]),
        spec=payloads.from_columns(*row[5:7]),
        sandboxer=row[7],
        labels=graph.parse_labels(row[10]),
        extensions=payloads.parse_extensions(row[11]),
        created_at=from_micros(row[8]),
        updated_at=from_micros(row[9]),
    )


def _fields(sandbox: Sandbox) -> dict[str, str | Labels]:
    return {"id": sandbox.id, "labels": sandbox.labels}


def _store(tx: Transaction, node: int, sandbox: Sandbox) -> None:
    tx.db.execute(
        "INSERT OR REPLACE INTO sandbox VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            node,
            sandbox.runtime.name,
            *payloads.to_columns(sandbox.runtime.options),
            *payloads.to_columns(sandbox.spec),
            sandbox.sandboxer,
            to_micros(sandbox.created_at),
            to_micros(sandbox.updated_at),
        ),
    )
    payloads.store_extensions(tx, node, sandbox.extensions)


def _merge(current: Sandbox, new: Sandbox, fieldpaths: Sequence[str]) -> Sandbox:
    result = current
    for path in fieldpaths or ("labels", "extensions", "spec", "runtime"):
        if path == "labels" or path.startswith("labels."):
            result = replace(result, labels=apply_labels(result.labels, new.labels, [path]))
        elif path == "extensions" or path.startswith("extensions."):
            extensions = payloads.merge_extensions(result.extensions, new.extensions, path)
            result = replace(result, extensions=extensions)
        elif path == "spec":
            result = replace(result, spec=new.spec)
        elif path == "runtime":
            if new.runtime.name != current.runtime.name:
                raise InvalidArgument(f'sandbox "{new.id}": field "runtime.name" cannot be changed')
            result = replace(result, runtime=new.runtime)
        else:
            raise InvalidArgument(f'sandbox "{new.id}": field "{path}" cannot be updated')
    return replace(result, labels=graph.stored_labels(result.labels))


def _check(sandbox: Sandbox) -> None:
    what = f'sandbox "{sandbox.id}"'
    payloads.check_extensions(sandbox.extensions, what)
    check_labels(sandbox.labels)
    if not sandbox.runtime.name:
        raise InvalidArgument(f"{what}: runtime name must be set")


_: type[SandboxStore] = Sandboxes
