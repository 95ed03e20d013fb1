# SPDX-License-Identifier: Apache-2.0
"""Images into archives: OCI layouts as tar streams, which with a ``manifest.json`` are Docker's archives as well.

::

    await export_archive(content, [image], Path("busybox.tar"))

The same images give the same bytes, every time.
"""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from orlop.blocking import Pool
from orlop.errors import FailedPrecondition, InvalidArgument, NotFound
from orlop.interfaces.content import ContentStore
from orlop.values import Descriptor, Image
from orlop_sdk.client.image import (
    DEPTH_LIMIT,
    OCI_INDEX,
    Child,
    Manifest,
    children,
    chunks,
    is_distributable,
    is_index,
    manifests,
    matching,
)
from orlop_sdk.client.platform import Everything, Matcher, Only, default
from orlop_sdk.client.progress import Progress, ProgressCallback, ProgressKind, about, silent
from orlop_sdk.registry.reference import Reference, familiar

IMAGE_NAME: Final = "io.containerd.image.name"
REF_NAME: Final = "org.opencontainers.image.ref.name"
LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'
_BLOCK: Final = 512
_END: Final = bytes(2 * _BLOCK)

#: A file to write: a path, or something with a blocking ``write``.
ArchiveTarget = Path | str | BinaryIO


async def export_archive(
    content: ContentStore,
    images: Sequence[Image],
    target: ArchiveTarget,
    *,
    platforms: Matcher | None = None,
    docker: bool = True,
    progress: ProgressCallback = silent,
) -> None:
    """Write images into one archive. A path is written under another name first, so that no half archive is left.

    *platforms* chooses variants (default: all that are here). Raises `NotFound` for an image of which nothing fits,
    `FailedPrecondition` for one of which blobs are missing.
    """
    export = Export(content, images, platforms or Everything(), docker=docker, progress=progress)
    await write_archive(target, export.stream())


async def write_archive(target: ArchiveTarget, data: AsyncIterable[bytes]) -> None:
    """Write what comes into a file; a path only when *data* has ended without an error."""
    pool = Pool("export", 1)
    try:
        if isinstance(target, Path | str):
            await _write_path(data, Path(target), pool)
        else:
            await _write_file(data, target, pool)
            await pool.run(target.flush)
    finally:
        pool.close()


async def _write_path(data: AsyncIterable[bytes], path: Path, pool: Pool) -> None:
    partial = path.with_name(f"{path.name}.partial")
    opening = asyncio.ensure_future(pool.run(partial.open, "wb"))
    try:
        try:
            # Shielded: the thread goes on, and what it opens has to be closed.
            file = await asyncio.shield(opening)
            await _write_file(data, file, pool)
        finally:
            await pool.run((await opening).close)
        await pool.run(partial.replace, path)
    except BaseException:
        await pool.run(partial.unlink, True)
        raise


async def _write_file(data: AsyncIterable[bytes], file: BinaryIO, pool: Pool) -> None:
    async for chunk in data:
        await pool.run(file.write, chunk)


class Export:
    """Images on their way into an archive."""

    def __init__(
        self,
        content: ContentStore,
        images: Sequence[Image],
        platforms: Matcher,
        *,
        docker: bool = True,
        whole: bool = False,
        restricted: bool = False,
        progress: ProgressCallback = silent,
    ) -> None:
        """*whole* leaves indexes above the variants that fit; *restricted* takes non-distributable layers along."""
        self._content = content
        self._images = images
        self._platforms = platforms
        self._docker = docker
        self._whole = whole
        self._restricted = restricted
        self._progress = progress
        self._blobs: dict[str, Descriptor] = {}

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The bytes of the archive."""
        index, legacy = await self._plan()
        documents = {"index.json": _json(index), "oci-layout": LAYOUT}
        if legacy:
            documents["manifest.json"] = _json(legacy)
        folders = {f"blobs/{each.digest.partition(':')[0]}/" for each in self._blobs.values()}
        for folder in sorted({"blobs/", *folders}):
            yield _header(folder, 0)
        for descriptor in sorted(self._blobs.values(), key=lambda each: each.digest):
            about(self._progress, ProgressKind.EXPORTING, descriptor, 0)
            yield _header(blob_path(descriptor.digest), descriptor.size)
            size = 0
            async for data in chunks(self._content, descriptor):
                size += len(data)
                yield data
            if size != descriptor.size:
                raise FailedPrecondition(f'content "{descriptor.digest}": {size} bytes, not {descriptor.size}')
            yield _padding(size)
            about(self._progress, ProgressKind.EXPORTED, descriptor)
        for name, data in sorted(documents.items()):
            yield _header(name, len(data)) + data + _padding(len(data))
        yield _END

    async def _plan(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        entries: list[dict[str, Any]] = []
        legacy: dict[str, dict[str, Any]] = {}
        for image in self._images:
            self._progress(Progress(ProgressKind.EXPORTING, image.name, descriptor=image.target))
            for target in await self._targets(image):
                await self._visit(Child(target), depth=0)
                entries.append(_entry(target, image))
            if self._docker:
                await self._add_legacy(image, legacy)
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return index, list(legacy.values())

    async def _targets(self, image: Image) -> list[Descriptor]:
        """What of an image goes in: all of it, or the variants that fit."""
        if isinstance(self._platforms, Everything):
            return [image.target]
        if self._whole and not is_index(image.target.media_type):
            return [image.target]  # of an image with one variant, that is all there is to choose from
        found = await manifests(self._content, image.target, self._platforms)
        if not found:
            raise NotFound(f'image "{image.name}": nothing here matches {self._platforms!r}')
        return [image.target] if self._whole else [found[0].descriptor]

    async def _visit(self, child: Child, *, depth: int) -> None:
        descriptor = child.descriptor
        if descriptor.digest in self._blobs:
            return
        if not self._restricted and not is_distributable(descriptor.media_type):
            return
        if depth > DEPTH_LIMIT:
            raise InvalidArgument(f'index "{descriptor.digest}": indexes are nested too deep')
        try:
            await self._content.info(descriptor.digest)
            below = await children(self._content, descriptor)
        except NotFound:
            raise FailedPrecondition(
                f'content "{descriptor.digest}": not here; pull or import all of it first'
            ) from None
        self._blobs[descriptor.digest] = descriptor
        for each in matching(below, self._platforms) if is_index(descriptor.media_type) else below:
            if is_index(descriptor.media_type) and not await self._is_here(each.descriptor):
                continue  # an index may name variants that nobody fetched
            await self._visit(each, depth=depth + 1)

    async def _is_here(self, descriptor: Descriptor) -> bool:
        try:
            await self._content.info(descriptor.digest)
        except NotFound:
            return False
        return True

    async def _add_legacy(self, image: Image, legacy: dict[str, dict[str, Any]]) -> None:
        """Docker's own list of images has room for one variant of each."""
        platforms = Only(default()) if isinstance(self._platforms, Everything) else self._platforms
        found = await manifests(self._content, image.target, platforms)
        found = found or await manifests(self._content, image.target, Everything())
        for manifest in found[:1]:
            entry = legacy.setdefault(manifest.descriptor.digest, _legacy_entry(manifest))
            if _has_tag(image.name):
                entry["RepoTags"].append(familiar(image.name))


def blob_path(digest: str) -> str:
    """Where an OCI layout keeps a blob."""
    algorithm, _, value = digest.partition(":")
    return f"blobs/{algorithm}/{value}"


def _entry(target: Descriptor, image: Image) -> dict[str, Any]:
    annotations = {**target.annotations, IMAGE_NAME: image.name}
    if _has_tag(image.name):
        annotations[REF_NAME] = Reference.parse(image.name).tag
    return {
        "mediaType": target.media_type,
        "digest": target.digest,
        "size": target.size,
        "annotations": dict(sorted(annotations.items())),
    }


def _legacy_entry(manifest: Manifest) -> dict[str, Any]:
    layers = [blob_path(layer.digest) for layer in manifest.layers]
    return {"Config": blob_path(manifest.config.digest), "RepoTags": [], "Layers": layers}


def _has_tag(name: str) -> bool:
    try:
        return bool(Reference.parse(name).tag)
    except InvalidArgument:
        return False


def _json(value: Mapping[str, Any] | Sequence[Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name.rstrip("/"))
    info.size = size
    info.mode = 0o444
    if name.endswith("/"):
        info.type = tarfile.DIRTYPE
        info.mode = 0o755
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)
