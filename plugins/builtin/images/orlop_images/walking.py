# SPDX-License-Identifier: Apache-2.0
"""The differ for tar layers: unpacks them, and makes them by walking two trees.

**Host needs**: root, or a user namespace with mounts. All work on trees is done by worker processes, chrooted into
them. **On disk**: two empty directories below the plugin's state, where workers mount in namespaces of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from orlop.blocking import Pool
from orlop.errors import AlreadyExists, DataLoss, NotFound, Unimplemented
from orlop.interfaces.content import ContentReader, ContentStore, ContentWriter, LocalReader
from orlop.interfaces.differ import Differ, differ
from orlop.interfaces.metadata import METADATA
from orlop.interfaces.mount import MOUNT_MANAGER
from orlop.interfaces.stream import STREAM_PROCESSOR, TAR, StreamProcessor
from orlop.plugin import InitContext, PluginConfig
from orlop.values import EMPTY, AnyMessage, Descriptor, Labels, Mount
from orlop_images import media
from orlop_images.places import Place, check, in_user_namespace, place, plain, topmost
from orlop_images.process import Job, Workers
from orlop_images.streams import Chain, Chooser, chain, split_codecs
from orlop_sdk.linux.mount import readonly

UNCOMPRESSED: Final = "containerd.io/uncompressed"
_COMPRESSIONS: Final = {TAR: "", media.OCI_GZIP: "gzip", media.OCI_ZSTD: "zstd"}
_PIECE: Final = 1 << 20
# A processor that failed ends at about the time its output does; this is how long we wait to hear why (seconds).
_BLAME: Final = 2.0
_NO_PAYLOADS: Final[Mapping[str, AnyMessage]] = {}


class WalkingConfig(PluginConfig):
    """The table ``[plugins."io.containerd.differ.v1.walking"]``."""

    max_layer_size: int = 0
    """Most bytes that one layer may have uncompressed; 0 means no limit but the disk's."""
    max_layer_entries: int = 0
    """Most files, directories and links that one layer may have; 0 means no limit."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the differ works with."""

    content: ContentStore
    processors: Mapping[str, StreamProcessor]
    choose: Chooser
    state: Path


class WalkingDiffer:
    """Applies and makes tar layers."""

    def __init__(self, parts: Parts, config: WalkingConfig | None = None) -> None:
        self._parts = parts
        self._config = config or WalkingConfig()
        self._workers = Workers("differ-walking")
        self._pool = Pool("differ-walking-feed", 4)
        self._user_namespace = in_user_namespace()
        for name in ("target/lower", "target/upper", "target/layer"):
            (parts.state / name).mkdir(parents=True, exist_ok=True)

    async def apply(
        self,
        descriptor: Descriptor,
        mounts: Sequence[Mount],
        *,
        payloads: Mapping[str, AnyMessage] = _NO_PAYLOADS,
        sync: bool = False,
    ) -> Descriptor:
        steps = chain(descriptor.media_type, self._parts.processors, self._parts.choose)
        where = place(mounts, str(self._parts.state / "target"), user_namespace=self._user_namespace)
        reader = await self._parts.content.reader(descriptor)
        try:
            opened, codecs = split_codecs(steps)
            async with self._feed(reader) as source, Chain(opened, payloads) as running:
                request = self._request(where, codecs, sync)
                job = await self._workers.start(request, source=await running.open(source))
                report = await _finish(job, running)
        finally:
            await reader.close()
        return Descriptor(TAR, report["digest"], report["size"])

    def _request(self, where: Place, codecs: list[str], sync: bool) -> dict[str, Any]:
        return {
            "job": "apply",
            "codecs": codecs,
            "target": where.target,
            "lowers": where.lowers,
            "mounts": where.mounts,
            "whiteouts": where.whiteouts,
            "devices": not self._user_namespace,
            "max_size": self._config.max_layer_size,
            "max_entries": self._config.max_layer_entries,
            "sync": sync,
        }

    @contextlib.asynccontextmanager
    async def _feed(self, reader: ContentReader) -> AsyncIterator[int]:
        """A descriptor that reads the blob: its own file where it is one here, else a pipe that is kept filled."""
        if isinstance(reader, LocalReader):
            os.lseek(reader.fileno(), 0, os.SEEK_SET)
            yield reader.fileno()
            return
        read, write = os.pipe2(os.O_CLOEXEC)
        filling = asyncio.create_task(self._fill(reader, write))
        try:
            yield read
        except DataLoss:
            if filling.done():
                filling.result()  # what broke the stream is the better story
            raise
        finally:
            os.close(read)  # a filler that still writes gets EPIPE
            filling.cancel()
            await asyncio.wait([filling])
        if not filling.cancelled():
            filling.result()

    async def _fill(self, reader: ContentReader, write: int) -> None:
        offset = 0
        try:
            while offset < reader.size:
                data = await reader.read_at(offset, _PIECE)
                if not data:
                    raise DataLoss(f"content: ends at {offset} of {reader.size} bytes")
                # Shielded: the thread must be done with the descriptor before it is closed.
                writing = asyncio.ensure_future(self._pool.run(_write_all, write, data))
                try:
                    await asyncio.shield(writing)
                except asyncio.CancelledError:
                    await asyncio.wait([writing])
                    raise
                offset += len(data)
        except BrokenPipeError:
            return  # the reader has failed, and says why
        finally:
            os.close(write)

    async def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        *,
        media_type: str = "",
        ref: str = "",
        labels: Labels = EMPTY,
        source_date_epoch: datetime | None = None,
    ) -> Descriptor:
        media_type = media_type or media.OCI_GZIP
        if media_type not in _COMPRESSIONS:
            raise Unimplemented(f'media type "{media_type}": layers of this type are not made here')
        check((*lower, *upper))
        request = {
            "job": "compare",
            "target": str(self._parts.state / "target"),
            "lower": plain(readonly(lower)),
            "upper": plain(readonly(upper)),
            "layer": "" if self._user_namespace else topmost(lower, upper),
            "compression": _COMPRESSIONS[media_type],
            "epoch": None if source_date_epoch is None else int(source_date_epoch.timestamp()),
        }
        own_ref = ref or f"orlop-diff-{uuid.uuid4()}"
        writer = await self._parts.content.writer(own_ref)
        try:
            if (await writer.status()).offset:
                await writer.truncate(0)
            report, size = await self._write(request, writer)
            digest = await self._commit(writer, size, {**labels, UNCOMPRESSED: report["digest"]})
        except BaseException:
            await writer.close()
            if not ref:
                with contextlib.suppress(NotFound):
                    await self._parts.content.abort(own_ref)
            raise
        await writer.close()
        return Descriptor(media_type, digest, size)

    async def _write(self, request: Mapping[str, Any], writer: ContentWriter) -> tuple[dict[str, Any], int]:
        loop = asyncio.get_running_loop()
        size = 0
        mine, theirs = socket.socketpair()
        with mine:
            mine.setblocking(False)
            with theirs:
                job = await self._workers.start(request, source=theirs.fileno(), output=theirs.fileno())
            try:
                while data := await loop.sock_recv(mine, _PIECE):
                    await writer.write(data)
                    size += len(data)
                return await job.result(), size
            finally:
                await job.close()

    async def _commit(self, writer: ContentWriter, size: int, labels: Labels) -> str:
        # A writer of a store elsewhere knows the digest as of the store's last answer.
        await writer.status()
        digest = writer.digest()
        try:
            return await writer.commit(size=size, expected=digest, labels=labels)
        except AlreadyExists:
            content = self._parts.content
            info = await content.info(digest)
            missing = {key: value for key, value in labels.items() if info.labels.get(key) != value}
            if missing:
                updated = type(info)(info.digest, info.size, labels={**info.labels, **missing})
                await content.update(updated, [f"labels.{key}" for key in missing])
            return digest

    async def close(self) -> None:
        """End all workers. May be called twice."""
        await asyncio.to_thread(self._workers.close)
        self._pool.close()


async def _finish(job: Job, running: Chain) -> dict[str, Any]:
    """The report of a job, once all that feeds it has ended well too."""
    try:
        report = await job.result()
        await running.wait()
    except DataLoss as error:
        # Perhaps the layer was damaged on its way here, by a processor that failed.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BLAME):
                cause = await running.failure()
                if cause is not None:
                    raise cause from error
        raise
    finally:
        await job.close()
    return report


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@differ("walking", config=WalkingConfig, requires=(METADATA, STREAM_PROCESSOR.optional(), MOUNT_MANAGER.optional()))
async def walking(ctx: InitContext[WalkingConfig]) -> Differ:
    """Tar layers, plain, compressed, or whatever the stream processors make tar of."""

    def choose(media_type: str, candidates: list[str]) -> str | None:
        chosen: str | None = ctx.hooks.orlop_stream_processor(media_type=media_type, candidates=candidates)
        return chosen

    parts = Parts(ctx.get(METADATA).content, ctx.all(STREAM_PROCESSOR), choose, ctx.state)
    from orlop_images.prepared import PreparedDiffer

    return PreparedDiffer(WalkingDiffer(parts, ctx.config), ctx.all(MOUNT_MANAGER))


_: type[Differ] = WalkingDiffer
