# SPDX-License-Identifier: Apache-2.0
"""Transfers that the daemon does itself: pull, push, import, export and tag, with the client merely watching.

::

    source = RegistryImage("registry.example/team/app:1", credentials=docker_config())
    target = StoredImage("registry.example/team/app:1", unpacks=[UnpackFor(snapshotter="overlayfs")])
    await client.transfer(source, target, progress=print)

=======================  =======================  ==========
source                   destination
=======================  =======================  ==========
`RegistryImage`          `StoredImage`            pull
`StoredImage`            `RegistryImage`          push
`ArchiveFrom`            `StoredImage`            import
`StoredImage`            `ArchiveTo`              export
`StoredImage`            `StoredImage`            tag
=======================  =======================  ==========

containerd has this service from 1.7 on; an older daemon answers `Unimplemented`. Whoever needs another kind of place
writes another `Endpoint`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol, runtime_checkable

from google.protobuf.message import Message

from orlop.blocking import Pool
from orlop.errors import OrlopError, Unavailable
from orlop.interfaces.streaming import Stream
from orlop.interfaces.transfer import ProgressTold, TransferProgress, untold
from orlop.values import EMPTY, Labels, Platform
from orlop_sdk.api.services.transfer.v1 import transfer_pb2
from orlop_sdk.api.types.transfer import imagestore_pb2, importexport_pb2, progress_pb2, registry_pb2
from orlop_sdk.bytestream import receive_bytes, send_bytes
from orlop_sdk.client.archive import ArchiveTarget, write_archive
from orlop_sdk.client.archive_read import ArchiveSource
from orlop_sdk.client.platform import parse
from orlop_sdk.client.streams import RemoteStream, RemoteStreams
from orlop_sdk.convert.common import any_to_wire, descriptor_from_wire, pack, platform_to_wire, unpack
from orlop_sdk.rpc.channel import Channel
from orlop_sdk.rpc.stub import Stub

if TYPE_CHECKING:
    from orlop_sdk.registry.credentials import Credentials

_CHUNK: Final = 256 << 10
#: Seconds within which the end of the progress follows the end of the transfer.
_LAST_NEWS: Final = 10.0


@runtime_checkable
class Endpoint(Protocol):
    """Where a transfer begins or ends."""

    def attach(self, streams: RemoteStreams) -> AbstractAsyncContextManager[Message]:
        """For as long as the transfer runs: its message for the daemon, with the streams that the message names."""
        ...


@dataclass(frozen=True, slots=True)
class RegistryImage:
    """An image of a registry, by its full reference, as the daemon reaches it."""

    reference: str
    credentials: Credentials | None = None
    """Asked when the registry wants to know who is there; the secrets go to the daemon."""
    headers: Mapping[str, str] = field(default=EMPTY, repr=False)
    """Sent with every request to the registry."""
    hosts_directory: str = ""
    """Directory of ``hosts.toml`` files on the daemon's host; its configured ones when empty."""
    plain_http: bool = False

    @asynccontextmanager
    async def attach(self, streams: RemoteStreams) -> AsyncIterator[Message]:
        resolver = registry_pb2.RegistryResolver(
            headers=dict(self.headers),
            host_dir=self.hosts_directory,
            default_scheme="http" if self.plain_http else "",
        )
        if self.credentials is None:
            yield registry_pb2.OCIRegistry(reference=self.reference, resolver=resolver)
            return
        async with streams.open("creds") as (id, stream), _background(stream, _identify(stream, self.credentials)):
            resolver.auth_stream = id
            yield registry_pb2.OCIRegistry(reference=self.reference, resolver=resolver)


@dataclass(frozen=True, slots=True)
class UnpackFor:
    """Into which snapshotter to unpack the variant for a platform: the daemon's, and its default, if not given."""

    platform: str | Platform = ""
    snapshotter: str = ""


@dataclass(frozen=True, slots=True)
class ExtraName:
    """A further name for an image, or, as a prefix, a rule that makes names of an archive's own.

    As a prefix it names what an archive calls ``tag`` ``name:tag``, and takes full names that begin with it, or with
    *allow_overwrite* any. *add_digest* adds ``name@digest``, with *skip_named_digest* only where nothing else fits.
    """

    name: str
    is_prefix: bool = False
    allow_overwrite: bool = False
    add_digest: bool = False
    skip_named_digest: bool = False


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of the daemon, by its name. As a destination the name may be empty if *extra* names it."""

    name: str = ""
    labels: Labels = EMPTY
    platforms: Sequence[str | Platform] = ()
    """Variants to take; all if empty."""
    all_metadata: bool = False
    """Take manifests and configurations of all variants, and layers of *platforms* only."""
    limit: int = 0
    """The most variants to take, best first; 0 for no limit."""
    extra: Sequence[ExtraName] = ()
    unpacks: Sequence[UnpackFor] = ()

    @asynccontextmanager
    async def attach(self, streams: RemoteStreams) -> AsyncIterator[Message]:
        yield imagestore_pb2.ImageStore(
            name=self.name,
            labels=dict(self.labels),
            platforms=[platform_to_wire(_platform(each)) for each in self.platforms],
            all_metadata=self.all_metadata,
            manifest_limit=self.limit,
            extra_references=[
                imagestore_pb2.ImageReference(
                    name=each.name,
                    is_prefix=each.is_prefix,
                    allow_overwrite=each.allow_overwrite,
                    add_digest=each.add_digest,
                    skip_named_digest=each.skip_named_digest,
                )
                for each in self.extra
            ],
            unpacks=[
                imagestore_pb2.UnpackConfiguration(
                    platform=platform_to_wire(_platform(each.platform)) if each.platform else None,
                    snapshotter=each.snapshotter,
                )
                for each in self.unpacks
            ],
        )


@dataclass(frozen=True, slots=True)
class ArchiveFrom:
    """An archive on this side: a path, a binary file, or a stream of bytes; compressed or not."""

    source: ArchiveSource
    compress: bool = False
    """Have uncompressed layers of Docker's archives compressed."""

    @asynccontextmanager
    async def attach(self, streams: RemoteStreams) -> AsyncIterator[Message]:
        async with streams.open("import") as (id, stream), _background(stream, _send(stream, self.source)):
            yield importexport_pb2.ImageImportStream(stream=id, force_compress=self.compress)


@dataclass(frozen=True, slots=True)
class ArchiveTo:
    """An archive on this side: a path, which appears when it is complete, or a binary file."""

    target: ArchiveTarget
    platforms: Sequence[str | Platform] = ()
    """Variants to write; the one for the daemon's host if empty."""
    all_platforms: bool = False
    docker: bool = True
    """Make it one for ``docker load``, too."""
    restricted: bool = True
    """Write also layers that their licence forbids to distribute."""

    @asynccontextmanager
    async def attach(self, streams: RemoteStreams) -> AsyncIterator[Message]:
        async with streams.open("export") as (id, stream):
            good = asyncio.Event()
            writing = asyncio.create_task(write_archive(self.target, _received(stream, good)))
            try:
                yield importexport_pb2.ImageExportStream(
                    stream=id,
                    platforms=[platform_to_wire(_platform(each)) for each in self.platforms],
                    all_platforms=self.all_platforms,
                    skip_compatibility_manifest=not self.docker,
                    skip_non_distributable=not self.restricted,
                )
                good.set()
                await writing
            finally:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)


class Transfers(Protocol):
    """Has a daemon move images."""

    async def transfer(self, source: Endpoint, destination: Endpoint, *, progress: ProgressTold = untold) -> None:
        """Return when the daemon has done it. Raises what the daemon, or this side's archive, failed with."""
        ...


class RemoteTransfers:
    """The transfer service at the other end of a channel."""

    def __init__(self, channel: Channel) -> None:
        self._stub = Stub(channel, "containerd.services.transfer.v1.Transfer")
        self._streams = RemoteStreams(channel)

    async def transfer(self, source: Endpoint, destination: Endpoint, *, progress: ProgressTold = untold) -> None:
        async with AsyncExitStack() as stack:
            options = transfer_pb2.TransferOptions()
            if progress is not untold:
                options.progress_stream = await stack.enter_async_context(self._watched(progress))
            ends = [await stack.enter_async_context(each.attach(self._streams)) for each in (source, destination)]
            request = transfer_pb2.TransferRequest(
                source=any_to_wire(pack(ends[0])), destination=any_to_wire(pack(ends[1])), options=options
            )
            await self._stub.Transfer(request)

    @asynccontextmanager
    async def _watched(self, progress: ProgressTold) -> AsyncIterator[str]:
        async with self._streams.open("progress") as (id, stream):
            watching = asyncio.create_task(_tell(stream, progress))
            try:
                yield id
                await asyncio.wait((watching,), timeout=_LAST_NEWS)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)


def _platform(wanted: str | Platform) -> Platform:
    return parse(wanted) if isinstance(wanted, str) else wanted


@asynccontextmanager
async def _background(stream: RemoteStream, work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run *work* on a stream beside the block. What it fails with is raised, and not what comes of that."""
    failed: list[Exception] = []

    async def run() -> None:
        try:
            await work
        except Exception as error:
            failed.append(error)
            # Not as an end: the daemon must not take what came until then for all there is, nor wait for more.
            await stream.aclose()
            raise

    task = asyncio.create_task(run())
    try:
        yield
    except OrlopError:
        if failed:
            raise failed[0] from None
        raise
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _identify(stream: Stream, credentials: Credentials) -> None:
    """Answer questions about credentials."""
    while (message := await stream.receive()) is not None:
        request = unpack(message, registry_pb2.AuthRequest)
        found = await credentials(request.host)
        answer = registry_pb2.AuthResponse(authType=registry_pb2.AuthType.NONE)
        if found is not None and found.header:
            answer = registry_pb2.AuthResponse(authType=registry_pb2.AuthType.HEADER, secret=found.header)
        elif found is not None and found.is_token:
            answer = registry_pb2.AuthResponse(authType=registry_pb2.AuthType.REFRESH, secret=found.secret)
        elif found is not None:
            answer = registry_pb2.AuthResponse(
                authType=registry_pb2.AuthType.CREDENTIALS, username=found.username, secret=found.secret
            )
        await stream.send(pack(answer))


async def _send(stream: Stream, source: ArchiveSource) -> None:
    try:
        async with aclosing(_chunks(source)) as chunks:
            await send_bytes(stream, chunks)
    except Unavailable:
        return  # the daemon has seen enough; how it ended, the transfer itself tells
    await stream.close()


async def _chunks(source: ArchiveSource) -> AsyncGenerator[bytes, None]:
    if isinstance(source, AsyncIterable):
        async for chunk in source:
            yield chunk
        return
    pool = Pool("import", 1)
    file: BinaryIO | None = None
    try:
        file = await pool.run(Path(source).open, "rb") if isinstance(source, Path | str) else source
        while data := await pool.run(file.read, _CHUNK):
            yield data
    finally:
        if file is not None and file is not source:
            await pool.run(file.close)
        pool.close()


async def _received(stream: Stream, good: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """What the daemon sends; it ends when the transfer is known to have gone well."""
    async with aclosing(receive_bytes(stream)) as chunks:
        async for chunk in chunks:
            yield chunk
    await good.wait()


async def _tell(stream: Stream, progress: ProgressTold) -> None:
    while (message := await stream.receive()) is not None:
        news = unpack(message, progress_pb2.Progress)
        descriptor = descriptor_from_wire(news.desc) if news.HasField("desc") else None
        progress(TransferProgress(news.event, news.name, tuple(news.parents), news.progress, news.total, descriptor))


_: type[Transfers] = RemoteTransfers
