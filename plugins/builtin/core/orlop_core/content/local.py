# SPDX-License-Identifier: Apache-2.0
"""The local content store: blobs as files, named by their digest.

**On disk**, below the root, as containerd lays it out::

    blobs/<algorithm>/<hex>          complete, read-only, fsynced before they got this name
    ingest/<sha256 of the ref>/      being written; see `orlop_core.content.ingest`

A blob comes into being by a rename, after an fsync of the data and before one of the directory, so kill -9 at any
instant leaves a whole blob or an ingest that can be resumed.

**Labels** belong to whoever wraps this store (the metadata store keeps them with everything else that garbage
collection looks at): `update`, and labels at commit, are refused.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from orlop.blocking import Pool, run_blocking
from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from orlop.interfaces.check import Checkable, Checkup, Finding
from orlop.interfaces.content import ContentReader, ContentStore, ContentWriter
from orlop.values import EPOCH, ContentInfo, Descriptor, IngestStatus
from orlop_core.content.checkup import check_content
from orlop_core.content.durability import DirectorySync, fsync_directory
from orlop_core.content.ingest import Ingest, directory_name, disk_errors, read_status
from orlop_core.content.reader import FileReader
from orlop_core.content.writer import FileWriter
from orlop_sdk import digest as digests
from orlop_sdk.filters import fields, parse

_BATCH = 256


class LocalContentStore:
    """Blobs in a directory. At most one store, in one process, may use it."""

    def __init__(self, root: Path) -> None:
        """Prepare the directories, which blocks; `open` does that off the loop."""
        self._root = root
        self._blobs = root / "blobs"
        self._ingests = root / "ingest"
        for path in (self._blobs, self._ingests):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
        fsync_directory(root)
        self._remove_torn_ingests()
        self._pool = Pool("content", 16)
        self._writers: dict[str, FileWriter | None] = {}
        self._syncs: dict[str, DirectorySync] = {}
        # Makes "is it there?" and the rename one step, and so the second of two equal commits an AlreadyExists.
        self._publishing = threading.Lock()
        self._closing: set[asyncio.Future[None]] = set()

    @classmethod
    async def open(cls, root: Path) -> LocalContentStore:
        """The store in that directory, which is made if need be."""
        return await run_blocking(cls, root)

    async def info(self, digest: str) -> ContentInfo:
        path = self._path(digest)
        try:
            return await self._pool.run(_info, path, digest)
        except FileNotFoundError as error:
            raise NotFound(f'content "{digest}": not found') from error

    async def update(self, info: ContentInfo, fieldpaths: Sequence[str] = ()) -> ContentInfo:
        raise FailedPrecondition(
            f'content "{info.digest}": this store keeps no labels; update it through the metadata store'
        )

    async def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[ContentInfo]:
        wanted = parse(filters)
        names = await self._pool.run(self._names)
        for start in range(0, len(names), _BATCH):
            for info in await self._pool.run(self._infos, names[start : start + _BATCH]):
                if wanted.match(fields({"digest": info.digest})):
                    yield info

    async def delete(self, digest: str) -> None:
        path = self._path(digest)
        try:
            await self._pool.run(os.unlink, path)
        except FileNotFoundError as error:
            raise NotFound(f'content "{digest}": not found') from error

    async def reader(self, descriptor: Descriptor) -> ContentReader:
        return await FileReader.open(self._path(descriptor.digest), descriptor.digest, self._pool)

    async def writer(self, ref: str, *, total: int = 0, expected: str = "") -> ContentWriter:
        if not ref:
            raise InvalidArgument("ingest: ref must not be empty")
        algorithm = digests.parse(expected)[0] if expected else digests.CANONICAL
        if ref in self._writers:
            raise Unavailable(f'ingest "{ref}": has a writer open already; try again')
        self._writers[ref] = None
        ingest = Ingest(self._ingests / directory_name(ref), ref, total=total, algorithm=algorithm)
        opening = asyncio.ensure_future(self._open_writer(ingest, expected))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._close_unwanted)
            raise

    async def status(self, ref: str) -> IngestStatus:
        if writer := self._writers.get(ref):
            return writer.progress()
        status = await self._pool.run(read_status, self._ingests / directory_name(ref))
        if status is None:
            raise NotFound(f'ingest "{ref}": not found')
        return status

    async def statuses(self, filters: Sequence[str] = ()) -> list[IngestStatus]:
        wanted = parse(filters)
        found = await self._pool.run(self._statuses)
        current = [(writer.progress() if (writer := self._writers.get(item.ref)) else item) for item in found]
        return [item for item in current if wanted.match(fields({"ref": item.ref}))]

    async def abort(self, ref: str) -> None:
        # An open writer is left without its directory, and learns of it when it commits.
        if not await self._pool.run(_remove_ingest, self._ingests / directory_name(ref)):
            raise NotFound(f'ingest "{ref}": not found')

    def check_up(self, checkup: Checkup) -> AsyncIterator[Finding]:
        return check_content(self._root, self._pool, checkup)

    async def close(self) -> None:
        for writer in [writer for writer in self._writers.values() if writer is not None]:
            await writer.close()
        if self._closing:
            await asyncio.wait(self._closing)
        await run_blocking(self._pool.close)

    def _path(self, digest: str) -> Path:
        algorithm, encoded = digests.parse(digest)
        return self._blobs / algorithm / encoded

    async def _open_writer(self, ingest: Ingest, expected: str) -> FileWriter:
        release = partial(self._writers.pop, ingest.ref, None)
        try:
            with disk_errors(f'ingest "{ingest.ref}"'):
                await self._pool.run(self._open_ingest, ingest, expected)
        except BaseException:
            release()
            raise
        writer = FileWriter(ingest, self._pool, publish=self._publish, release=release)
        self._writers[ingest.ref] = writer
        return writer

    def _close_unwanted(self, opening: asyncio.Future[FileWriter]) -> None:
        """Close a writer whose opener was cancelled while it opened."""
        if not opening.cancelled() and opening.exception() is None:
            self._closing.add(task := asyncio.ensure_future(opening.result().close()))
            task.add_done_callback(self._closing.discard)

    def _open_ingest(self, ingest: Ingest, expected: str) -> None:
        if expected and self._path(expected).exists():
            raise AlreadyExists(f'content "{expected}": already exists')
        ingest.open()

    def _publish(self, ingest: Ingest, size: int, expected: str) -> str:
        digest = ingest.finish(size, expected)
        target = self._path(digest)
        with self._publishing:
            if not (exists := target.exists()):
                self._move(ingest, target)
            sync = self._syncs.setdefault(target.parent.name, DirectorySync(target.parent))
        # Also for a blob that was there: whoever made it may not have got to its fsync yet.
        sync.sync()
        ingest.remove()
        if exists:
            raise AlreadyExists(f'content "{digest}": already exists')
        return digest

    def _move(self, ingest: Ingest, target: Path) -> None:
        if not target.parent.exists():
            target.parent.mkdir(mode=0o755)
            fsync_directory(self._blobs)
        try:
            (ingest.path / "data").rename(target)
        except FileNotFoundError as error:
            raise NotFound(f'ingest "{ingest.ref}": was aborted meanwhile') from error

    def _names(self) -> list[str]:
        return sorted(
            f"{algorithm}:{entry.name}"
            for algorithm, length in digests.ALGORITHMS.items()
            if (self._blobs / algorithm).is_dir()
            for entry in os.scandir(self._blobs / algorithm)
            if len(entry.name) == length
        )

    def _infos(self, names: Sequence[str]) -> list[ContentInfo]:
        infos = []
        for digest in names:
            try:
                infos.append(_info(self._path(digest), digest))
            except (FileNotFoundError, InvalidArgument):
                continue  # removed meanwhile, or a stranger's file
        return infos

    def _statuses(self) -> list[IngestStatus]:
        found = (read_status(path) for path in sorted(self._ingests.iterdir()))
        return sorted((status for status in found if status is not None), key=lambda status: status.ref)

    def _remove_torn_ingests(self) -> None:
        for path in list(self._ingests.iterdir()):
            if path.is_dir() and read_status(path) is None:
                _remove_ingest(path)


def _info(path: Path, digest: str) -> ContentInfo:
    stat = path.stat()
    written = datetime.fromtimestamp(stat.st_mtime, EPOCH.tzinfo)
    return ContentInfo(digest, stat.st_size, created_at=written, updated_at=written)


def _remove_ingest(path: Path) -> bool:
    """Remove an ingest's directory; False if there was none."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return False
    return True


_store: type[ContentStore] = LocalContentStore
_checkable: type[Checkable] = LocalContentStore
