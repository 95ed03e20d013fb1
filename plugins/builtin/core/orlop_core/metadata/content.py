# SPDX-License-Identifier: Apache-2.0
"""The content store as one namespace sees it: records over a back end that all namespaces share."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Literal

from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OrlopError, Unavailable
from orlop.interfaces.content import ContentReader, ContentStore, ContentWriter
from orlop.values import ContentInfo, Descriptor, IngestStatus, Labels, apply_labels, check_labels
from orlop_core.metadata import graph
from orlop_core.metadata.database import Database, Transaction
from orlop_core.metadata.guard import Guard
from orlop_core.metadata.ingests import Begun, Ingests
from orlop_core.metadata.links import CONTENT
from orlop_core.metadata.publish import event
from orlop_core.metadata.query import Query
from orlop_core.metadata.times import from_micros, now_micros
from orlop_core.metadata.writer import NamespacedWriter
from orlop_sdk import digest as digests
from orlop_sdk.api.events.content_pb2 import ContentDelete
from orlop_sdk.filters import fields, parse

#: Blobs whose records are looked up at once.
_BATCH: Final = 256
#: Blobs that are removed at the same time.
_AT_ONCE: Final = 16

Policy = Literal["shared", "isolated"]

_SELECT: Final = (
    f"SELECT n.id, n.name, r.size, r.created, r.updated, {graph.LABELS} FROM node n JOIN content r ON r.node = n.id "
    f"WHERE n.ns = {graph.NAMESPACE_ID} AND n.kind = 'content'"
)
_FIND: Final = f"{_SELECT} AND n.name = ? AND n.present"


class NamespacedContent:
    """The content of the namespace of each call.

    With the policy ``shared`` a writer that states a digest which another namespace has gets it without sending it;
    with ``isolated`` only from namespaces labelled ``containerd.io/namespace.shareable=true``.
    """

    def __init__(self, database: Database, backend: ContentStore, policy: Policy) -> None:
        self._database = database
        self._backend = backend
        self._ingests = Ingests(database, isolated=policy == "isolated")
        self._open: set[tuple[str, str]] = set()
        self._guard = Guard()
        self._deleted: set[str] = set()
        self.dirty = True
        """Whether the back end may hold something that no namespace has any more."""

    async def info(self, digest: str) -> ContentInfo:
        ns, _ = graph.call_scope()
        return self._database.look_up(lambda db: _load(db, ns, digest)[1])

    async def update(self, info: ContentInfo, fieldpaths: Sequence[str] = ()) -> ContentInfo:
        ns, _ = graph.call_scope()
        digests.parse(info.digest)

        def write(tx: Transaction) -> ContentInfo:
            node, current = _load(tx.db, ns, info.digest)
            labels = graph.stored_labels(
                apply_labels(current.labels, info.labels, fieldpaths, f'content "{info.digest}"')
            )
            check_labels(labels)
            moment = now_micros()
            tx.db.execute("UPDATE content SET updated = ? WHERE node = ?", (moment, node))
            graph.replace_labels(tx, node, graph.namespace(tx, ns), CONTENT, labels)
            tx.changed()
            return replace(current, labels=labels, updated_at=from_micros(moment))

        return await self._database.write(write)

    async def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[ContentInfo]:
        ns, _ = graph.call_scope()
        query = Query(filters, name="digest")
        async for page in query.pages(self._database, _SELECT, (ns,), _info):
            for info in query.matching(page, _fields):
                yield info

    async def delete(self, digest: str) -> None:
        ns, lease = graph.call_scope()

        def write(tx: Transaction) -> None:
            node, _ = _load(tx.db, ns, digest)
            graph.let_go(tx, graph.namespace(tx, ns), (CONTENT, digest), lease)
            tx.db.execute("DELETE FROM content WHERE node = ?", (node,))
            graph.remove(tx, node)
            tx.changed(removed=True, event=event(ns, "/content/delete", ContentDelete(digest=digest)))
            # Not sooner: a sweep that comes before the commit would find the record, and leave the blob for ever.
            tx.note(lambda: self._deleted.add(digest))

        await self._database.write(write)

    async def reader(self, descriptor: Descriptor) -> ContentReader:
        await self.info(descriptor.digest)
        return await self._backend.reader(descriptor)

    async def writer(self, ref: str, *, total: int = 0, expected: str = "") -> ContentWriter:
        ns, lease = graph.call_scope()
        if not ref:
            raise InvalidArgument("ingest: ref must not be empty")
        if expected:
            digests.parse(expected)
        if (ns, ref) in self._open:
            raise Unavailable(f'ingest "{ref}": has a writer open already; try again')
        self._open.add((ns, ref))
        opened = False
        try:
            begun = await self._ingests.begin(ns, ref, total=total, expected=expected, lease=lease)
            if begun is None:
                raise AlreadyExists(f'content "{expected}": already exists')
            writer = await self._make_writer(ns, ref, begun, total)
            opened = True
            return writer
        finally:
            if not opened:
                self._open.discard((ns, ref))

    async def status(self, ref: str) -> IngestStatus:
        ns, _ = graph.call_scope()
        record = self._database.look_up(lambda db: self._ingests.find(db, ns, ref))
        if record is None:
            raise NotFound(f'ingest "{ref}": not found')
        if record.expected:
            return record.status()
        return replace(await self._backend.status(record.backend), ref=ref)

    async def statuses(self, filters: Sequence[str] = ()) -> list[IngestStatus]:
        ns, _ = graph.call_scope()
        wanted = parse(filters)
        records = await self._database.read(lambda db: self._ingests.all(db, ns))
        in_progress = {status.ref: status for status in await self._backend.statuses()}
        found = []
        for record in records:
            if not wanted.match(fields({"ref": record.ref})):
                continue
            if record.expected:
                found.append(record.status())
            elif status := in_progress.get(record.backend):
                found.append(replace(status, ref=record.ref))
        return found

    async def abort(self, ref: str) -> None:
        ns, lease = graph.call_scope()
        backend = await self._ingests.remove(ns, ref, lease)
        try:
            await self._backend.abort(backend)
        except NotFound:
            return  # one that was never written to, or whose content came from another namespace
        except OrlopError:
            self.dirty = True
            raise

    async def close(self) -> None:
        """Nothing to free: the back end is its own plugin's to close."""

    def open_ingests(self) -> set[tuple[str, str]]:
        """Namespace and ref of every ingest that has a writer open."""
        return set(self._open)

    async def sweep(self, blobs: Collection[str], ingests: Collection[str]) -> int:
        """Remove from the back end what no namespace has. Returns how many blobs went.

        *blobs* and *ingests* (refs of the back end) are what a collection has just removed the records of; only when
        the back end may hold more than that, everything in it is looked at.
        """
        deleted, self._deleted = self._deleted, set()
        if not self.dirty:
            removed = await self._remove_blobs({*blobs, *deleted})
            for backend in ingests:
                await self._abort_unknown(backend)
            return removed
        self.dirty = False
        removed, batch = 0, list[str]()
        async for info in self._backend.walk():
            batch.append(info.digest)
            if len(batch) == _BATCH:
                removed += await self._remove_blobs(await self._database.read(partial(_unknown, digests=batch)))
                batch = []
        removed += await self._remove_blobs(await self._database.read(partial(_unknown, digests=batch)))
        statuses = await self._backend.statuses()
        kept = await self._database.read(self._ingests.backends)
        for status in statuses:
            if status.ref not in kept:
                await self._abort_unknown(status.ref)
        return removed

    async def _remove_blobs(self, blobs: Collection[str]) -> int:
        removed, names = 0, list(blobs)
        try:
            for start in range(0, len(names), _AT_ONCE):
                removed += sum(await asyncio.gather(*map(self._remove_unknown, names[start : start + _AT_ONCE])))
        except BaseException:
            self.dirty = True  # whatever was not reached
            raise
        return removed

    async def faults(self) -> AsyncIterator[tuple[str, str, str]]:
        """Records without a blob, or with one of another size: namespace, digest and what is wrong."""
        sizes = {info.digest: info.size async for info in self._backend.walk()}
        for ns, digest, size in await self._database.read(_all_records):
            if digest not in sizes:
                yield ns, digest, "has no blob in the content store"
            elif sizes[digest] != size:
                yield ns, digest, f"has {sizes[digest]} bytes instead of {size}"

    async def orphans(self) -> AsyncIterator[str]:
        """What the back end has and no namespace, as text."""
        known = await self._database.read(_known_digests)
        async for info in self._backend.walk():
            if info.digest not in known:
                yield f'blob "{info.digest}"'
        kept = await self._database.read(self._ingests.backends)
        for status in await self._backend.statuses():
            if status.ref not in kept:
                yield f'ingest "{status.ref}"'

    async def forget(self, ns: str, digest: str) -> None:
        """Drop the record of a blob that is lost; a blob that is left of it has no record then."""

        def write(tx: Transaction) -> None:
            node = graph.find(tx.db, ns, CONTENT, digest)
            if node is not None:
                tx.db.execute("DELETE FROM content WHERE node = ?", (node,))
                graph.remove(tx, node)

        await self._database.write(write)

    async def _make_writer(self, ns: str, ref: str, begun: Begun, total: int) -> NamespacedWriter:
        inner = None if begun.shared else await self._backend.writer(begun.backend, total=total)
        return NamespacedWriter(
            ns,
            ref,
            begun,
            inner,
            backend=self._backend,
            ingests=self._ingests,
            guard=self._guard,
            release=self._release,
        )

    def _release(self, ns: str, ref: str, orphaned: bool) -> None:
        self._open.discard((ns, ref))
        self.dirty = self.dirty or orphaned

    async def _remove_unknown(self, digest: str) -> bool:
        with self._guard.removing(digest) as free:
            # Asked again now that nobody can be about to commit it.
            if not free or self._database.look_up(lambda db: _is_known(db, digest)):
                return False
            try:
                await self._backend.delete(digest)
            except NotFound:
                return False
        return True

    async def _abort_unknown(self, backend: str) -> None:
        try:
            await self._backend.abort(backend)
        except NotFound:
            return  # one that was never written to, or whose content came from another namespace
        except (Unavailable, FailedPrecondition):
            self.dirty = True  # another try at the next collection


def _load(db: sqlite3.Connection, ns: str, digest: str) -> tuple[int, ContentInfo]:
    row = db.execute(_FIND, (ns, digest)).fetchone()
    if row is None:
        raise NotFound(f'content "{digest}": not found')
    return row[0], _info(row)


def _info(row: tuple[int, str, int, int, int, str]) -> ContentInfo:
    _, digest, size, created, updated, labels = row
    return ContentInfo(digest, size, from_micros(created), from_micros(updated), graph.parse_labels(labels))


def _fields(info: ContentInfo) -> dict[str, str | Labels]:
    return {"digest": info.digest, "labels": info.labels}


def _known_digests(db: sqlite3.Connection) -> set[str]:
    return {row[0] for row in db.execute("SELECT name FROM node WHERE kind = 'content' AND present")}


def _unknown(db: sqlite3.Connection, digests: Sequence[str]) -> list[str]:
    """Those of some digests that no namespace has."""
    rows = db.execute(
        "SELECT value FROM json_each(?) WHERE NOT EXISTS"
        " (SELECT 1 FROM node WHERE kind = 'content' AND name = value AND present)",
        (json.dumps(digests),),
    )
    return [row[0] for row in rows]


def _is_known(db: sqlite3.Connection, digest: str) -> bool:
    row = db.execute("SELECT 1 FROM node WHERE kind = 'content' AND name = ? AND present", (digest,)).fetchone()
    return row is not None


def _all_records(db: sqlite3.Connection) -> list[tuple[str, str, int]]:
    return db.execute(
        "SELECT s.name, n.name, r.size FROM content r JOIN node n ON n.id = r.node JOIN node s ON s.id = n.ns"
    ).fetchall()


_: type[ContentStore] = NamespacedContent
