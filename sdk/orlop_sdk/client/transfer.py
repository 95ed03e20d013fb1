# SPDX-License-Identifier: Apache-2.0
"""One blob into a content store: resumable, verified, and labelled so that it stays.

::

    copied = await ingest(content, descriptor, lambda offset: fetcher.fetch(descriptor, offset=offset))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from orlop.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from orlop.interfaces.content import ContentStore, ContentWriter
from orlop.values import EMPTY, ContentInfo, Descriptor, Labels
from orlop_sdk.client.image import is_index, is_layer, is_manifest
from orlop_sdk.client.progress import ProgressCallback, ProgressKind, about, silent
from orlop_sdk.rpc.channel import closing

#: Bytes gathered before they are written: a write to a daemon is a message there and one back.
BUFFER: Final = 512 << 10
#: Seconds between looks at an ingest that somebody else is writing.
_LOOK: Final = 0.2
#: Looks in a row that may see no progress before we give up.
_PATIENCE: Final = 600
SOURCE_LABEL: Final = "containerd.io/distribution.source."
_MAX_LABEL: Final = 4096

#: Gives the bytes of a blob from an offset.
Source = Callable[[int], AsyncIterator[bytes]]


def ingest_ref(descriptor: Descriptor) -> str:
    """The ref under which a blob is ingested, the same for all clients, so that they wait for one another."""
    kind = "unknown"
    if is_manifest(descriptor.media_type):
        kind = "manifest"
    elif is_index(descriptor.media_type):
        kind = "index"
    elif is_layer(descriptor.media_type):
        kind = "layer"
    elif descriptor.media_type.endswith((".config.v1+json", ".image.v1+json")):
        kind = "config"
    return f"{kind}-{descriptor.digest}"


async def ingest(
    content: ContentStore,
    descriptor: Descriptor,
    source: Source,
    *,
    labels: Labels = EMPTY,
    progress: ProgressCallback = silent,
    ref: str = "",
) -> bool:
    """Bring a blob in, going on where an earlier attempt ended. False when it was there already; labels are set anyway.

    Raises `DataLoss` when the source gives something else than the descriptor says, or what *source* raises.
    """
    ref = ref or ingest_ref(descriptor)
    writer = await _open(content, descriptor, ref, progress)
    if writer is None:
        await add_labels(content, descriptor.digest, labels)
        about(progress, ProgressKind.EXISTS, descriptor)
        return False
    try:
        status = await writer.status()
        offset = status.offset
        if offset > descriptor.size:
            await writer.truncate(0)
            offset = 0
        if offset < descriptor.size:
            await _copy(writer, descriptor, source, offset, progress)
        await _commit(content, writer, descriptor, labels, ref)
    except AlreadyExists:
        # Somebody else was faster under another ref.
        await add_labels(content, descriptor.digest, labels)
    finally:
        await writer.close()
    about(progress, ProgressKind.DOWNLOADED, descriptor)
    return True


async def _open(
    content: ContentStore, descriptor: Descriptor, ref: str, progress: ProgressCallback
) -> ContentWriter | None:
    seen = -1
    looks = 0
    while looks < _PATIENCE:
        try:
            return await content.writer(ref, total=descriptor.size, expected=descriptor.digest)
        except AlreadyExists:
            return None
        except Unavailable:
            about(progress, ProgressKind.WAITING, descriptor, 0)
            try:
                offset = (await content.status(ref)).offset
            except NotFound:
                offset = seen + 1
            looks = looks + 1 if offset == seen else 0
            seen = offset
            await asyncio.sleep(_LOOK)
    raise Unavailable(
        f'ingest "{ref}": somebody else is writing it and makes no progress; abort it, or try again later'
    )


async def _copy(
    writer: ContentWriter, descriptor: Descriptor, source: Source, offset: int, progress: ProgressCallback
) -> None:
    about(progress, ProgressKind.DOWNLOADING, descriptor, offset)
    buffer = bytearray()
    received = offset
    async with closing(source(offset)) as stream:
        async for chunk in stream:
            buffer += chunk
            received += len(chunk)
            if received > descriptor.size:
                raise DataLoss(f'content "{descriptor.digest}": longer than the {descriptor.size} bytes it should have')
            if len(buffer) >= BUFFER:
                await writer.write(bytes(buffer))
                buffer = bytearray()
                about(progress, ProgressKind.DOWNLOADING, descriptor, received)
    if buffer:
        await writer.write(bytes(buffer))
    if received < descriptor.size:
        raise DataLoss(f'content "{descriptor.digest}": {received} of {descriptor.size} bytes came')


async def _commit(
    content: ContentStore, writer: ContentWriter, descriptor: Descriptor, labels: Labels, ref: str
) -> None:
    try:
        await writer.commit(size=descriptor.size, expected=descriptor.digest, labels=labels)
    except FailedPrecondition as error:
        # Damaged data must not be what the next attempt resumes from.
        await writer.close()
        try:
            await content.abort(ref)
        except NotFound:
            raise DataLoss(str(error)) from error
        raise DataLoss(f'content "{descriptor.digest}": what came is something else: {error}') from error


async def put(content: ContentStore, descriptor: Descriptor, data: bytes, labels: Labels = EMPTY) -> bool:
    """Bring in a blob that is in memory. False when it was there already."""

    async def source(offset: int) -> AsyncIterator[bytes]:
        yield data[offset:]

    return await ingest(content, descriptor, source, labels=labels)


async def add_labels(content: ContentStore, digest: str, labels: Labels) -> None:
    """Set labels of a blob and leave its others alone; lists of source repositories are merged."""
    if not labels:
        return
    info = await content.info(digest)
    wanted = {key: _merged(key, info.labels.get(key, ""), value) for key, value in labels.items()}
    changed = {key: value for key, value in wanted.items() if info.labels.get(key) != value}
    if changed:
        await content.update(ContentInfo(digest, info.size, labels=changed), [f"labels.{key}" for key in changed])


def _merged(key: str, old: str, new: str) -> str:
    if not key.startswith(SOURCE_LABEL) or not old:
        return new
    merged = ",".join(sorted({*old.split(","), *new.split(",")}))
    return merged if len(key) + len(merged) <= _MAX_LABEL else old


def source_label(host: str, repository: str) -> dict[str, str]:
    """The label that says where a blob came from, so that a push can mount it instead of sending it."""
    return {f"{SOURCE_LABEL}{host}": repository}


def sources(labels: Mapping[str, str], host: str, repository: str) -> list[str]:
    """Other repositories of a registry that hold a blob, those first whose path is most like *repository*."""
    known = [each for each in labels.get(f"{SOURCE_LABEL}{host}", "").split(",") if each and each != repository]

    def shared(other: str) -> int:
        pairs = zip(other.split("/"), repository.split("/"), strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(other.count("/"), repository.count("/")) + 1)

    return sorted(known, key=shared, reverse=True)


def check_concurrency(value: int, what: str) -> int:
    """Raise `InvalidArgument` unless at least one may run at a time."""
    if value < 1:
        raise InvalidArgument(f"{what}: must be 1 at least, not {value}")
    return value


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a group of tasks failed for: the first failure, the rest being its consequences."""
    first = errors.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first
