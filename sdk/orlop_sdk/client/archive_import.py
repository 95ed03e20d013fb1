# SPDX-License-Identifier: Apache-2.0
"""Images from archives: OCI layouts, and what ``docker save`` writes, old and new.

::

    images = await import_archive(services, Path("busybox.tar"))

An archive is hostile input. It is read once as a stream, nothing is extracted, every blob is verified against the
digest it claims, documents have a limit in size, and links only ever lead to other entries of the archive.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from orlop.blocking import Pool
from orlop.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound, ResourceExhausted
from orlop.values import EMPTY, Descriptor, Image, Labels
from orlop_sdk import digest as digests
from orlop_sdk.client.archive import IMAGE_NAME, REF_NAME
from orlop_sdk.client.archive_read import ArchiveReader, ArchiveSource, Entry
from orlop_sdk.client.image import (
    DEPTH_LIMIT,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    JSON_LIMIT,
    OCI_INDEX,
    OCI_LAYER,
    Child,
    child_labels,
    children,
    chunks,
    is_index,
    matching,
    parse_children,
    parse_json,
)
from orlop_sdk.client.image_services import ImageServices
from orlop_sdk.client.platform import Matcher, Only, default
from orlop_sdk.client.progress import Progress, ProgressCallback, ProgressKind, about, silent
from orlop_sdk.client.pull import store_image
from orlop_sdk.client.transfer import add_labels, ingest, put
from orlop_sdk.client.unpack import UNCOMPRESSED
from orlop_sdk.registry.reference import Reference, normalise

_HEAD: Final = 8
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_MOST_LINKS: Final = 10


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import."""

    name: str = ""
    """What to call an image of which the archive says only the tag (``name:tag``), or nothing."""
    digests: bool = False
    """Give each image a name with its digest too: ``name@sha256:...``."""
    platforms: Matcher = field(default_factory=lambda: Only(default()))
    """Which variants must be complete, and which of them is unpacked afterwards."""
    all_platforms: bool = True
    """Whether variants that do not match are imported as well, as far as they are there."""
    labels: Labels = EMPTY
    """Labels of the image records."""
    limit: int = 0
    """The most bytes that all files of the archive together may have, decompressed; 0 for no limit."""
    compress: bool = False
    """Compress uncompressed layers of Docker's archives with gzip."""


@dataclass(frozen=True, slots=True)
class LoadedArchive:
    """What an archive held, its blobs being in the content store now.

    *images* are annotated with the names that the archive has for them, full ones under ``io.containerd.image.name``.
    *index* is an OCI index of all of them: the archive's own, or one made up for a Docker archive.
    """

    index: bytes
    images: tuple[Descriptor, ...]


async def load_archive(
    services: ImageServices,
    source: ArchiveSource,
    options: ImportOptions | None = None,
    progress: ProgressCallback = silent,
) -> LoadedArchive:
    """All of `import_archive` but the records, and names are the caller's affair."""
    job = await _read(services, source, options, progress)
    return await job.loaded()


async def import_archive(
    services: ImageServices,
    source: ArchiveSource,
    options: ImportOptions | None = None,
    progress: ProgressCallback = silent,
) -> list[Image]:
    """Take in the images of an archive, compressed or not, and return their records.

    Run it under a lease. Raises `DataLoss` for a damaged archive, `InvalidArgument` for one that holds no images or
    something malformed, `ResourceExhausted` for limits, `NotFound` naming a blob that it should have.
    """
    job = await _read(services, source, options, progress)
    return await job.finish()


async def _read(
    services: ImageServices, source: ArchiveSource, options: ImportOptions | None, progress: ProgressCallback
) -> _Import:
    job = _Import(services, options or ImportOptions(), progress)
    async with ArchiveReader(source) as archive:
        async for entry in archive:
            await job.take(entry)
    return job


class _Import:
    """One archive on its way in."""

    def __init__(self, services: ImageServices, options: ImportOptions, progress: ProgressCallback) -> None:
        self._services = services
        self._options = options
        self._progress = progress
        self._documents: dict[str, bytes] = {}
        self._files: dict[str, Descriptor] = {}
        self._links: dict[str, str] = {}
        self._size = 0

    # ---- reading ----------------------------------------------------------------------------------------------------

    async def take(self, entry: Entry) -> None:
        """Take in one entry."""
        self._size += entry.size
        if self._options.limit and self._size > self._options.limit:
            raise ResourceExhausted(f"archive: holds more than {self._options.limit} bytes")
        if entry.link:
            self._links[entry.name] = entry.link
        elif entry.is_file and entry.name in {"oci-layout", "index.json", "manifest.json", "repositories"}:
            self._documents[entry.name] = await entry.read(JSON_LIMIT)
        elif entry.is_file and not entry.name.endswith("/VERSION"):
            self._files[entry.name] = await self._blob(entry)

    async def _blob(self, entry: Entry) -> Descriptor:
        parts = entry.name.split("/")
        if len(parts) == 3 and parts[0] == "blobs":
            digest = f"{parts[1]}:{parts[2]}"
            digests.parse(digest)
            return await self._claimed(entry, Descriptor("", digest, entry.size))
        return await self._unclaimed(entry)

    async def _claimed(self, entry: Entry, descriptor: Descriptor) -> Descriptor:
        """A blob that says what its digest is, so that one which is here already need not be read."""

        async def source(offset: int) -> AsyncIterator[bytes]:
            position = 0
            async for chunk in entry.chunks():
                skip = min(max(offset - position, 0), len(chunk))
                position += len(chunk)
                if skip < len(chunk):
                    yield chunk[skip:]

        await ingest(
            self._services.content, descriptor, source, progress=self._progress, ref=f"tar-{descriptor.digest}"
        )
        return descriptor

    async def _unclaimed(self, entry: Entry) -> Descriptor:
        """A file of an older archive, whose digest shows only at its end."""
        content = self._services.content
        ref = f"tar-{hashlib.sha256(entry.name.encode()).hexdigest()}"
        digest = hashlib.sha256()
        writer = await content.writer(ref, total=entry.size)
        try:
            # What an earlier import left under this ref need not be the same file.
            await writer.truncate(0)
            async for chunk in entry.chunks():
                digest.update(chunk)
                await writer.write(chunk)
            found = Descriptor("", f"sha256:{digest.hexdigest()}", entry.size)
            try:
                await writer.commit(size=entry.size, expected=found.digest)
            except AlreadyExists:
                about(self._progress, ProgressKind.EXISTS, found)
        finally:
            await writer.close()
        about(self._progress, ProgressKind.IMPORTED, found)
        return found

    # ---- making images of it ----------------------------------------------------------------------------------------

    async def finish(self) -> list[Image]:
        """Make image records of what was read."""
        named = self._named(await self._targets()) if self._is_layout() else await self._from_docker()
        images: dict[str, Image] = {}
        for name, target in named:
            await self._complete(target)
            for each in self._names(name, target):
                images[each] = await store_image(self._services, Image(each, target, self._options.labels))
                self._progress(Progress(ProgressKind.IMPORTED, each, descriptor=target))
        if not images:
            raise InvalidArgument("archive: no image in it has a name; give one")
        return list(images.values())

    async def loaded(self) -> LoadedArchive:
        """What was read, complete as far as it must be."""
        if self._is_layout():
            index, targets = self._documents["index.json"], await self._targets()
        else:
            targets = [_annotated(name, target) for name, target in await self._from_docker()]
            index = _index(targets)
        for target in targets:
            await self._complete(target)
        return LoadedArchive(index, tuple(targets))

    def _is_layout(self) -> bool:
        if "oci-layout" in self._documents and "index.json" in self._documents:
            return True
        if "manifest.json" in self._documents:
            return False
        raise InvalidArgument("archive: neither an OCI layout (index.json) nor a Docker archive (manifest.json)")

    def _names(self, name: str, target: Descriptor) -> list[str]:
        names = [name] if name else []
        if self._options.digests:
            base = (Reference.parse(name).locator if name else "") or self._options.name
            if base:
                names.append(f"{base}@{target.digest}")
        return names

    async def _targets(self) -> list[Descriptor]:
        """What a layout's index names."""
        version = parse_json(self._documents["oci-layout"], "oci-layout").get("imageLayoutVersion")
        if version != "1.0.0":
            raise InvalidArgument(f'archive: OCI layout of version "{version}"; only 1.0.0 is known')
        index = parse_json(self._documents["index.json"], "index.json")
        return [await self._sized(child.descriptor) for child in parse_children(index, OCI_INDEX)]

    def _named(self, targets: Iterable[Descriptor]) -> list[tuple[str, Descriptor]]:
        named = [(self._name_of(target.annotations), replace(target, annotations=EMPTY)) for target in targets]
        if len(named) == 1 and not named[0][0] and self._options.name:
            named = [(_with_tag(self._options.name), named[0][1])]
        return named

    def _name_of(self, annotations: Mapping[str, str]) -> str:
        name = annotations.get(IMAGE_NAME, "")
        if name:
            return str(Reference.parse(name))
        ref = annotations.get(REF_NAME, "")
        if not ref:
            return ""
        try:
            return str(Reference.parse(ref))
        except InvalidArgument:
            base = self._options.name
            return str(Reference.parse(f"{base}:{ref}")) if base else ""

    async def _sized(self, descriptor: Descriptor) -> Descriptor:
        """The descriptor, if its blob is here and of that size."""
        info = await self._services.content.info(descriptor.digest)
        if info.size != descriptor.size:
            raise DataLoss(f'content "{descriptor.digest}": {info.size} bytes, but described as {descriptor.size}')
        return descriptor

    async def _complete(self, target: Descriptor) -> None:
        """Label everything below *target* so that it stays, and see that what must be there is."""
        await self._label(Child(target), depth=0, needed=True)

    async def _label(self, child: Child, *, depth: int, needed: bool) -> bool:
        descriptor = child.descriptor
        if depth > DEPTH_LIMIT:
            raise InvalidArgument(f'index "{descriptor.digest}": indexes are nested too deep')
        try:
            await self._services.content.info(descriptor.digest)
        except NotFound:
            if needed:
                raise NotFound(f'archive: content "{descriptor.digest}" is not in it') from None
            return False
        below = await children(self._services.content, descriptor)
        wanted = below
        if is_index(descriptor.media_type):
            wanted = matching(below, self._options.platforms)
            if self._options.all_platforms:
                wanted = below
        for each in wanted:
            optional = is_index(descriptor.media_type)
            await self._label(each, depth=depth + 1, needed=needed and not optional)
        await add_labels(self._services.content, descriptor.digest, child_labels(below))
        return True

    # ---- docker save ------------------------------------------------------------------------------------------------

    async def _from_docker(self) -> list[tuple[str, Descriptor]]:
        try:
            entries = json.loads(self._documents["manifest.json"])
        except (ValueError, RecursionError):
            entries = None
        if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
            raise InvalidArgument("archive: manifest.json is not a list of images")
        named: list[tuple[str, Descriptor]] = []
        for entry in entries:
            target = await self._docker_image(entry)
            tags = entry.get("RepoTags") or []
            if not isinstance(tags, list):
                raise InvalidArgument("archive: RepoTags of manifest.json must be a list")
            names = [normalise(str(tag)) for tag in tags]
            if not names and self._options.name:
                names = [_with_tag(self._options.name)]
            named += [(name, target) for name in names or [""]]
        return named

    async def _docker_image(self, entry: Mapping[str, Any]) -> Descriptor:
        names = entry.get("Layers") or []
        if not isinstance(names, list) or not isinstance(entry.get("Config"), str):
            raise InvalidArgument("archive: an image of manifest.json lacks Config or Layers")
        config = replace(self._file(entry["Config"]), media_type=DOCKER_CONFIG)
        layers = [await self._layer(str(name)) for name in names]
        manifest = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": _descriptor(config),
            "layers": [_descriptor(layer) for layer in layers],
        }
        data = json.dumps(manifest, separators=(",", ":")).encode()
        target = Descriptor(DOCKER_MANIFEST, digests.of(data), len(data))
        await put(self._services.content, target, data, child_labels(parse_children(manifest, DOCKER_MANIFEST)))
        return target

    async def _layer(self, name: str) -> Descriptor:
        found = self._file(name)
        reader = await self._services.content.reader(found)
        try:
            head = await reader.read_at(0, min(_HEAD, reader.size))
        finally:
            await reader.close()
        media_type = DOCKER_LAYER
        if self._options.compress and not head.startswith((_GZIP, _ZSTD)):
            return replace(await self._compressed(found), media_type=DOCKER_LAYER_GZIP)
        if head.startswith(_GZIP):
            media_type = DOCKER_LAYER_GZIP
        elif head.startswith(_ZSTD):
            media_type = f"{OCI_LAYER}+zstd"
        return replace(found, media_type=media_type)

    async def _compressed(self, plain: Descriptor) -> Descriptor:
        """The same layer compressed, as another blob; the same bytes every time."""
        content = self._services.content
        writer = await content.writer(f"gzip-{plain.digest}")
        pool = Pool("compress", 1)
        squeeze = zlib.compressobj(wbits=31)
        size = 0
        try:
            await writer.truncate(0)
            async for chunk in chunks(content, plain):
                data = await pool.run(squeeze.compress, chunk)
                size += len(data)
                await writer.write(data)
            data = await pool.run(squeeze.flush)
            size += len(data)
            await writer.write(data)
            await writer.status()  # a remote writer knows the digest of all that was written from then on
            found = Descriptor("", writer.digest(), size)
            with suppress(AlreadyExists):
                await writer.commit(size=size, expected=found.digest, labels={UNCOMPRESSED: plain.digest})
            return found
        finally:
            await writer.close()
            pool.close()

    def _file(self, name: str) -> Descriptor:
        """A file of the archive by its name, through links to others."""
        at = name
        for _ in range(_MOST_LINKS):
            if at in self._files:
                return self._files[at]
            if at not in self._links:
                raise NotFound(f'archive: "{name}" is not in it')
            at = self._links[at]
        raise InvalidArgument(f'archive entry "{name}": links lead in a circle')


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size}


def _annotated(name: str, target: Descriptor) -> Descriptor:
    if not name:
        return target
    tag = Reference.parse(name).object
    return replace(target, annotations={IMAGE_NAME: name} | ({REF_NAME: tag} if tag else {}))


def _index(targets: Iterable[Descriptor]) -> bytes:
    entries = [_descriptor(each) | {"annotations": dict(each.annotations)} for each in targets]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def _with_tag(name: str) -> str:
    reference = Reference.parse(name)
    return str(reference if reference.object else replace(reference, tag="latest"))
