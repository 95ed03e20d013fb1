# SPDX-License-Identifier: Apache-2.0
"""A snapshotter whose snapshots are directories, but for what the directories hold.

A subclass fills a new directory and says how a snapshot is mounted::

    class Copying(DirectorySnapshotter):
        def populate(self, directory: Path, new: NewSnapshot) -> None:
            if new.parents:
                copy_tree(new.parents[0], directory)

        def describe(self, snapshot: StoredSnapshot) -> list[Mount]:
            return [Mount("bind", str(self.directory(snapshot.id)), options=("rbind", "rw"))]

**On disk**, below the root::

    snapshots.db        the records, a SQLite file
    snapshots/ID/       a snapshot; ID is its number in the records
    snapshots/new-*     being filled
    snapshots/rm-*      removed, to be deleted by `cleanup`
    snapshots/del-*     removed, being deleted
    lost+found/         what a repair (`check_up`) took away and somebody might miss

A directory is finished before it is recorded, and forgotten before it is deleted. So a crash leaves directories that no
record mentions, and the next start puts them aside.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from orlop.blocking import Pool, run_blocking
from orlop.errors import FailedPrecondition, Unimplemented
from orlop.interfaces.check import Checkable, Checkup, Finding
from orlop.interfaces.snapshotter import Cleaner, Snapshotter
from orlop.values import EMPTY, Labels, Mount, SnapshotInfo, SnapshotKind, Usage
from orlop_sdk.filters import fields, parse
from orlop_sdk.linux.tree import disk_usage, remove_tree
from orlop_sdk.storage.lost import LOST, put_away
from orlop_sdk.storage.snapshots import SnapshotRecords, StoredSnapshot

log = logging.getLogger(__name__)

RECORDS: Final = "snapshots.db"
_NEW: Final = "new-"
_REMOVED: Final = "rm-"
_DELETING: Final = "del-"


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """What is known of a snapshot while its directory is being filled."""

    kind: SnapshotKind
    key: str
    parents: tuple[Path, ...]
    """The directories of all ancestors, nearest first."""
    labels: Labels


class DirectorySnapshotter(ABC):
    """Implements `orlop.interfaces.snapshotter.Snapshotter` and ``Cleaner`` over two methods of a subclass.

    With *sync_remove* a removed snapshot's directory is deleted at once, else by `cleanup`. *rebase* says that
    directories do not depend on their parents' until they are mounted, so that a parent may be given at commit.
    The constructor blocks for a moment, and raises what `SnapshotRecords` does.
    """

    def __init__(self, root: Path, *, sync_remove: bool = False, rebase: bool = False, threads: int = 8) -> None:
        self.root: Final = root
        self._snapshots = root / "snapshots"
        self._sync_remove = sync_remove
        self._rebase = rebase
        _refuse_foreign(root)
        self._snapshots.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)
        self._records = SnapshotRecords(root / RECORDS)
        self._put_leftovers_aside()
        self._cleaning = threading.Lock()
        self._pool = Pool(f"snapshots-{root.name}", threads)

    # ---- what a subclass says -----------------------------------------------------------------------------------

    @abstractmethod
    def populate(self, directory: Path, new: NewSnapshot) -> None:
        """Fill the new, empty *directory* (mode 0755). Blocking code; runs in a thread."""

    @abstractmethod
    def describe(self, snapshot: StoredSnapshot) -> list[Mount]:
        """How an active snapshot or view is mounted. Runs in a thread too."""

    def measure(self, directory: Path) -> Usage:
        """Disk use of a snapshot, by its directory. Blocking code; runs in a thread."""
        return disk_usage(directory)

    def present(self, snapshot: StoredSnapshot) -> SnapshotInfo:
        """What clients are told of a snapshot, for snapshotters that add labels."""
        return snapshot.info

    def lack(self, directory: Path, kind: SnapshotKind) -> str:
        """What a snapshot's directory lacks to be whole, to be read after its name; "" if it is. Runs in a thread."""
        return "" if directory.is_dir() else "has no directory"

    def directory(self, id: int) -> Path:
        """The directory of a snapshot by its number."""
        return self._snapshots / str(id)

    # ---- Snapshotter --------------------------------------------------------------------------------------------

    async def stat(self, key: str) -> SnapshotInfo:
        return self.present(await self._pool.run(self._records.get, key))

    async def update(self, info: SnapshotInfo, fieldpaths: Sequence[str] = ()) -> SnapshotInfo:
        return self.present(await self._pool.run(self._records.update, info, fieldpaths))

    async def usage(self, key: str) -> Usage:
        return await self._pool.run(self._usage, key)

    async def mounts(self, key: str) -> list[Mount]:
        return await self._pool.run(self._mounts, key)

    async def prepare(self, key: str, parent: str = "", *, labels: Labels = EMPTY) -> list[Mount]:
        return await self._pool.run(self._create, SnapshotKind.ACTIVE, key, parent, labels)

    async def view(self, key: str, parent: str = "", *, labels: Labels = EMPTY) -> list[Mount]:
        return await self._pool.run(self._create, SnapshotKind.VIEW, key, parent, labels)

    async def commit(self, name: str, key: str, *, parent: str = "", labels: Labels = EMPTY) -> None:
        await self._pool.run(self._commit, name, key, parent, labels)

    async def remove(self, key: str) -> None:
        await self._pool.run(self._remove, key)

    async def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]:
        wanted = parse(filters)
        for snapshot in await self._pool.run(self._records.all):
            info = self.present(snapshot)
            if not wanted.any_of or wanted.match(fields(_known(info), always=("parent",))):
                yield info

    async def cleanup(self) -> None:
        await self._pool.run(self._cleanup)

    async def check_up(self, checkup: Checkup) -> AsyncIterator[Finding]:
        try:
            for step in (self._check_records, self._check_removed, self._check_directories):
                for finding in await self._pool.run(step, checkup):
                    yield finding
        except sqlite3.DatabaseError as error:
            yield Finding(
                f'snapshot records "{self.root / RECORDS}"',
                f"cannot be read: {error}",
                "restore the file from a backup, or remove the directory and pull the images again",
            )

    async def close(self) -> None:
        await run_blocking(self._pool.close)
        self._records.close()

    # ---- in threads ---------------------------------------------------------------------------------------------

    def _usage(self, key: str) -> Usage:
        recorded = self._records.usage(key)
        if recorded is not None:
            return recorded
        snapshot = self._records.get(key)
        if snapshot.info.kind != SnapshotKind.ACTIVE:
            return Usage(0, 0)  # a view has nothing of its own, whatever its directory holds
        return self.measure(self.directory(snapshot.id))

    def _mounts(self, key: str) -> list[Mount]:
        snapshot = self._records.get(key)
        if snapshot.info.kind == SnapshotKind.COMMITTED:
            raise FailedPrecondition(f'snapshot "{key}": is committed; make a view of it to mount it')
        return self.describe(snapshot)

    def _create(self, kind: SnapshotKind, key: str, parent: str, labels: Labels) -> list[Mount]:
        parents = self._records.check_new(key, parent, labels)
        directory = self._snapshots / f"{_NEW}{secrets.token_hex(8)}"
        directory.mkdir(mode=0o700)
        try:
            directory.chmod(0o755)  # whatever the umask
            self.populate(directory, NewSnapshot(kind, key, tuple(map(self.directory, parents)), labels))
            snapshot = self._records.create(kind, key, parent, labels=labels, place=partial(self._place, directory))
        except BaseException:
            self._discard(directory)
            raise
        return self.describe(snapshot)

    def _place(self, directory: Path, id: int) -> None:
        """Move a finished directory to its number, durably."""
        target = self.directory(id)
        try:
            directory.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # The number was given before, to a snapshot whose record could not be written.
            self._discard(target)
            directory.rename(target)
        fd = os.open(self._snapshots, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _commit(self, name: str, key: str, parent: str, labels: Labels) -> None:
        if parent and not self._rebase:
            raise Unimplemented(f'snapshot "{key}": this snapshotter cannot change the parent to "{parent}"')
        usage = self.measure(self.directory(self._records.get(key).id))
        self._records.commit(name, key, usage, parent=parent, labels=labels)

    def _remove(self, key: str) -> None:
        self._discard(self.directory(self._records.remove(key)))

    def _discard(self, directory: Path) -> None:
        """Put a directory aside and, if removal is synchronous, delete it. Nothing may still refer to it."""
        token = secrets.token_hex(8)
        aside = self._snapshots / f"{_REMOVED}{token}"
        try:
            if self._sync_remove:
                # Under a name of its own, so that `cleanup` does not delete the same tree at the same time.
                directory = directory.rename(self._snapshots / f"{_DELETING}{token}")
                remove_tree(directory)
            else:
                directory.rename(aside)
        except FileNotFoundError:
            log.warning('snapshot directory "%s": was gone already', directory)
        except OSError as error:
            # The snapshot is removed, whatever becomes of its directory: a later cleanup, or start, tries again.
            log.warning('snapshot directory "%s": not deleted yet: %s', directory, error)
            with contextlib.suppress(OSError):
                directory.rename(aside)

    def _cleanup(self) -> None:
        failed: OSError | None = None
        with self._cleaning:
            for directory in sorted(self._snapshots.glob(f"{_REMOVED}*")):
                try:
                    remove_tree(directory)
                except OSError as error:
                    failed = failed or error
        if failed is not None:
            raise FailedPrecondition(f"removed snapshots: not all could be deleted: {failed}") from failed

    def _check_records(self, checkup: Checkup) -> list[Finding]:
        faults = self._records.faults()
        if faults and checkup.repair:
            self._records.rebuild()
        left = self._records.faults() if faults and checkup.repair else faults
        subject, remedy = f'snapshot records "{self.root / RECORDS}"', "make the file's indexes anew"
        return [Finding(subject, fault, remedy, repaired=checkup.repair and fault not in left) for fault in faults]

    def _check_directories(self, checkup: Checkup) -> list[Finding]:
        problems = dict.fromkeys(self._records.orphans(), "has a parent that has no record")
        snapshots = self._records.all()
        for number, snapshot in enumerate(snapshots):
            checkup.progress(number, len(snapshots))
            if lack := self.lack(self.directory(snapshot.id), snapshot.info.kind):
                problems[snapshot.id] = lack
        lost = self._records.family(problems)
        findings = [
            Finding(
                f'snapshot "{snapshot.info.name}" of {self.root.name}',
                problems.get(snapshot.id, "is made on top of one that is lost"),
                f"remove it, and move what was written to it to {self.root / LOST}"
                if self._worth_saving(snapshot)
                else "remove it; pull the image again where it was one's layer",
                repaired=checkup.repair,
            )
            for snapshot in lost
        ]
        if checkup.repair and lost:
            self._take_away(lost)
        checkup.progress(len(snapshots), len(snapshots))
        return findings

    def _take_away(self, lost: Sequence[StoredSnapshot]) -> None:
        for snapshot in filter(self._worth_saving, lost):
            put_away(self.directory(snapshot.id), self.root, f"{snapshot.id}-{snapshot.info.name}")
        self._records.forget([snapshot.id for snapshot in lost])
        for snapshot in lost:
            if self.directory(snapshot.id).exists():
                self._discard(self.directory(snapshot.id))
        self._cleanup()

    def _worth_saving(self, snapshot: StoredSnapshot) -> bool:
        """Whether there is something that a container may have written, and nobody could make again."""
        return snapshot.info.kind == SnapshotKind.ACTIVE and self.directory(snapshot.id).is_dir()

    def _check_removed(self, checkup: Checkup) -> list[Finding]:
        left = sorted(path for path in self._snapshots.iterdir() if path.name.startswith((_REMOVED, _DELETING)))
        if left and checkup.repair:
            self._cleanup()
        return [
            Finding(f'directory "{path}"', "belongs to no snapshot", "delete it", repaired=checkup.repair, note=True)
            for path in left
        ]

    def _put_leftovers_aside(self) -> None:
        known = {str(id) for id in self._records.ids()}
        for entry in list(os.scandir(self._snapshots)):
            if entry.name not in known and not entry.name.startswith(_REMOVED):
                log.info('snapshot directory "%s": left by an interrupted call; put aside', entry.path)
                self._discard(Path(entry.path))


def _known(info: SnapshotInfo) -> dict[str, str | Labels]:
    """The fields that filters know."""
    return {"kind": info.kind.name.lower(), "name": info.name, "parent": info.parent, "labels": info.labels}


def _refuse_foreign(root: Path) -> None:
    """Directories that containerd's own snapshotter made would look like leftovers here."""
    snapshots = root / "snapshots"
    if not (root / RECORDS).exists() and snapshots.is_dir() and any(snapshots.iterdir()):
        raise FailedPrecondition(
            f'snapshot directory "{root}": holds snapshots but not the records "{RECORDS}", so another program made '
            "them; set root_path to another directory, or move them away"
        )


_snapshotter: type[Snapshotter] = DirectorySnapshotter
_cleaner: type[Cleaner] = DirectorySnapshotter
_checkable: type[Checkable] = DirectorySnapshotter
