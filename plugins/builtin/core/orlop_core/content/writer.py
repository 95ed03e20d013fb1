# SPDX-License-Identifier: Apache-2.0
"""The writer of an ingest: async, buffered, and safe to cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from orlop.blocking import Pool
from orlop.errors import FailedPrecondition, Unimplemented
from orlop.interfaces.content import ContentWriter
from orlop.values import EMPTY, IngestStatus, Labels
from orlop_core.content.ingest import Ingest, disk_errors, update

T = TypeVar("T")

#: Small writes are gathered until they are worth a thread's time (bytes).
_BUFFER: Final = 512 << 10
_SMALL: Final = 128 << 10
#: From this size on (bytes) it pays to hash in one thread while another writes.
_PARALLEL: Final = 256 << 10


class FileWriter:
    """Writes one ingest. *publish* turns the finished ingest into a blob, *release* frees the ref."""

    def __init__(
        self, ingest: Ingest, pool: Pool, *, publish: Callable[[Ingest, int, str], str], release: Callable[[], object]
    ) -> None:
        self._ingest = ingest
        self._pool = pool
        self._publish = publish
        self._release = release
        self._buffer = bytearray()
        self._running: asyncio.Future[Any] | None = None
        self._closed = False

    async def write(self, data: bytes | memoryview) -> None:
        self._check()
        if len(data) <= _SMALL and len(self._buffer) + len(data) <= _BUFFER:
            self._buffer += data
            return
        await self._serial(self._flush(data))

    async def truncate(self, size: int) -> None:
        self._check()
        if size:
            raise Unimplemented(f'ingest "{self._ingest.ref}": cannot be cut to {size} bytes; only to 0')
        self._buffer.clear()
        await self._serial(self._pool.run(self._ingest.clear))

    async def commit(self, *, size: int = 0, expected: str = "", labels: Labels = EMPTY) -> str:
        self._check()
        if labels:
            raise FailedPrecondition(
                f'ingest "{self._ingest.ref}": this store keeps no labels; commit through the metadata store'
            )
        self._closed = True
        return await self._serial(self._commit(size, expected))

    async def status(self) -> IngestStatus:
        return self.progress()

    def progress(self) -> IngestStatus:
        """How far this ingest is, what is still buffered included."""
        ingest = self._ingest
        return IngestStatus(
            ref=ingest.ref,
            offset=ingest.offset + len(self._buffer),
            total=ingest.total,
            started_at=ingest.started_at,
            updated_at=ingest.updated_at,
        )

    def digest(self) -> str:
        hashed = self._ingest.hash
        if self._buffer:
            hashed = hashed.copy()
            hashed.update(self._buffer)
        return f"{self._ingest.algorithm}:{hashed.hexdigest()}"

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._serial(self._close())

    async def _commit(self, size: int, expected: str) -> str:
        try:
            if self._buffer:
                chunk, self._buffer = self._buffer, bytearray()
                return await self._pool.run(self._append_and_publish, chunk, size, expected)
            return await self._pool.run(self._publish, self._ingest, size, expected)
        finally:
            self._release()

    def _append_and_publish(self, chunk: bytearray, size: int, expected: str) -> str:
        try:
            self._ingest.append([chunk])
        except BaseException:
            self._ingest.close()
            raise
        return self._publish(self._ingest, size, expected)

    async def _close(self) -> None:
        try:
            if self._buffer:
                await self._flush()
        finally:
            try:
                await self._pool.run(self._ingest.close)
            finally:
                self._release()

    async def _flush(self, data: bytes | memoryview = b"") -> None:
        chunk, self._buffer = self._buffer, bytearray()
        chunks, size = [chunk, data], len(chunk) + len(data)
        if size < _PARALLEL:
            await self._pool.run(self._ingest.append, chunks)
            return
        hashed = self._ingest.hash.copy()
        await asyncio.gather(self._pool.run(self._ingest.write, chunks), self._pool.run(update, hashed, chunks))
        self._ingest.hash = hashed

    async def _serial(self, work: Coroutine[Any, Any, T]) -> T:
        """Run after whatever a cancelled caller may have left running; go on to the end even if cancelled."""
        previous = self._running

        async def run() -> T:
            if previous is not None:
                await asyncio.wait([previous])
            with disk_errors(f'ingest "{self._ingest.ref}"'):
                return await work

        task = asyncio.ensure_future(run())
        self._running = task
        return await asyncio.shield(task)

    def _check(self) -> None:
        if self._closed:
            raise FailedPrecondition(f'ingest "{self._ingest.ref}": writer is closed; open the ref again')


_: type[ContentWriter] = FileWriter
