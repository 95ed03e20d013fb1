# SPDX-License-Identifier: Apache-2.0
"""Images as they lie in a content store: indexes, manifests, configurations, and what refers to what.

::

    manifest = await read_manifest(content, image.target, matcher("linux/amd64"))
    config = await read_json(content, manifest.config)
    print(chain_ids(diff_ids(config))[-1])
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from orlop.errors import DataLoss, InvalidArgument, NotFound, ResourceExhausted
from orlop.interfaces.content import ContentReader, ContentStore
from orlop.values import Descriptor, Platform
from orlop_sdk import digest as digests
from orlop_sdk.client.platform import Matcher, normalise, render
from orlop_sdk.rpc.channel import closing

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
EROFS_LAYER: Final = "application/vnd.erofs.layer.v1"

INDEX_TYPES: Final = frozenset((OCI_INDEX, DOCKER_LIST))
MANIFEST_TYPES: Final = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
CONFIG_TYPES: Final = frozenset((OCI_CONFIG, DOCKER_CONFIG))

#: The longest JSON document that is read into memory (bytes).
JSON_LIMIT: Final = 20 << 20
#: The deepest that indexes may lie within indexes.
DEPTH_LIMIT: Final = 8
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Child:
    """Something that a manifest or index refers to."""

    descriptor: Descriptor
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """One variant of an image: its configuration and layers, lowest first."""

    descriptor: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """Which of an image's blobs are there, for the platforms asked for."""

    required: tuple[Descriptor, ...] = ()
    present: tuple[Descriptor, ...] = ()
    missing: tuple[Descriptor, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    @property
    def size(self) -> int:
        """Bytes of what is there."""
        return sum(each.size for each in self.present)


@runtime_checkable
class ChunkReader(Protocol):
    """Optional power of a reader: hand out a blob in one go, without a call for each chunk."""

    def chunks(self, offset: int = 0, size: int = 0) -> AsyncIterator[bytes]:
        """The bytes from *offset*; *size* 0 is all of them."""
        ...


def is_index(media_type: str) -> bool:
    """Whether it is a list of manifests."""
    return media_type in INDEX_TYPES


def is_manifest(media_type: str) -> bool:
    """Whether it is the manifest of one image."""
    return media_type in MANIFEST_TYPES


def is_layer(media_type: str) -> bool:
    """Whether it is a layer of a file system, of whatever compression or encryption."""
    base = media_type.partition("+")[0]
    return base.startswith((OCI_LAYER, "application/vnd.oci.image.layer.nondistributable.v1.tar", EROFS_LAYER)) or (
        base.startswith((DOCKER_LAYER, "application/vnd.docker.image.rootfs.foreign.diff.tar"))
    )


def is_distributable(media_type: str) -> bool:
    """Whether its licence lets it be pushed."""
    return "nondistributable" not in media_type and ".foreign." not in media_type


async def chunks(content: ContentStore, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes, None]:
    """The bytes of a blob from *offset*. Raises `NotFound`."""
    reader: ContentReader = await content.reader(descriptor)
    try:
        if isinstance(reader, ChunkReader):
            async with closing(reader.chunks(offset)) as stream:
                async for chunk in stream:
                    yield chunk
            return
        while offset < reader.size:
            chunk = await reader.read_at(offset, _CHUNK)
            if not chunk:
                raise DataLoss(f'content "{descriptor.digest}": ended early at {offset} of {reader.size} bytes')
            offset += len(chunk)
            yield chunk
    finally:
        await reader.close()


async def read_all(content: ContentStore, descriptor: Descriptor, limit: int = JSON_LIMIT) -> bytes:
    """All of a small blob. Raises `NotFound`, and `ResourceExhausted` when it is longer than *limit* bytes."""
    reader = await content.reader(descriptor)
    try:
        if reader.size > limit:
            raise ResourceExhausted(f'content "{descriptor.digest}": {reader.size} bytes, the most is {limit}')
        data = await reader.read_at(0, reader.size)
    finally:
        await reader.close()
    return data


async def read_json(content: ContentStore, descriptor: Descriptor) -> dict[str, Any]:
    """A blob that is a JSON object. Raises `NotFound`, `InvalidArgument`."""
    return parse_json(await read_all(content, descriptor), descriptor.digest)


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """A JSON object. Raises `InvalidArgument` for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidArgument(f'content "{name}": not a JSON object')
    return value


def parse_descriptor(value: object) -> Descriptor:
    """A descriptor of a JSON document. Raises `InvalidArgument` for one that is none."""
    if not isinstance(value, dict):
        raise InvalidArgument("descriptor: not a JSON object")
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    annotations = value.get("annotations")
    annotations = {} if annotations is None else annotations
    if not isinstance(media_type, str) or not isinstance(digest, str) or not isinstance(annotations, dict):
        raise InvalidArgument("descriptor: mediaType and digest must be strings, annotations an object")
    digests.parse(digest)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
        raise InvalidArgument(f'descriptor "{digest}": size must be a number from 0 on')
    return Descriptor(media_type, digest, size, {str(key): str(item) for key, item in annotations.items()})


def parse_platform(value: object) -> Platform | None:
    """A platform of a JSON document, normalised; None where there is none."""
    if not isinstance(value, dict) or not value.get("architecture"):
        return None
    features = value.get("os.features")
    return normalise(
        Platform(
            os=str(value.get("os") or "linux"),
            architecture=str(value["architecture"]),
            variant=str(value.get("variant") or ""),
            os_version=str(value.get("os.version") or ""),
            os_features=tuple(map(str, features)) if isinstance(features, list) else (),
        )
    )


def parse_children(document: Mapping[str, Any], media_type: str) -> list[Child]:
    """What a manifest (configuration first, then layers) or an index refers to; nothing for any other media type.

    Raises `InvalidArgument` for a document that is malformed, or that claims to be two things at once.
    """
    if is_manifest(media_type):
        if "manifests" in document:
            raise InvalidArgument("manifest: has manifests too, so that readers may disagree on what it is; refused")
        entries = [document.get("config"), *_list(document, "layers")]
    elif is_index(media_type):
        if "config" in document or "layers" in document:
            raise InvalidArgument("index: has layers too, so that readers may disagree on what it is; refused")
        entries = _list(document, "manifests")
    else:
        return []
    return [
        Child(parse_descriptor(entry), parse_platform(entry.get("platform") if isinstance(entry, dict) else None))
        for entry in entries
    ]


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidArgument(f"manifest: {key} must be a list")
    return value


async def children(content: ContentStore, descriptor: Descriptor) -> list[Child]:
    """What a blob refers to; nothing for anything but manifests and indexes. Raises `NotFound`."""
    if not is_manifest(descriptor.media_type) and not is_index(descriptor.media_type):
        return []
    return parse_children(await read_json(content, descriptor), descriptor.media_type)


async def manifests(content: ContentStore, target: Descriptor, wanted: Matcher) -> list[Manifest]:
    """The variants of an image that match, best first, as far as their manifests are there.

    Raises `NotFound` when *target* itself is not.
    """
    found: list[tuple[int, Manifest]] = []
    await _collect(content, Child(target), wanted, found, depth=0)
    return [manifest for _, manifest in sorted(found, key=lambda each: each[0])]


async def _collect(
    content: ContentStore, child: Child, wanted: Matcher, found: list[tuple[int, Manifest]], *, depth: int
) -> None:
    if depth > DEPTH_LIMIT:
        raise InvalidArgument(f'index "{child.descriptor.digest}": indexes are nested too deep')
    if is_index(child.descriptor.media_type):
        for entry in await children(content, child.descriptor):
            if entry.platform is not None and wanted.rank(entry.platform) is None:
                continue
            try:
                await _collect(content, entry, wanted, found, depth=depth + 1)
            except NotFound:
                continue  # only some variants of an image need to be here
        return
    parsed = await children(content, child.descriptor)
    if not parsed:
        return
    config = parsed[0].descriptor
    platform = child.platform
    if platform is None and config.media_type in CONFIG_TYPES:
        platform = parse_platform(await read_json(content, config))
    rank = wanted.rank(platform) if platform else None
    if rank is not None:
        layers = tuple(each.descriptor for each in parsed[1:])
        found.append((rank, Manifest(child.descriptor, config, layers, platform)))


async def read_manifest(content: ContentStore, target: Descriptor, wanted: Matcher) -> Manifest:
    """The variant of an image that matches best.

    Raises `NotFound` with the platforms that there are when none matches or its content is not there.
    """
    found = await manifests(content, target, wanted)
    if found:
        return found[0]
    offered = [each.platform for each in await children(content, target) if each.platform]
    names = ", ".join(sorted({render(each) for each in offered})) or "none that can be told"
    raise NotFound(f'image content "{target.digest}": no manifest for {wanted!r} here; it has {names}')


def diff_ids(config: Mapping[str, Any]) -> list[str]:
    """Digests of the uncompressed layers, lowest first. Raises `InvalidArgument` for a malformed configuration."""
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InvalidArgument("image configuration: rootfs.diff_ids must be a list of digests")
    for each in found:
        digests.parse(each)
    return found


def chain_ids(ids: Sequence[str]) -> list[str]:
    """The identity of each layer with all below it (OCI image-spec, config.md): names of committed snapshots."""
    chain: list[str] = []
    for each in ids:
        chain.append("sha256:" + hashlib.sha256(f"{chain[-1]} {each}".encode()).hexdigest() if chain else each)
    return chain


def child_labels(found: Iterable[Child]) -> dict[str, str]:
    """Labels that let a parent keep its children from garbage collection."""
    counts: dict[str, int] = {}
    labels: dict[str, str] = {}
    for child in found:
        media_type = child.descriptor.media_type
        key = "containerd.io/gc.ref.content."
        if media_type in CONFIG_TYPES:
            key += "config"
        elif is_manifest(media_type) or is_index(media_type):
            key += "m."
        elif is_layer(media_type):
            key += "l."
        index = counts.get(key, 0)
        counts[key] = index + 1
        labels[f"{key}{index}" if key.endswith(".") else key] = child.descriptor.digest
    return labels


async def check(content: ContentStore, target: Descriptor, wanted: Matcher) -> ImageStatus:
    """Which blobs of the matching variants are there. What a missing manifest would need cannot be told."""
    required: dict[str, Descriptor] = {}
    missing: dict[str, Descriptor] = {}
    pending: list[tuple[Child, int]] = [(Child(target), 0)]
    while pending:
        child, depth = pending.pop()
        descriptor = child.descriptor
        if descriptor.digest in required or depth > DEPTH_LIMIT:
            continue
        required[descriptor.digest] = descriptor
        try:
            await content.info(descriptor.digest)
            below = await children(content, descriptor)
        except NotFound:
            missing[descriptor.digest] = descriptor
            continue
        if is_index(descriptor.media_type):
            below = matching(below, wanted)
        pending += [(each, depth + 1) for each in reversed(below)]
    present = tuple(each for digest, each in required.items() if digest not in missing)
    return ImageStatus(tuple(required.values()), present, tuple(missing.values()))


def matching(found: Sequence[Child], wanted: Matcher) -> list[Child]:
    """The children of an index that match; those without a platform may, and stay."""
    return [each for each in found if each.platform is None or wanted.rank(each.platform) is not None]
