# SPDX-License-Identifier: Apache-2.0
"""The metadata store: all records in one SQLite file, and the collector that goes through them."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

from orlop.errors import InvalidArgument, OrlopError
from orlop.interfaces.check import Checkable, Checkup, Finding
from orlop.interfaces.content import ContentStore
from orlop.interfaces.event import EventExchange
from orlop.interfaces.gc import Attached
from orlop.interfaces.metadata import Collectible, MetadataStore
from orlop.interfaces.snapshotter import Snapshotter
from orlop.values import CollectionStats, Event
from orlop_core.metadata import collection, faults
from orlop_core.metadata.checkup import check_metadata
from orlop_core.metadata.collection import Item, Swept
from orlop_core.metadata.containers import Containers
from orlop_core.metadata.content import NamespacedContent, Policy
from orlop_core.metadata.database import Database, Outcome, Transaction
from orlop_core.metadata.images import Images
from orlop_core.metadata.leases import Leases
from orlop_core.metadata.links import CONTENT, INGESTS, SNAPSHOTS
from orlop_core.metadata.namespaces import Namespaces
from orlop_core.metadata.sandboxes import Sandboxes
from orlop_core.metadata.snapshots import NamespacedSnapshotter, Snapshotters
from orlop_core.metadata.times import now_micros

_log = logging.getLogger(__name__)

_RESERVED = {"content", "image", "snapshot", "container", "images", "snapshots", "containers", "sandboxes", "leases"}


class SqliteMetadataStore:
    """Everything that has a name, in a SQLite file. To be used on one event loop."""

    _database: Database

    def __init__(self, events: EventExchange) -> None:
        """Use `open`."""
        self._events = events
        self._mutations: weakref.WeakSet[Mutations] = weakref.WeakSet()
        self._outbox: asyncio.Queue[Event] = asyncio.Queue()
        self._publisher = asyncio.create_task(self._publish(), name="metadata-events")
        self._collectibles: dict[str, Collectible] = {}
        self._collecting = asyncio.Lock()
        self._requested: Callable[[], Awaitable[object]] = self.collect

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        content: ContentStore,
        snapshotters: Mapping[str, Snapshotter],
        events: EventExchange,
        policy: Policy = "shared",
        sync: bool = True,
        timeout: float = 0.0,
    ) -> SqliteMetadataStore:
        """The store in that file, made if need be, over these back ends.

        Without *sync* a power failure may take the last changes, or the file. *timeout* is how long to wait (seconds,
        0: for ever) while another process has the file open; then this raises `FailedPrecondition`.
        """
        store = cls(events)
        try:
            store._database = await Database.open(path, sync=sync, committed=store._committed, timeout=timeout)
        except BaseException:
            store._publisher.cancel()
            raise
        store._assemble(content, snapshotters, policy)
        return store

    def _assemble(self, content: ContentStore, snapshotters: Mapping[str, Snapshotter], policy: Policy) -> None:
        database = self._database
        self._namespaces = Namespaces(database, self._namespace_deleted)
        self._images = Images(database, self._collect_requested)
        self._containers = Containers(database)
        self._sandboxes = Sandboxes(database)
        self._leases = Leases(database, self._collect_requested, self._collectibles.keys())
        self._content = NamespacedContent(database, content, policy)
        self._snapshotters = Snapshotters(database, snapshotters)

    @property
    def namespaces(self) -> Namespaces:
        return self._namespaces

    @property
    def images(self) -> Images:
        return self._images

    @property
    def containers(self) -> Containers:
        return self._containers

    @property
    def sandboxes(self) -> Sandboxes:
        return self._sandboxes

    @property
    def leases(self) -> Leases:
        return self._leases

    @property
    def content(self) -> NamespacedContent:
        return self._content

    @property
    def snapshotters(self) -> Mapping[str, NamespacedSnapshotter]:
        return self._snapshotters

    def mutations(self) -> AsyncIterator[bool]:
        mutations = Mutations()
        self._mutations.add(mutations)
        return mutations

    def delegate_collection(self, collect: Callable[[], Awaitable[object]] | None) -> None:
        """Have a scheduler run the collections that synchronous deletes ask for. None: run them here again."""
        self._requested = collect or self.collect

    def register_collectible(self, collectible: Collectible) -> None:
        label = collectible.label
        if not label.isidentifier() or label in _RESERVED or label == INGESTS:
            raise InvalidArgument(f'collectible "{label}": label must be one word that nothing else uses')
        self._collectibles[label] = collectible

    async def collect(self) -> CollectionStats:
        async with self._collecting:
            started = time.perf_counter()
            try:
                swept, pause = await self._collect_records()
                marked = time.perf_counter() - started
                removed = dict(swept.removed)
                if removed_content := await self._sweep_content(swept):
                    removed["blobs"] = removed_content
                await self._sweep_snapshotters(swept)
                await self._sweep_elsewhere(swept, removed)
            except BaseException:
                # What had its record removed is known to nobody now, so the next collection has to look everywhere.
                self._content.dirty = True
                for view in self._snapshotters.values():
                    view.dirty = True
                raise
            return CollectionStats(removed, pause=pause, duration=time.perf_counter() - started, marking=marked)

    async def check(self) -> list[str]:
        found = await self._database.read(faults.check_database)
        found += [
            f'content "{digest}" in namespace "{ns}": {text}' async for ns, digest, text in self._content.faults()
        ]
        for id in list(self._snapshotters):
            untrue, _ = await self._snapshotters[id].faults()
            found += [
                f'snapshot "{each.key}" of {id} in namespace "{each.namespace}": {each.problem}' for each in untrue
            ]
        return found

    def check_up(self, checkup: Checkup) -> AsyncIterator[Finding]:
        return check_metadata(self._database, self._content, self._snapshotters, checkup)

    async def close(self) -> None:
        """Wait for a collection under way, write what is queued, publish the last events. May be called twice."""
        async with self._collecting:
            await self._database.close()
        await asyncio.sleep(0)  # what the last commits left for the loop to do
        await self._outbox.join()
        self._publisher.cancel()
        await asyncio.gather(self._publisher, return_exceptions=True)

    def _namespace_deleted(self) -> None:
        self._content.dirty = True  # its ingests are without a record now

    async def _collect_requested(self) -> object:
        return await self._requested()

    async def _collect_records(self) -> tuple[Swept, float]:
        idle = await self._ask_collectibles()
        moment = now_micros()
        await self._database.write(collection.begin)
        try:
            unmarked = await self._database.read(lambda db: collection.mark(db, moment))
            busy = self._content.open_ingests()

            def sweep(tx: Transaction) -> tuple[Swept, float]:
                started = time.perf_counter()
                swept = collection.sweep(tx, unmarked, moment, busy=busy, elsewhere=idle)
                return swept, time.perf_counter() - started

            return await self._database.write(sweep)
        except BaseException:
            await self._database.write(collection.end)
            raise

    async def _ask_collectibles(self) -> dict[Item, set[Item]]:
        """What is kept elsewhere and not in use, each with what it is attached to."""
        idle: dict[Item, set[Item]] = {}
        for label, collectible in list(self._collectibles.items()):
            try:
                found = {(ns, label, name) for ns, name in await collectible.all()}
                found -= {(ns, label, name) for ns, name in await collectible.active()}
                attached = await collectible.attachments() if isinstance(collectible, Attached) else ()
            except OrlopError as error:
                _log.warning("%s: left out of this garbage collection: %s", label, error)
                continue
            idle.update((item, set()) for item in found)
            for each in attached:
                if (keepers := idle.get((each.namespace, label, each.id))) is not None:
                    keepers.add((each.namespace, each.keeper.type, each.keeper.id))
        return idle

    async def _sweep_content(self, swept: Swept) -> int:
        return await self._content.sweep(swept.backends.get(CONTENT, ()), swept.backends.get(INGESTS, ()))

    async def _sweep_snapshotters(self, swept: Swept) -> None:
        for id in list(self._snapshotters):
            view = self._snapshotters.get(id)
            names = swept.backends.get(SNAPSHOTS + id, ())
            if view is None or (view.idle() and not names):
                continue
            try:
                await view.sweep(names)
            except OrlopError as error:
                # One snapshotter that is out of order must not keep the others from being cleared.
                view.dirty = True
                _log.warning("snapshotter %s: garbage is left to the next collection: %s", id, error)

    async def _sweep_elsewhere(self, swept: Swept, removed: dict[str, int]) -> None:
        for label, collectible in list(self._collectibles.items()):
            items = [(ns, name) for ns, kind, name in swept.elsewhere if kind == label]
            if not items:
                continue
            try:
                await collectible.remove(items)
            except OrlopError as error:
                _log.warning("%s: garbage is left to the next collection: %s", label, error)
                continue
            removed[label] = len(items)

    def _committed(self, outcome: Outcome) -> None:
        for note in outcome.notes:
            note()
        for event in outcome.events:
            self._outbox.put_nowait(event)
        for mutations in self._mutations:
            mutations.add(outcome.changes, outcome.removals)

    async def _publish(self) -> None:
        while True:
            event = await self._outbox.get()
            try:
                await self._events.forward(event)
            except Exception as error:  # noqa: BLE001  # what an exchange cannot take must not silence all that follows
                _log.warning("event %s was not published: %s", event.topic, error)
            finally:
                self._outbox.task_done()


class Mutations:
    """One item per change since it was made: True when it removed something. Never more than two numbers."""

    def __init__(self) -> None:
        self._additions = 0
        self._removals = 0
        self._ready = asyncio.Event()

    def add(self, changes: int, removals: int) -> None:
        """Count changes, of which so many removed something."""
        self._additions += changes - removals
        self._removals += removals
        if changes:
            self._ready.set()

    def __aiter__(self) -> AsyncIterator[bool]:
        return self

    async def __anext__(self) -> bool:
        while not (self._additions or self._removals):
            self._ready.clear()
            await self._ready.wait()
        if self._removals:
            self._removals -= 1
            return True
        self._additions -= 1
        return False


_store: type[MetadataStore] = SqliteMetadataStore
_checkable: type[Checkable] = SqliteMetadataStore
