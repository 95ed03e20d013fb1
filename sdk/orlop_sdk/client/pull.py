# SPDX-License-Identifier: Apache-2.0
"""Pull an image: resolve it, fetch what is missing, and unpack each layer while the next ones still come.

::

    image = await pull(services, "docker.io/library/busybox:latest", PullOptions(resolver, snapshotter="overlayfs"))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from orlop.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound, ResourceExhausted
from orlop.values import EMPTY, Descriptor, Image, Labels
from orlop_sdk import digest as digests
from orlop_sdk.client.image import (
    DEPTH_LIMIT,
    JSON_LIMIT,
    Child,
    Manifest,
    child_labels,
    is_index,
    is_manifest,
    parse_children,
    parse_json,
    read_all,
    read_manifest,
)
from orlop_sdk.client.image import matching as matching_children
from orlop_sdk.client.image_services import ImageServices
from orlop_sdk.client.platform import Matcher, Only, default
from orlop_sdk.client.progress import Progress, ProgressCallback, ProgressKind, about, silent
from orlop_sdk.client.transfer import check_concurrency, first_of, ingest, put, source_label
from orlop_sdk.client.unpack import Unpacker, UnpackOptions
from orlop_sdk.registry.interface import Fetcher, Resolver
from orlop_sdk.registry.reference import Reference
from orlop_sdk.rpc.channel import closing

#: The most manifests that an index, with all indexes in it, may name.
MANIFEST_COUNT: Final = 1000


@dataclass(frozen=True, slots=True)
class PullOptions:
    """How to pull."""

    resolver: Resolver
    platforms: Matcher = field(default_factory=lambda: Only(default()))
    """Which variants to fetch. The best of them is unpacked."""
    snapshotter: str = ""
    """Where to unpack; empty to fetch only."""
    labels: Labels = EMPTY
    """Labels of the image record."""
    one_variant: bool = True
    """Fetch only the best variant that matches; False fetches all that do, or `limit` of them."""
    downloads: int = 3
    """Blobs that are fetched at a time."""
    unpack: UnpackOptions = field(default_factory=UnpackOptions)
    progress: ProgressCallback = silent
    all_layers: bool = False
    """Fetch also layers whose snapshots exist already, as a later push needs them."""
    limit: int = 0
    """The most variants to fetch where several are wanted, best first; 0 for no limit."""
    all_metadata: bool = False
    """Fetch manifests and configurations of the other variants as well, without their layers."""
    any_single: bool = False
    """Take an image that has one variant only for whatever platform that is."""
    unpackers: Callable[[Manifest], Sequence[Unpacker]] | None = None
    """Who unpacks a variant, instead of *snapshotter* the best one."""


async def pull(services: ImageServices, reference: str, options: PullOptions) -> Image:
    """Pull an image under its full reference and return its record.

    Run it under a lease, or garbage collection may take what has no image yet. What was fetched stays after a failure,
    and the next attempt goes on from there. Raises what the resolver raises, and `DataLoss` for content that is not
    what it should be.
    """
    target = await fetch_image(services, reference, options)
    image = await store_image(services, Image(str(reference), target, options.labels))
    options.progress(Progress(ProgressKind.DONE, reference, descriptor=target))
    return image


async def fetch_image(services: ImageServices, reference: str, options: PullOptions) -> Descriptor:
    """All of `pull` but the record: fetch and unpack, and return what the reference stands for."""
    check_concurrency(options.downloads, "downloads")
    parsed = Reference.parse(reference)
    options.progress(Progress(ProgressKind.RESOLVING, reference))
    resolved = await options.resolver.resolve(reference)
    options.progress(Progress(ProgressKind.RESOLVED, reference, descriptor=resolved.descriptor))
    fetcher = await options.resolver.fetcher(resolved.name)
    fetch = _Fetch(services, fetcher, parsed, options)
    manifests = await fetch.documents(resolved.descriptor)
    if not manifests:
        raise NotFound(f'image "{reference}": nothing in it matches {options.platforms!r}')
    await fetch.rest(manifests)
    return resolved.descriptor


async def store_image(services: ImageServices, image: Image) -> Image:
    """Create the record, or make the one of this name point to the new target."""
    for _ in range(3):
        try:
            return await services.images.create(image)
        except AlreadyExists:
            paths = ["target", *(f"labels.{key}" for key in image.labels)]
            try:
                return await services.images.update(image, paths)
            except NotFound:
                continue  # deleted between the two calls
    raise AlreadyExists(f'image "{image.name}": somebody else keeps creating and deleting it')


class _Fetch:
    """Fetches one image."""

    def __init__(self, services: ImageServices, fetcher: Fetcher, reference: Reference, options: PullOptions) -> None:
        self._services = services
        self._fetcher = fetcher
        self._options = options
        self._source = source_label(reference.host, reference.repository)
        self._slots = asyncio.Semaphore(options.downloads)
        self._blobs: dict[str, asyncio.Task[None]] = {}
        self._count = 0

    async def documents(self, target: Descriptor) -> list[Manifest]:
        """Fetch indexes and manifests down from *target*, and return the manifests that match, best first."""
        found = await self._document(Child(target), depth=0)
        found.sort(key=lambda each: each[0])
        return [manifest for _, manifest in found[: self._most]]

    async def _document(self, child: Child, *, depth: int) -> list[tuple[int, Manifest]]:
        descriptor = child.descriptor
        children = await self._expand(descriptor, depth)
        if is_manifest(descriptor.media_type):
            rank = 0 if depth == 0 and self._options.any_single else await self._rank(child, children)
            layers = tuple(each.descriptor for each in children[1:])
            manifest = Manifest(descriptor, children[0].descriptor, layers, child.platform)
            return [] if rank is None else [(rank, manifest)]
        found: list[tuple[int, Manifest]] = []
        chosen = self._chosen(children)
        for each in chosen:
            found += await self._document(each, depth=depth + 1)
        for each in children if self._options.all_metadata else ():
            if each not in chosen:
                await self._metadata(each.descriptor, depth=depth + 1)
        return found

    async def _metadata(self, descriptor: Descriptor, *, depth: int) -> None:
        """Fetch what describes a variant that is not wanted itself."""
        children = await self._expand(descriptor, depth)
        if is_manifest(descriptor.media_type):
            await self.blob(children[0].descriptor)
            return
        for each in children:
            await self._metadata(each.descriptor, depth=depth + 1)

    async def _expand(self, descriptor: Descriptor, depth: int) -> list[Child]:
        """Fetch an index or manifest and return what it refers to; nothing for anything else within an image."""
        self._count += 1
        if depth > DEPTH_LIMIT or self._count > MANIFEST_COUNT:
            raise ResourceExhausted(f'index "{descriptor.digest}": too many manifests, or nested too deep')
        if not is_index(descriptor.media_type) and not is_manifest(descriptor.media_type):
            if depth == 0:
                raise InvalidArgument(f'content "{descriptor.digest}": of type "{descriptor.media_type}" is no image')
            return []
        data = await self._small(descriptor)
        children = parse_children(parse_json(data, descriptor.digest), descriptor.media_type)
        fresh = await put(self._services.content, descriptor, data, self._source | child_labels(children))
        below = tuple(each.descriptor for each in children)
        size = descriptor.size
        self._options.progress(
            Progress(ProgressKind.EXPANDED, descriptor.digest, size if fresh else 0, size, descriptor, below)
        )
        return children

    @property
    def _most(self) -> int | None:
        """How many variants are wanted; None for all."""
        return 1 if self._options.one_variant else self._options.limit or None

    def _chosen(self, children: list[Child]) -> list[Child]:
        """The entries of an index to look at: those that match, and of those only the best where few are wanted."""
        chosen = matching_children(children, self._options.platforms)
        rank = self._options.platforms.rank
        ranks = ((rank(each.platform), index) for index, each in enumerate(chosen) if each.platform)
        ranked = sorted((value, index) for value, index in ranks if value is not None)
        nested = any(is_index(each.descriptor.media_type) for each in chosen)
        if self._most is None or not ranked or nested:
            return chosen
        return [chosen[index] for _, index in ranked[: self._most]]

    async def _rank(self, child: Child, children: list[Child]) -> int | None:
        if child.platform is not None:
            return self._options.platforms.rank(child.platform)
        # Only the configuration tells; a manifest that stands alone is taken for whatever was asked.
        config = children[0].descriptor
        await self.blob(config)
        try:
            manifest = await read_manifest(self._services.content, child.descriptor, self._options.platforms)
        except NotFound:
            return None
        return self._options.platforms.rank(manifest.platform) if manifest.platform else None

    async def _small(self, descriptor: Descriptor) -> bytes:
        try:
            return await read_all(self._services.content, descriptor)
        except NotFound:
            if descriptor.size > JSON_LIMIT:
                raise ResourceExhausted(
                    f'manifest "{descriptor.digest}": {descriptor.size} bytes, the most is {JSON_LIMIT}'
                ) from None
        async with closing(self._fetcher.fetch(descriptor)) as stream:
            data = b"".join([chunk async for chunk in stream])
        algorithm, _ = digests.parse(descriptor.digest)
        if digests.of(data, algorithm) != descriptor.digest:
            raise DataLoss(f'manifest "{descriptor.digest}": the registry sent something else')
        return data

    async def rest(self, manifests: list[Manifest]) -> None:
        """Fetch configurations and layers of these manifests, and unpack the first of them if that is wanted."""
        try:
            async with asyncio.TaskGroup() as group:
                for manifest in manifests:
                    if unpackers := self._unpackers(manifest, best=manifest is manifests[0]):
                        group.create_task(self._unpack(manifest, unpackers))
                    else:
                        for each in (manifest.config, *manifest.layers):
                            group.create_task(self.blob(each))
        except BaseExceptionGroup as errors:
            raise first_of(errors) from errors
        finally:
            await self._cancel()

    def _unpackers(self, manifest: Manifest, *, best: bool) -> Sequence[Unpacker]:
        options = self._options
        if options.unpackers is not None:
            return options.unpackers(manifest)
        if not best or not options.snapshotter:
            return ()
        return (Unpacker(self._services, options.snapshotter, options.unpack, options.progress),)

    async def _unpack(self, manifest: Manifest, unpackers: Sequence[Unpacker]) -> None:
        await self.blob(manifest.config)
        if self._options.all_layers:
            self._start(manifest.layers)

        async def ready(layer: Descriptor) -> None:
            # From the first layer that has to be applied on, all are fetched at once.
            self._start(manifest.layers[manifest.layers.index(layer) :])
            await self.blob(layer)

        for unpacker in unpackers:
            await unpacker.unpack(manifest, ready)
        await asyncio.gather(*self._blobs.values())

    def _start(self, descriptors: tuple[Descriptor, ...]) -> None:
        for descriptor in descriptors:
            if descriptor.digest not in self._blobs:
                self._blobs[descriptor.digest] = asyncio.create_task(self._fetch(descriptor))

    async def blob(self, descriptor: Descriptor) -> None:
        """Fetch a blob unless it is there or under way, and return when it is there."""
        self._start((descriptor,))
        # Shielded: others may wait for the same blob.
        await asyncio.shield(self._blobs[descriptor.digest])

    async def _fetch(self, descriptor: Descriptor) -> None:
        def source(offset: int) -> AsyncIterator[bytes]:
            return self._fetcher.fetch(descriptor, offset=offset)

        if self._slots.locked():
            about(self._options.progress, ProgressKind.WAITING, descriptor, 0)
        async with self._slots:
            await ingest(
                self._services.content, descriptor, source, labels=self._source, progress=self._options.progress
            )

    async def _cancel(self) -> None:
        for task in self._blobs.values():
            task.cancel()
        await asyncio.gather(*self._blobs.values(), return_exceptions=True)
