# SPDX-License-Identifier: Apache-2.0
"""Snapshotters as one namespace sees them: records over back ends that all namespaces share.

A snapshot is made in the back end first and recorded then, under a key that is never used twice. What a crash leaves
in between has no record, and the next collection removes it. A commit is noted first, done by the back end, and
recorded then; at the next start the back end is asked how far a noted commit got.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from orlop.errors import AlreadyExists, InvalidArgument, NotFound, OrlopError, Unimplemented, from_code
from orlop.interfaces.snapshotter import Cleaner, Snapshotter
from orlop.values import EMPTY, Labels, Mount, SnapshotInfo, SnapshotKind, Usage, apply_labels, check_labels
from orlop_core.metadata import graph
from orlop_core.metadata.database import Database, Transaction
from orlop_core.metadata.guard import Guard
from orlop_core.metadata.links import LEASES
from orlop_core.metadata.query import Query
from orlop_core.metadata.snapshot_records import SELECT, New, Pending, Record, SnapshotRecords, record
from orlop_core.metadata.times import from_micros

_log = logging.getLogger(__name__)

#: A snapshotter that has this layer already, under this name, answers `AlreadyExists`.
TARGET_LABEL: Final = "containerd.io/snapshot.ref"
#: Up to so many snapshots are asked for one by one; for more, all that a back end has are gone through.
_FEW: Final = 16
#: Labels that concern the back end.
_BACKEND_PREFIX: Final = "containerd.io/snapshot/"


@dataclass(frozen=True, slots=True)
class Fault:
    """A record that is not true. *lost*: its snapshot is not there at all."""

    node: int
    namespace: str
    key: str
    problem: str
    lost: bool


class Snapshotters(Mapping[str, "NamespacedSnapshotter"]):
    """The views of all snapshotter plugins there are, by id."""

    def __init__(self, database: Database, backends: Mapping[str, Snapshotter]) -> None:
        self._database = database
        self._backends = backends
        self._views: dict[str, NamespacedSnapshotter] = {}

    def __getitem__(self, id: str) -> NamespacedSnapshotter:
        backend = self._backends[id]
        view = self._views.get(id)
        if view is None or view.backend is not backend:
            view = self._views[id] = NamespacedSnapshotter(self._database, id, backend)
        return view

    def __iter__(self) -> Iterator[str]:
        return iter(self._backends)

    def __len__(self) -> int:
        return len(self._backends)


class NamespacedSnapshotter:
    """The snapshots that the namespace of each call has in one snapshotter."""

    def __init__(self, database: Database, id: str, backend: Snapshotter) -> None:
        self.backend: Final = backend
        self._database = database
        self._records = SnapshotRecords(id)
        self._guard = Guard()
        self._recovered = False
        self._recovering = asyncio.Lock()
        self._removed: set[str] = set()
        self.dirty = True
        """Whether the back end may hold something that no namespace has any more."""

    async def stat(self, key: str) -> SnapshotInfo:
        found = await self._find(key)
        with _named({found.backend: key}):
            return _overlay(found, await self.backend.stat(found.backend))

    async def update(self, info: SnapshotInfo, fieldpaths: Sequence[str] = ()) -> SnapshotInfo:
        ns, _ = graph.call_scope()
        if not info.name:
            raise InvalidArgument("snapshot: name is required to update it")
        found = await self._find(info.name)
        labels = apply_labels(found.labels, info.labels, fieldpaths, f'snapshot "{info.name}"')
        check_labels(labels)
        await self._forward_labels(found, labels)
        changed = await self._database.write(
            lambda tx: self._records.set_labels(tx, ns, info.name, info.labels, tuple(fieldpaths))
        )
        return _overlay(changed, await self.backend.stat(changed.backend))

    async def usage(self, key: str) -> Usage:
        found = await self._find(key)
        with _named({found.backend: key}):
            return await self.backend.usage(found.backend)

    async def mounts(self, key: str) -> list[Mount]:
        found = await self._find(key)
        with _named({found.backend: key}):
            return await self.backend.mounts(found.backend)

    async def prepare(self, key: str, parent: str = "", *, labels: Labels = EMPTY) -> list[Mount]:
        return await self._create(key, parent, labels, readonly=False)

    async def view(self, key: str, parent: str = "", *, labels: Labels = EMPTY) -> list[Mount]:
        return await self._create(key, parent, labels, readonly=True)

    async def commit(self, name: str, key: str, *, parent: str = "", labels: Labels = EMPTY) -> None:
        ns, lease = graph.call_scope()
        if not name:
            raise InvalidArgument("snapshot: name to commit to must not be empty")
        check_labels(labels)
        await self._recover()
        backend_name = f"{ns}/{await self._database.sequence()}/{name}"
        new = New(name, backend_name, parent, labels)
        # Once noted, the commit goes to its end: a cancelled caller must not leave it for the next start to clear up.
        await asyncio.shield(self._commit(ns, key, new, lease))

    async def remove(self, key: str) -> None:
        ns, lease = graph.call_scope()
        await self._recover()

        def write(tx: Transaction) -> None:
            name = self._records.remove(tx, ns, key, lease)
            # Not sooner: a sweep that comes before the commit would find the record, and leave the snapshot for ever.
            tx.note(lambda: self._removed.add(name))

        await self._database.write(write)

    async def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]:
        ns, _ = graph.call_scope()
        query = Query(filters, name="name", always=("parent",))
        await self._recover()
        stored: dict[str, SnapshotInfo] | None = None
        async for page in query.pages(self._database, SELECT, (ns, self._records.kind), record):
            if stored is None and len(page) <= _FEW:
                inners = await self._stat_all([found.backend for found in page])
            else:
                if stored is None:
                    stored = {info.name: info async for info in self.backend.walk()}
                inners = [stored.get(found.backend) for found in page]
            infos = (_overlay(found, inner) for found, inner in zip(page, inners, strict=True) if inner is not None)
            for info in query.matching(infos, _fields):
                yield info

    async def cleanup(self) -> None:
        """Raises `Unimplemented` where the snapshotter puts nothing off."""
        if not isinstance(self.backend, Cleaner):
            raise Unimplemented(f'snapshotter "{self._records.snapshotter}": has nothing to clean up')
        await self.backend.cleanup()

    async def close(self) -> None:
        """Nothing to free: the back end is its own plugin's to close."""

    def idle(self) -> bool:
        """Whether there is nothing to sweep but what a collection may remove the records of."""
        return not (self.dirty or self._removed)

    async def sweep(self, names: Collection[str]) -> int:
        """Remove from the back end what no namespace has, children first. Returns how many snapshots went.

        *names* are what a collection has just removed the records of; only when the back end may hold more than that,
        everything in it is looked at.
        """
        await self._recover()
        gone, self._removed = self._removed, set()
        if self.dirty:
            self.dirty = False
            stored = {info.name: info async for info in self.backend.walk()}
            known = await self._database.read(self._records.backends)
            unknown = [name for name in _leaves_first(stored) if name not in known]
        else:
            found = await self._stat_all(list({*names, *gone}))
            unknown = _leaves_first({info.name: info for info in found if info is not None})
        removed = 0
        for name in unknown:
            removed += await self._remove_unknown(name)
        if isinstance(self.backend, Cleaner):
            await self.backend.cleanup()
        return removed

    async def faults(self) -> tuple[list[Fault], list[str]]:
        """Records that are not true, and what the back end has without a record."""
        await self._recover()
        records = await self._database.read(self._records.everything)
        stored = {info.name: info.parent async for info in self.backend.walk()}
        found = []
        for node, ns, key, backend, parent in records:
            if backend not in stored:
                found.append(Fault(node, ns, key, f'"{backend}" is not there', lost=True))
            elif stored[backend] != parent:
                text = f'is made on top of "{stored[backend]}", and its record says "{parent}"'
                found.append(Fault(node, ns, key, text, lost=False))
        known = {backend for _, _, _, backend, _ in records}
        return found, [name for name in stored if name not in known]

    async def forget(self, nodes: Sequence[int]) -> None:
        """Drop records of snapshots that are lost, and of all that is made on top of them."""
        await self._database.write(lambda tx: self._records.forget(tx, nodes))
        self.dirty = True

    async def _stat_all(self, names: Sequence[str]) -> list[SnapshotInfo | None]:
        """What the back end has under some names, in that order; None for what is not there."""

        async def stat(name: str) -> SnapshotInfo | None:
            try:
                return await self.backend.stat(name)
            except NotFound:
                return None

        found: list[SnapshotInfo | None] = []
        for start in range(0, len(names), _FEW):
            found += await asyncio.gather(*map(stat, names[start : start + _FEW]))
        return found

    async def _find(self, key: str) -> Record:
        ns, _ = graph.call_scope()
        await self._recover()
        return self._database.look_up(lambda db: self._records.require(db, ns, key))

    async def _create(self, key: str, parent: str, labels: Labels, *, readonly: bool) -> list[Mount]:
        ns, lease = graph.call_scope()
        check_labels(labels)
        await self._recover()
        target = labels.get(TARGET_LABEL, "")
        if target and self._database.look_up(lambda db: self._records.find(db, ns, target)) is not None:
            await self._lease_target(ns, target, lease)
            raise AlreadyExists(f'target snapshot "{target}": already exists')
        backend_parent = self._check_new(ns, key, parent, lease)
        backend_key = f"{ns}/{await self._database.sequence()}/{key}"
        make = self.backend.view if readonly else self.backend.prepare
        async with self._guard.using(backend_key):
            try:
                with _named({backend_key: key, backend_parent: parent}):
                    mounts = await make(backend_key, backend_parent, labels=_for_backend(labels))
                await self._record(ns, New(key, backend_key, parent, labels), lease, announce=not readonly)
            except AlreadyExists:
                if target:
                    await self._adopt(ns, target, parent, backend_parent, labels, lease)
                raise
            except BaseException:
                self.dirty = True  # whatever was made is garbage
                raise
        return mounts

    def _check_new(self, ns: str, key: str, parent: str, lease: str | None) -> str:
        """Refuse early what could not be recorded later. Returns the parent's key in the back end."""

        def look_up(db: sqlite3.Connection) -> str:
            # In containerd's order, for a client that gets several things wrong.
            if self._records.find(db, ns, key) is not None:
                raise AlreadyExists(f'snapshot "{key}": already exists')
            backend = self._records.require(db, ns, parent, "parent snapshot").backend if parent else ""
            if not key:
                raise InvalidArgument("snapshot: key must not be empty")
            if lease is not None and graph.find(db, ns, LEASES, lease) is None:
                raise NotFound(f'lease "{lease}": not found')
            return backend

        return self._database.look_up(look_up)

    async def _record(self, ns: str, new: New, lease: str | None, *, announce: bool) -> None:
        try:
            await self._database.write(lambda tx: self._records.add(tx, ns, new, lease, announce=announce))
        except OrlopError:
            try:
                await self.backend.remove(new.backend)
            except OrlopError as error:
                _log.warning('snapshot "%s" without a record is left to the next collection: %s', new.backend, error)
            raise

    async def _lease_target(self, ns: str, target: str, lease: str | None) -> None:
        if lease is not None:
            await self._database.write(
                lambda tx: graph.keep(tx, graph.namespace(tx, ns), (self._records.kind, target), lease)
            )

    async def _adopt(
        self, ns: str, target: str, parent: str, backend_parent: str, labels: Labels, lease: str | None
    ) -> None:
        """Record the committed snapshot that the back end has for *target*, as it said, and raise `AlreadyExists`."""
        async for info in self.backend.walk([f'labels."{TARGET_LABEL}"=={json.dumps(target, ensure_ascii=False)}']):
            if info.kind is not SnapshotKind.COMMITTED or info.parent != backend_parent:
                continue
            async with self._guard.using(info.name):
                await self.backend.stat(info.name)
                new = New(target, info.name, parent, labels)
                await self._database.write(partial(self._records.add, ns=ns, new=new, lease=lease, announce=False))
            raise AlreadyExists(f'target snapshot "{target}": already exists')
        raise NotFound(f'target snapshot "{target}": the snapshotter has it but does not list it')

    async def _commit(self, ns: str, key: str, new: New, lease: str | None) -> None:
        active, parent = await self._database.write(lambda tx: self._records.begin_commit(tx, ns, key, new, lease))
        pending = Pending(active.node, ns, key, new.key, new.backend)
        try:
            with _named({new.backend: new.key, active.backend: key, parent.backend if parent else "": new.parent}):
                await self.backend.commit(
                    new.backend,
                    active.backend,
                    parent=parent.backend if parent else "",
                    labels=_for_backend(new.labels),
                )
        except BaseException:
            await self._settle(pending)
            raise
        await self._database.write(lambda tx: self._records.finish_commit(tx, pending))

    async def _settle(self, pending: Pending) -> None:
        """Ask the back end whether it did a commit, and record the answer."""
        if await self._is_committed(pending.backend):
            await self._database.write(lambda tx: self._records.finish_commit(tx, pending))
        else:
            await self._database.write(lambda tx: self._records.drop_commit(tx, pending.node))

    async def _recover(self) -> None:
        """Finish or forget the commits that were under way when the daemon was killed."""
        if self._recovered:
            return
        async with self._recovering:
            if self._recovered:
                return
            for pending in await self._database.read(self._records.pending):
                await self._settle(pending)
            self._recovered = True

    async def _is_committed(self, backend: str) -> bool:
        try:
            return (await self.backend.stat(backend)).kind is SnapshotKind.COMMITTED
        except NotFound:
            return False

    async def _forward_labels(self, found: Record, labels: Labels) -> None:
        """Tell the back end of changes to labels that concern it."""
        before, after = _for_backend(found.labels), _for_backend(labels)
        changed = [f"labels.{key}" for key in sorted(before | after) if before.get(key) != after.get(key)]
        if changed:
            kind = (await self.backend.stat(found.backend)).kind
            await self.backend.update(SnapshotInfo(kind, found.backend, labels=after), changed)

    async def _remove_unknown(self, name: str) -> bool:
        with self._guard.removing(name) as free:
            if not free or self._database.look_up(lambda db: self._records.knows(db, name)):
                return False
            try:
                await self.backend.remove(name)
            except OrlopError as error:
                _log.warning('snapshot "%s" cannot be removed, to be tried again: %s', name, error)
                self.dirty = True
                return False
        return True


@contextmanager
def _named(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors of the back end call snapshots by the names that the client knows."""
    try:
        yield
    except OrlopError as error:
        message = str(error)
        for backend, name in names.items():
            if backend:
                message = message.replace(backend, name)
        raise from_code(error.code, message) from error


def _overlay(found: Record, inner: SnapshotInfo) -> SnapshotInfo:
    """What a client sees: names, labels and times of the record, kind and further labels of the back end."""
    return SnapshotInfo(
        kind=inner.kind,
        name=found.key,
        parent=found.parent,
        labels={**inner.labels, **found.labels} if inner.labels else found.labels,
        created_at=from_micros(found.created),
        updated_at=from_micros(found.updated),
    )


def _fields(info: SnapshotInfo) -> dict[str, str | Labels]:
    return {"kind": info.kind.name.lower(), "name": info.name, "parent": info.parent, "labels": info.labels}


def _for_backend(labels: Labels) -> dict[str, str]:
    return {key: value for key, value in labels.items() if key == TARGET_LABEL or key.startswith(_BACKEND_PREFIX)}


def _leaves_first(stored: Mapping[str, SnapshotInfo]) -> list[str]:
    """Names in an order in which children come before their parents."""
    depths: dict[str, int] = {}
    for name in stored:
        path = []
        current = name
        while current in stored and current not in depths:
            path.append(current)
            current = stored[current].parent
        depth = depths.get(current, 0)
        for step in reversed(path):
            depth += 1
            depths[step] = depth
    return sorted(stored, key=lambda name: -depths[name])


_: type[Snapshotter] = NamespacedSnapshotter
