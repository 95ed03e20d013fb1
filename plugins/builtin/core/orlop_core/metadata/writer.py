# SPDX-License-Identifier: Apache-2.0
"""The writer of an ingest in a namespace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from orlop import context
from orlop.errors import AlreadyExists, FailedPrecondition, NotFound, Unimplemented
from orlop.interfaces.content import ContentStore, ContentWriter
from orlop.values import EMPTY, Descriptor, IngestStatus, Labels, check_labels
from orlop_core.metadata.guard import Guard
from orlop_core.metadata.ingests import Begun, Ingests
from orlop_core.metadata.times import from_micros

_CHUNK: Final = 1 << 20


class NamespacedWriter:
    """Writes through to the back end, and records the blob at commit. *release* frees the ref, and is told whether the
    back end may have a blob now that has no record.

    Without *inner* the content is here already, in another namespace: committing only records it. Should the client
    write nevertheless, the content is copied into an ingest of its own first, and the write appended to that.
    """

    def __init__(  # noqa: PLR0913  # its store's parts; made in one place only
        self,
        ns: str,
        ref: str,
        begun: Begun,
        inner: ContentWriter | None,
        *,
        backend: ContentStore,
        ingests: Ingests,
        guard: Guard,
        release: Callable[[str, str, bool], None],
    ) -> None:
        self._ns = ns
        self._ref = ref
        self._begun = begun
        self._inner = inner
        self._backend = backend
        self._ingests = ingests
        self._guard = guard
        self._release = release
        self._closed = False
        self._orphaned = False

    async def write(self, data: bytes | memoryview) -> None:
        await (await self._own(copy=True)).write(data)

    async def truncate(self, size: int) -> None:
        if size:
            raise Unimplemented(f'ingest "{self._ref}": cannot be cut to {size} bytes; only to 0')
        await (await self._own(copy=False)).truncate(0)

    async def commit(self, *, size: int = 0, expected: str = "", labels: Labels = EMPTY) -> str:
        self._check()
        check_labels(labels)
        lease = context.lease()
        self._ingests.check_lease(self._ns, lease)
        digest = expected or self.digest()
        try:
            async with self._guard.using(digest):
                stored = await self._commit_bytes(digest, size, expected)
                fresh = await self._ingests.complete(self._ns, self._ref, digest, stored, labels, lease)
        except FailedPrecondition:
            raise  # nothing was made
        except BaseException:
            self._orphaned = True
            raise
        finally:
            await self.close()
        if not fresh:
            raise AlreadyExists(f'content "{digest}": already exists')
        return digest

    async def status(self) -> IngestStatus:
        if self._inner is not None:
            return replace(await self._inner.status(), ref=self._ref)
        moment = from_micros(self._begun.started)
        return IngestStatus(self._ref, self._begun.size, self._begun.size, self._begun.expected, moment, moment)

    def digest(self) -> str:
        return self._begun.expected if self._inner is None else self._inner.digest()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._inner is not None:
                await self._inner.close()
        finally:
            self._release(self._ns, self._ref, self._orphaned)

    async def _commit_bytes(self, digest: str, size: int, expected: str) -> int:
        """Have the blob in the back end; returns its size."""
        if self._inner is None:
            return await self._commit_shared(digest, size)
        stored, written = (await self._inner.status()).offset, self._inner.digest()
        # The back end checks as well, but in its own words: it does not know the ref by its name here.
        if size and size != stored:
            raise FailedPrecondition(f'ingest "{self._ref}": size is {stored} bytes, not the {size} expected')
        if written != digest and written.partition(":")[0] == digest.partition(":")[0]:
            raise FailedPrecondition(f'ingest "{self._ref}": digest is {written}, not the {digest} expected')
        if written == digest and self._ingests.has_content(self._ns, digest):
            await self._inner.close()
            await self._drop()
            return stored
        try:
            await self._inner.commit(size=size, expected=expected)
        except AlreadyExists:
            return stored  # another namespace has it
        return stored

    async def _commit_shared(self, digest: str, size: int) -> int:
        if digest != self._begun.expected:
            raise FailedPrecondition(
                f'ingest "{self._ref}": digest is {self._begun.expected}, not the {digest} expected'
            )
        if size and size != self._begun.size:
            raise FailedPrecondition(f'ingest "{self._ref}": size is {self._begun.size}, not the {size} expected')
        return (await self._backend.info(digest)).size

    async def _drop(self) -> None:
        try:
            await self._backend.abort(self._begun.backend)
        except NotFound:
            return

    async def _own(self, *, copy: bool) -> ContentWriter:
        """The back end's writer, made now if the content was to be shared."""
        self._check()
        if self._inner is None:
            inner = await self._backend.writer(self._begun.backend, total=0)
            try:
                await inner.truncate(0)
                if copy:
                    await self._copy(inner)
                await self._ingests.unshare(self._ns, self._ref)
            except BaseException:
                await inner.close()
                raise
            self._inner = inner
        return self._inner

    async def _copy(self, target: ContentWriter) -> None:
        reader = await self._backend.reader(Descriptor("", self._begun.expected, self._begun.size))
        try:
            offset = 0
            while chunk := await reader.read_at(offset, _CHUNK):
                await target.write(chunk)
                offset += len(chunk)
        finally:
            await reader.close()

    def _check(self) -> None:
        if self._closed:
            raise FailedPrecondition(f'ingest "{self._ref}": writer is closed; open the ref again')


_: type[ContentWriter] = NamespacedWriter
