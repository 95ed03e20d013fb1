# SPDX-License-Identifier: Apache-2.0
"""Content: immutable blobs by digest, and the ingests that become them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol, runtime_checkable

from orlop.plugin import PluginType
from orlop.values import EMPTY, ContentInfo, Descriptor, IngestStatus, Labels


@runtime_checkable
class ContentReader(Protocol):
    """An open blob. Readers never wait for writers, and a blob that is deleted stays readable while it is open."""

    @property
    def size(self) -> int:
        """Bytes in the blob."""

    async def read_at(self, offset: int, size: int) -> bytes:
        """Up to *size* bytes from *offset*; empty at the end. Raises `OutOfRange` past the end."""

    async def close(self) -> None:
        """Free the reader. May be called twice."""


@runtime_checkable
class LocalReader(Protocol):
    """Optional power of a reader: the blob is an ordinary file here, so that a process may read it without copies."""

    def fileno(self) -> int:
        """An open, read-only file descriptor, owned by the reader."""


@runtime_checkable
class ContentWriter(Protocol):
    """One open ingest. At most one writer per ref is open at a time.

    **Lifecycle**: `write` and `truncate` any number of times, then `commit` (the blob exists, the ref is gone) or
    `close` (the ref stays, to be resumed by opening it again, or aborted). After `commit`, also a failed one, the
    ref is free to be opened again; a failed commit for size or digest keeps the data.
    """

    async def write(self, data: bytes | memoryview) -> None:
        """Append. The data is hashed on the way."""

    async def truncate(self, size: int) -> None:
        """Start over. Only 0 is allowed: anything else raises `Unimplemented`."""

    async def commit(self, *, size: int = 0, expected: str = "", labels: Labels = EMPTY) -> str:
        """Make the blob, durably, and return its digest. 0 and "" mean "do not check".

        Raises `FailedPrecondition` when size or digest differ, `AlreadyExists` when the blob is there already (the
        ingest is dropped then).
        """

    async def status(self) -> IngestStatus:
        """How far this ingest is."""

    def digest(self) -> str:
        """Digest of what was written so far."""

    async def close(self) -> None:
        """Let go of the ref without committing. May be called twice, and after `commit`."""


@runtime_checkable
class ContentStore(Protocol):
    """Blobs by digest.

    **Vocabulary**: a *blob* is complete and immutable; an *ingest* is being written under a *ref* that the writer
    chose. Labels are on blobs only. A store that the metadata store wraps knows nothing of namespaces or leases; the
    one that the metadata store offers is bound to the namespace and lease of `orlop.context`.

    **Durability**: what `ContentWriter.commit` returned survives kill -9 and power loss at any later instant; what was
    not committed leaves an ingest that can be resumed or aborted, never a half blob.

    **Example**::

        writer = await store.writer("layer-1", expected="sha256:e3b0...")
        await writer.write(data)
        digest = await writer.commit(labels={"containerd.io/gc.root": "now"})
    """

    async def info(self, digest: str) -> ContentInfo:
        """What is known of a blob. Raises `NotFound`."""

    async def update(self, info: ContentInfo, fieldpaths: Sequence[str] = ()) -> ContentInfo:
        """Change labels: paths ``labels`` or ``labels.<key>``, none for all. Raises `NotFound`, `InvalidArgument`."""

    def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[ContentInfo]:
        """All blobs that match any of the filters (fields digest, labels), in order of digest."""

    async def delete(self, digest: str) -> None:
        """Remove a blob. Raises `NotFound`."""

    async def reader(self, descriptor: Descriptor) -> ContentReader:
        """Open a blob; only the digest is looked at. Raises `NotFound`."""

    async def writer(self, ref: str, *, total: int = 0, expected: str = "") -> ContentWriter:
        """Open an ingest, or resume one at the offset it had.

        Raises `AlreadyExists` when *expected* exists, `Unavailable` when the ref has a writer open,
        `InvalidArgument` for an empty ref.
        """

    async def status(self, ref: str) -> IngestStatus:
        """One ingest. Raises `NotFound`."""

    async def statuses(self, filters: Sequence[str] = ()) -> list[IngestStatus]:
        """All ingests that match any of the filters (field ref)."""

    async def abort(self, ref: str) -> None:
        """Drop an ingest and its data. Raises `NotFound`."""

    async def close(self) -> None:
        """Free everything. May be called twice."""


CONTENT: Final = PluginType("io.containerd.content.v1", ContentStore, group="orlop.content.v1", many=True)
content_store = CONTENT.plugin
"""Decorator that declares a content store plugin."""
