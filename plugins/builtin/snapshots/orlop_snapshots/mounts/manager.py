# SPDX-License-Identifier: Apache-2.0
"""The mount manager: plans what has to be mounted for a list of mounts, does it, remembers it, and undoes it.

**When to choose it**: always; it costs nothing where mounts need no help. **Host needs**: those of the handlers.
**On disk**: `orlop_snapshots.mounts.records`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, TypeVar

from orlop import context
from orlop.blocking import Pool
from orlop.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OrlopError,
    Unavailable,
    Unimplemented,
)
from orlop.interfaces.gc import Attached, Attachment
from orlop.interfaces.metadata import Collectible
from orlop.interfaces.mount import Activation, ActiveMount, MountHandler, MountManager
from orlop.values import EMPTY, Labels, Mount, apply_labels, check_labels, now
from orlop_sdk import filters as filter_language
from orlop_sdk.linux.mount import mount_one, unmount_all
from orlop_snapshots.mounts import records
from orlop_snapshots.mounts.records import Key, Record
from orlop_snapshots.mounts.transform import TRANSFORMERS, split, transform

T = TypeVar("T")

log = logging.getLogger("orlop.mounts")

_THREADS: Final = 8


class Mounts:
    """See `orlop.interfaces.mount.MountManager`. *handlers* is a live view; *roots* are where files may be made.

    An activation with neither lease nor back references is in use until it is deactivated.
    """

    label: Final = "mount"

    def __init__(self, state: Path, handlers: Mapping[str, MountHandler], roots: Sequence[Path]) -> None:
        self._top = state / "t"
        self._handlers = handlers
        self._roots = (*roots, self._top)
        self._records: dict[Key, Record] = {}
        self._busy: set[Key] = set()
        self._pool = Pool("orlop-mounts", _THREADS)
        self._work: set[asyncio.Task[Any]] = set()

    async def activate(
        self,
        name: str,
        mounts: Sequence[Mount],
        *,
        labels: Labels = EMPTY,
        temporary: bool = False,
        allowed: Sequence[str] = (),
    ) -> Activation:
        key = (context.namespace(), name)
        if not name:
            raise InvalidArgument("mount activation: the name must not be empty")
        check_labels(labels)
        if key in self._records or key in self._busy:
            raise AlreadyExists(f'mount activation "{name}": already exists')
        plan = self._plan(mounts, temporary, allowed)
        lease = context.lease() or ""

        def work() -> Record:
            record = Record(records.new_directory(self._top), *key, lease, dict(labels))
            self._make(record, mounts, plan)
            return record

        async def make() -> Activation:
            record = await self._pool.run(work)
            self._records[key] = record
            return record.activation()

        return await self._alone(key, make, lambda: self._deactivate(key))

    async def deactivate(self, name: str) -> None:
        key = (context.namespace(), name)
        self._find(key)
        await self._alone(key, lambda: self._deactivate(key))

    async def info(self, name: str) -> Activation:
        return self._find((context.namespace(), name)).activation()

    async def update(self, activation: Activation, fieldpaths: Sequence[str] = ()) -> Activation:
        key = (context.namespace(), activation.name)
        record = self._find(key)
        changed = apply_labels(record.labels, activation.labels, fieldpaths)
        check_labels(changed)

        async def write() -> Activation:
            record.labels = changed
            await self._pool.run(record.save)
            return record.activation()

        return await self._alone(key, write)

    async def list(self, filters: Sequence[str] = ()) -> list[Activation]:
        wanted = filter_language.parse(filters)
        namespace = context.namespace()
        return [
            record.activation()
            for key, record in sorted(self._records.items())
            if key[0] == namespace
            and wanted.match(filter_language.fields({"name": record.name, "labels": record.labels}))
        ]

    async def close(self) -> None:
        """Finish what is in progress; what is active stays. May be called twice."""
        while self._work:
            await asyncio.gather(*self._work, return_exceptions=True)
        self._pool.close()

    async def restore(self) -> None:
        """Take in what an earlier daemon left, and undo what it left half done."""
        for record in await self._pool.run(self._load):
            self._records[record.key] = record

    # What garbage collection asks; see `orlop.interfaces.metadata.Collectible`.

    async def all(self) -> Sequence[Key]:
        """Every activation."""
        return list(self._records)

    async def active(self) -> Sequence[Key]:
        """Those that nothing was named for that keeps them."""
        return [key for key, record in self._records.items() if not any(record.attachments())]

    async def attachments(self) -> Sequence[Attachment]:
        """What keeps the others."""
        return [attachment for record in self._records.values() for attachment in record.attachments()]

    async def remove(self, items: Sequence[Key]) -> None:
        """Deactivate. What is busy is left to the next collection."""
        for key in items:
            try:
                await self._alone(key, lambda key=key: self._deactivate(key))  # type: ignore[misc]
            except NotFound:
                continue
            except (OrlopError, OSError) as error:
                log.warning('mount activation "%s" in namespace "%s": not removed: %s', key[1], key[0], error)

    # Plan.

    def _plan(self, mounts: Sequence[Mount], temporary: bool, allowed: Sequence[str]) -> _Plan:
        """How many of the first mounts are to be made here, and which of the others are to be transformed."""
        made = len(mounts) if temporary else 0
        transformed = set()
        for number, mount in enumerate(mounts):
            if any(fnmatchcase(mount.type, pattern) for pattern in allowed):
                continue
            names, kind = split(mount.type)
            if names:
                transformed.add(number)
                if "format" in names:
                    # It is told of all before it, which therefore have to be there.
                    made = max(made, number)
            if kind in self._handlers and not any(fnmatchcase(kind, pattern) for pattern in allowed):
                made = max(made, number + 1)
            elif "/" in kind:
                raise InvalidArgument(
                    f'mount type "{mount.type}": nothing is known of "{kind.partition("/")[0]}/"; '
                    f"there are {', '.join(f'{name}/' for name in TRANSFORMERS)}"
                )
        if not made and not transformed:
            raise Unimplemented("mounts: none of them needs help; make them as they are")
        return _Plan(made, frozenset(transformed))

    # Make and undo; in threads.

    def _make(self, record: Record, mounts: Sequence[Mount], plan: _Plan) -> None:
        try:
            for number, mount in enumerate(mounts):
                if number < plan.made:
                    self._make_one(record, number, mount)
                else:
                    record.system.append(self._ready(mount, record, number, plan))
            if record.active and not record.system:
                last = record.active[-1]
                mode = "ro" if "ro" in last.mount.options or last.mount.type == "erofs" else "rw"
                record.system.append(Mount("bind", last.mount_point, options=("rbind", mode)))
            record.complete = True
            record.save()
        except BaseException:
            with contextlib.suppress(OrlopError, OSError):
                self._undo(record)
            raise

    def _make_one(self, record: Record, number: int, mount: Mount) -> None:
        ready = self._transformed(record, number, mount)
        record.making = ready
        (record.directory / f"{number}-type").write_text(ready.type)
        record.save()
        target = record.place(number)
        try:
            handler = self._handlers.get(ready.type)
            made = handler.mount(ready, target) if handler is not None else _mount(ready, target)
        except OSError as error:
            raise _failure(number, ready, error) from error
        record.active.append(made)
        record.making = None
        record.save()

    def _ready(self, mount: Mount, record: Record, number: int, plan: _Plan) -> Mount:
        return self._transformed(record, number, mount) if number in plan.transformed else mount

    def _transformed(self, record: Record, number: int, mount: Mount) -> Mount:
        try:
            return transform(mount, record.active, self._roots)
        except OSError as error:
            raise _failure(number, mount, error) from error

    def _undo(self, record: Record) -> None:
        """Unmount everything of a record and remove it. Raises OSError, after which it can be tried again."""
        if record.making is not None:
            # It may have been made.
            place = record.place(len(record.active))
            self._unmount(ActiveMount(record.making, mount_point=place))
            record.making = None
        while record.active:
            self._unmount(record.active[-1])
            record.active.pop()
            record.complete = False
            record.save()
        records.remove(record.directory)

    def _unmount(self, active: ActiveMount) -> None:
        handler = self._handlers.get(active.mount.type)
        if handler is not None:
            handler.unmount(active)
        elif os.path.islink(active.mount_point):
            # Its handler is gone, or off.
            raise OSError(errno.EBUSY, f"the handler of type {active.mount.type} does not work; enable it")
        else:
            unmount_all(active.mount_point)
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(active.mount_point)

    def _load(self) -> Sequence[Record]:
        directories = sorted(self._top.iterdir()) if self._top.is_dir() else []
        return [record for directory in directories if (record := self._load_one(directory)) is not None]

    def _load_one(self, directory: Path) -> Record | None:
        try:
            record, current = records.load(directory)
            if record is None:
                records.remove(directory)
            elif record.complete and current:
                return record
            else:
                log.info('mount activation "%s": not complete, or of an earlier boot; undone', record.name)
                self._undo(record)
        except (OrlopError, OSError, ValueError, KeyError) as error:
            log.error("%s: left alone: %s", directory, error)
        return None

    # Bookkeeping.

    def _find(self, key: Key) -> Record:
        record = self._records.get(key)
        if record is None:
            raise NotFound(f'mount activation "{key[1]}": not found')
        return record

    async def _deactivate(self, key: Key) -> None:
        record = self._find(key)
        try:
            await self._pool.run(self._undo, record)
        except OSError as error:
            what = "busy; end what uses it" if error.errno == errno.EBUSY else error.strerror or str(error)
            raise FailedPrecondition(f'mount activation "{key[1]}": cannot be undone: {what}') from error
        del self._records[key]

    async def _alone(
        self,
        key: Key,
        work: Callable[[], Coroutine[Any, Any, T]],
        undo: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> T:
        """Work on one name, to the end even if the caller goes; then *undo* what nobody asks for any more."""
        if key in self._busy:
            raise Unavailable(f'mount activation "{key[1]}": another call works on it; try again')
        self._busy.add(key)
        task = asyncio.create_task(work())
        self._work.add(task)
        task.add_done_callback(self._finished)
        try:
            result = await asyncio.shield(task)
        except asyncio.CancelledError:
            rest = asyncio.create_task(self._left(key, task, undo))
            self._work.add(rest)
            rest.add_done_callback(self._finished)
            raise
        except BaseException:
            self._busy.discard(key)
            raise
        self._busy.discard(key)
        return result

    async def _left(
        self, key: Key, task: asyncio.Task[Any], undo: Callable[[], Coroutine[Any, Any, None]] | None
    ) -> None:
        try:
            await task
            if undo is not None:
                await undo()
        except (OrlopError, OSError) as error:
            log.info('mount activation "%s": its caller left: %s', key[1], error)
        finally:
            self._busy.discard(key)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            # Who waits for it gets the error.
            task.exception()


class _Plan:
    """The first so many mounts are made here; of those after, some are to be transformed."""

    def __init__(self, made: int, transformed: frozenset[int]) -> None:
        self.made = made
        self.transformed = transformed


def _failure(number: int, mount: Mount, error: OSError) -> OrlopError:
    """What went wrong with a mount. Links are a client's fault: nothing is made where they lead."""
    kind = InvalidArgument if error.errno in (errno.ELOOP, errno.ENOTDIR) else Unavailable
    where = f": {error.filename}" if error.filename else ""
    return kind(f'mount {number} of type {mount.type}, source "{mount.source}": {error.strerror or error}{where}')


def _mount(mount: Mount, target: str) -> ActiveMount:
    os.mkdir(target, 0o700)
    try:
        mount_one(mount, target)
    except BaseException:
        os.rmdir(target)
        raise
    return ActiveMount(replace(mount), now(), target)


_: type[MountManager] = Mounts
_collectible: type[Collectible] = Mounts
_attached: type[Attached] = Mounts
