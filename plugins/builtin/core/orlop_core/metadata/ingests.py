# SPDX-License-Identifier: Apache-2.0
"""Records of ingests: which ref of which namespace is which ref of the back end."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from orlop.errors import NotFound
from orlop.values import IngestStatus, Labels
from orlop_core.metadata import graph
from orlop_core.metadata.database import Database, Transaction
from orlop_core.metadata.links import CONTENT, INGESTS
from orlop_core.metadata.publish import event
from orlop_core.metadata.times import from_micros, now_micros
from orlop_sdk.api.events.content_pb2 import ContentCreate

#: An ingest outside any lease lives this long since it was opened last (microseconds).
LIFETIME: Final = 24 * 3600 * 1_000_000
_SHAREABLE: Final = "containerd.io/namespace.shareable"
_SELECT: Final = (
    "SELECT n.name, r.backend, r.expected, r.size, r.started FROM node n JOIN ingest r ON r.node = n.id "
    f"WHERE n.ns = {graph.NAMESPACE_ID} AND n.kind = 'ingests' AND n.present"
)


@dataclass(frozen=True, slots=True)
class Begun:
    """An ingest that was opened. *shared*: its content is here already, in another namespace."""

    backend: str
    expected: str = ""
    size: int = 0
    started: int = 0

    @property
    def shared(self) -> bool:
        """Whether nothing needs to be written."""
        return bool(self.expected)


@dataclass(frozen=True, slots=True)
class Record:
    """An ingest as recorded. *expected* is set while its content is another namespace's."""

    ref: str
    backend: str
    expected: str
    size: int
    started: int

    def status(self) -> IngestStatus:
        """The status of one whose content is all there."""
        moment = from_micros(self.started)
        return IngestStatus(self.ref, self.size, self.size, self.expected, moment, moment)


class Ingests:
    """The ingest records of all namespaces, and their turning into content records."""

    def __init__(self, database: Database, *, isolated: bool) -> None:
        self._database = database
        self._isolated = isolated

    async def begin(self, ns: str, ref: str, *, total: int, expected: str, lease: str | None) -> Begun | None:
        """Record that a ref is written to. None when the namespace has *expected* already; the lease has it then."""
        number = await self._database.sequence()

        def write(tx: Transaction) -> Begun | None:
            space = graph.namespace(tx, ns)
            if expected and graph.find(tx.db, ns, CONTENT, expected) is not None:
                graph.keep(tx, space, (CONTENT, expected), lease)
                return None
            size = self._sharable_size(tx.db, expected) if expected else None
            shared = size is not None and total in (0, size)
            begun = Begun(f"{ns}/{number}/{ref}", expected if shared else "", (shared and size) or 0, now_micros())
            return _begin(tx, space, ref, begun, lease)

        return await self._database.write(write)

    def find(self, db: sqlite3.Connection, ns: str, ref: str) -> Record | None:
        """One record, or None."""
        row = db.execute(f"{_SELECT} AND n.name = ?", (ns, ref)).fetchone()
        return None if row is None else Record(*row)

    def all(self, db: sqlite3.Connection, ns: str) -> list[Record]:
        """The records of a namespace, in order of ref."""
        return [Record(*row) for row in db.execute(f"{_SELECT} ORDER BY n.name", (ns,))]

    def backends(self, db: sqlite3.Connection) -> set[str]:
        """The back end's refs of all records."""
        return {row[0] for row in db.execute("SELECT backend FROM ingest")}

    async def unshare(self, ns: str, ref: str) -> None:
        """Note that an ingest is going to differ from the content it could have shared."""

        def write(tx: Transaction) -> None:
            node = graph.find(tx.db, ns, INGESTS, ref)
            record = self.find(tx.db, ns, ref)
            if node is None or record is None:
                raise NotFound(f'ingest "{ref}": was aborted meanwhile')
            tx.db.execute("UPDATE ingest SET expected = '', size = 0 WHERE node = ?", (node,))
            graph.unlink(tx, node, graph.namespace(tx, ns), (CONTENT, record.expected))

        await self._database.write(write)

    async def remove(self, ns: str, ref: str, lease: str | None) -> str:
        """Forget an ingest. Returns the back end's ref; raises `NotFound`."""

        def write(tx: Transaction) -> str:
            record = self.find(tx.db, ns, ref)
            if record is None:
                raise NotFound(f'ingest "{ref}": not found')
            _forget(tx, graph.namespace(tx, ns), ref, lease)
            tx.changed()
            return record.backend

        return await self._database.write(write)

    async def complete(self, ns: str, ref: str, digest: str, size: int, labels: Labels, lease: str | None) -> bool:
        """Turn an ingest into content. False when the namespace had that content already."""

        def write(tx: Transaction) -> bool:
            space = graph.namespace(tx, ns)
            _forget(tx, space, ref, lease)
            graph.keep(tx, space, (CONTENT, digest), lease)
            node = graph.create(tx, space, CONTENT, digest)
            if node is None:
                return False
            moment = now_micros()
            tx.db.execute("INSERT INTO content VALUES (?, ?, ?, ?)", (node, size, moment, moment))
            graph.set_labels(tx, node, space, CONTENT, labels)
            tx.changed(event=event(ns, "/content/create", ContentCreate(digest=digest, size=size)))
            return True

        return await self._database.write(write)

    def has_content(self, ns: str, digest: str) -> bool:
        """Whether the namespace has a blob."""
        return self._database.look_up(lambda db: graph.find(db, ns, CONTENT, digest) is not None)

    def check_lease(self, ns: str, lease: str | None) -> None:
        """Raise `NotFound` for a lease that does not exist, before anything is written under it."""
        if lease is not None and self._database.look_up(lambda db: graph.find(db, ns, "leases", lease)) is None:
            raise NotFound(f'lease "{lease}": not found')

    def _sharable_size(self, db: sqlite3.Connection, digest: str) -> int | None:
        """The size of a blob that some namespace has and lets others have, or None."""
        shareable = (
            "AND EXISTS (SELECT 1 FROM label WHERE node = n.ns AND key = ? AND value = 'true')"
            if self._isolated
            else ""
        )
        row = db.execute(
            "SELECT r.size FROM node n JOIN content r ON r.node = n.id "
            f"WHERE n.kind = 'content' AND n.name = ? AND n.present {shareable} LIMIT 1",
            (digest, _SHAREABLE) if self._isolated else (digest,),
        ).fetchone()
        return None if row is None else row[0]


def _begin(tx: Transaction, space: int, ref: str, begun: Begun, lease: str | None) -> Begun:
    row = tx.db.execute(
        "SELECT n.id, r.backend FROM node n JOIN ingest r ON r.node = n.id "
        "WHERE n.ns = ? AND n.kind = 'ingests' AND n.name = ? AND n.present",
        (space, ref),
    ).fetchone()
    if row is None:
        node = graph.create(tx, space, INGESTS, ref)
        assert node is not None
        tx.db.execute(
            "INSERT INTO ingest VALUES (?, ?, ?, ?, ?)",
            (node, begun.backend, begun.expected, begun.size, begun.started),
        )
    else:
        node = row[0]
        begun = Begun(row[1], begun.expected, begun.size, begun.started)
        tx.db.execute("UPDATE ingest SET expected = ?, size = ? WHERE node = ?", (begun.expected, begun.size, node))
        tx.db.execute("DELETE FROM edge WHERE src = ? AND how = 0", (node,))
    if not graph.keep(tx, space, (INGESTS, ref), lease):
        tx.db.execute("UPDATE node SET root = 1, expires = ? WHERE id = ?", (begun.started + LIFETIME, node))
        graph.touch(tx, node)
    if begun.expected:
        graph.link(tx, node, space, (CONTENT, begun.expected))
    tx.changed()
    return begun


def _forget(tx: Transaction, space: int, ref: str, lease: str | None) -> None:
    row = tx.db.execute(
        "SELECT id FROM node WHERE ns = ? AND kind = 'ingests' AND name = ? AND present", (space, ref)
    ).fetchone()
    if row is not None:
        graph.let_go(tx, space, (INGESTS, ref), lease)
        tx.db.execute("DELETE FROM ingest WHERE node = ?", (row[0],))
        graph.remove(tx, row[0])
