# SPDX-License-Identifier: Apache-2.0
"""The SQLite file: one writer that commits in groups, and readers that never wait for it.

Writers queue for one thread. Whatever waits there runs in one transaction, each call in a savepoint of its own, with
one commit and so one fsync for all; a call's future is settled after that commit. Readers have connections of their
own and see, in WAL mode, the last committed state.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from orlop.blocking import Pool, run_blocking
from orlop.errors import DataLoss, FailedPrecondition, Internal, OrlopError, ResourceExhausted, Unavailable
from orlop.values import Event
from orlop_core.metadata import schema
from orlop_core.metadata.times import now_micros
from orlop_sdk.storage.serial import Call, SerialWorker

_log = logging.getLogger(__name__)

T = TypeVar("T")
Connection = sqlite3.Connection

_BLOCK: Final = 1024
_WAL_LIMIT: Final = 64 << 20
#: Pages that a connection keeps for itself, at most (KiB): most of those that the list of 100,000 blobs jumps about in.
_CACHE: Final = 16384
_RETRY: Final = 0.05
_COMPLAIN: Final = 10.0
_CLOSED: Final = "metadata: the store is closed"


@dataclass(slots=True)
class Outcome:
    """What a transaction did beside its rows: published and counted once it is durable."""

    events: list[Event] = field(default_factory=list)
    changes: int = 0
    removals: int = 0
    notes: list[Callable[[], None]] = field(default_factory=list)


class Transaction:
    """A write in progress. Only the writer's thread has one."""

    def __init__(self, connection: Connection, state: WriterState) -> None:
        self.db: Final = connection
        self.state: Final = state
        self.outcome: Final = Outcome()

    def changed(self, *, removed: bool = False, event: Event | None = None) -> None:
        """Note a change for the collector's scheduler, and the event to publish."""
        self.outcome.changes += 1
        self.outcome.removals += removed
        if event is not None:
            self.outcome.events.append(event)

    def note(self, callback: Callable[[], None]) -> None:
        """Have something called in the event loop once this is durable, before the caller hears of it.

        It is called also when the caller was cancelled meanwhile.
        """
        self.outcome.notes.append(callback)


@dataclass(slots=True)
class WriterState:
    """What the writer's thread remembers between transactions.

    While a collection marks, *touched* has every node that got new references or became a root, and *created* every
    new node: what may be reachable though the mark, which reads an older state, does not see it.
    """

    touched: set[int] | None = None
    created: set[int] = field(default_factory=set)


class Database:
    """An open file. `open` and `close` from one event loop; `write`, `read` and `look_up` in between."""

    def __init__(self, path: Path, lock: int, *, sync: bool, committed: Callable[[Outcome], None]) -> None:
        """Open or make the file, whose lock is held already; this blocks. See `open`."""
        self._path = path
        self._committed = committed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = lock
        self._local = threading.local()
        self._readers: list[Connection] = []
        self._readers_lock = threading.Lock()
        self._writer = _connect(path)
        with _translated():
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute(f"PRAGMA synchronous = {'FULL' if sync else 'OFF'}")
            self._writer.execute("PRAGMA foreign_keys = ON")
            self._writer.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
            schema.migrate(self._writer, now_micros())
        self._point = self._reader()
        self._state = WriterState()
        self._pool = Pool("metadata-read", 4)
        self._worker = SerialWorker("metadata-write", batch=self._run_batch)
        self._closed = False
        self._sequence = self._sequence_end = 0
        self._sequence_lock = asyncio.Lock()

    @classmethod
    async def open(
        cls, path: Path, *, sync: bool, committed: Callable[[Outcome], None], timeout: float = 0.0
    ) -> Database:
        """The database in *path*, made if need be. *committed* is called on the loop after each group commit.

        While another process has the file open this waits, *timeout* seconds if that is not 0, and then raises
        `FailedPrecondition`.
        """
        lock = await _locked(path.with_suffix(".lock"), timeout)
        try:
            database = await run_blocking(cls, path, lock, sync=sync, committed=committed)
        except BaseException:
            os.close(lock)
            raise
        database._loop = asyncio.get_running_loop()
        return database

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    async def write(self, function: Callable[[Transaction], T]) -> T:
        """Run in the writer's thread, in a transaction. Returns when the commit is durable.

        Cancelling stops the waiting, not the write. *function* must not block on anything else.
        """
        if self._closed:
            raise Unavailable(_CLOSED)
        # The batch settles the call with the first half of what the attempt returns.
        result: Any = await self._worker.run(self._attempt, function)
        return cast(T, result)

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Run a query that may take long in a thread, on a connection of its own."""
        if self._closed:
            raise Unavailable(_CLOSED)
        return await self._pool.run(self._read, function)

    def look_up(self, function: Callable[[Connection], T]) -> T:
        """Run a query that finds single rows by index, at once.

        Such a query takes a few microseconds, far less than a thread would need to take it over, and in WAL mode it
        waits for nobody.
        """
        if self._closed:
            raise Unavailable(_CLOSED)
        with _translated():
            return function(self._point)

    async def sequence(self) -> int:
        """A number never given before, in the whole life of the file.

        Numbers are reserved in blocks, so that few of these calls wait for a commit; a crash skips the rest of a block.
        """
        async with self._sequence_lock:
            if self._sequence == self._sequence_end:
                self._sequence_end = await self.write(_reserve)
                self._sequence = self._sequence_end - _BLOCK
            self._sequence += 1
            return self._sequence

    async def close(self) -> None:
        """Finish what is queued and close. May be called twice."""
        if self._closed:
            return
        self._closed = True
        await run_blocking(self._close)

    def _close(self) -> None:
        self._worker.close()
        self._pool.close()
        for connection in (*self._readers, self._writer):
            connection.close()
        os.close(self._lock)

    def _reader(self) -> Connection:
        connection = _connect(self._path)
        connection.execute("PRAGMA query_only = ON")
        with self._readers_lock:
            self._readers.append(connection)
        return connection

    def _read(self, function: Callable[[Connection], T]) -> T:
        with _translated():
            connection: Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = self._reader()
            return function(connection)

    def _attempt(self, function: Callable[[Transaction], T]) -> tuple[T, Outcome]:
        transaction = Transaction(self._writer, self._state)
        return function(transaction), transaction.outcome

    def _run_batch(self, calls: list[Call]) -> None:
        results: list[tuple[Call, Any, BaseException | None]] = []
        total = Outcome()
        try:
            with _translated():
                self._writer.execute("BEGIN IMMEDIATE")
                for call in calls:
                    results.append((call, *self._run_in_savepoint(call, total)))
                self._writer.execute("COMMIT")
        except OrlopError as failure:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            for call in calls:
                call.settle(None, failure)
            return
        # Before the futures: the loop then publishes an event before it wakes the caller whose change it tells of.
        if self._loop is not None and (total.changes or total.events or total.notes):
            self._loop.call_soon_threadsafe(self._committed, total)
        for call, result, error in results:
            call.settle(result, error)

    def _run_in_savepoint(self, call: Call, total: Outcome) -> tuple[Any, BaseException | None]:
        self._writer.execute("SAVEPOINT call")
        answer, error = call.attempt()
        if error is not None:
            if not self._writer.in_transaction:
                # SQLite gives the whole transaction up for some errors (disk full, out of memory).
                raise error if isinstance(error, sqlite3.Error) else Internal(f"metadata: transaction lost: {error}")
            self._writer.execute("ROLLBACK TO call")
        self._writer.execute("RELEASE call")
        if error is not None:
            return None, _translate(error) if isinstance(error, sqlite3.Error) else error
        result, outcome = answer
        total.events += outcome.events
        total.changes += outcome.changes
        total.removals += outcome.removals
        total.notes += outcome.notes
        return result, None


def _reserve(tx: Transaction) -> int:
    row = tx.db.execute(
        "INSERT INTO counter VALUES ('sequence', ?1) ON CONFLICT DO UPDATE SET value = value + ?1 RETURNING value",
        (_BLOCK,),
    ).fetchone()
    return row[0]  # type: ignore[no-any-return]


class _translated:
    """Turns SQLite's errors into ours."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise _translate(error) from error


def _translate(error: sqlite3.Error) -> OrlopError:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith("SQLITE_FULL"):
        return ResourceExhausted(f"metadata: {error}; free disk space")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return DataLoss(f"metadata: {error}; restore the file from a backup")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_CANTOPEN")):
        return Unavailable(f"metadata: {error} ({name})")
    return Internal(f"metadata: {error} ({name or type(error).__name__})")


def _connect(path: Path) -> Connection:
    with _translated():
        connection = sqlite3.connect(
            path, timeout=10, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        connection.execute("PRAGMA busy_timeout = 10000")
        connection.execute(f"PRAGMA cache_size = -{_CACHE}")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection


async def _locked(path: Path, timeout: float) -> int:
    """Wait for the lock, for a daemon that is being replaced may need a moment to end."""
    waited, complaint = 0.0, 0.0
    while True:
        try:
            return await run_blocking(_lock, path)
        except FailedPrecondition as error:
            if timeout and waited >= timeout:
                raise
            if waited >= complaint:
                _log.warning("%s; waiting for it", error)
                complaint += _COMPLAIN
        await asyncio.sleep(_RETRY)
        waited += _RETRY


def _lock(path: Path) -> int:
    """Take the file lock that keeps a second daemon out: two writers would give keys of one sequence out twice."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise FailedPrecondition(f'metadata "{path}": another daemon has it open; stop that one') from error
    return fd
