# SPDX-License-Identifier: Apache-2.0
"""Transfers between the places that the daemon knows. Each is the client library at work on the daemon's own stores."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from google.protobuf.message import Message

from orlop.errors import InvalidArgument, NotFound, Unimplemented
from orlop.interfaces.streaming import Stream, StreamManager
from orlop.interfaces.transfer import ProgressTold, TransferProgress
from orlop.values import AnyMessage, Descriptor, Platform
from orlop_images.transfer import names
from orlop_images.transfer.plugin import Parts
from orlop_images.transfer.progress import Tracker
from orlop_images.transfer.unpacking import Choice, Unpacking
from orlop_sdk import digest as digests
from orlop_sdk.api.types.transfer.imagestore_pb2 import ImageStore
from orlop_sdk.api.types.transfer.importexport_pb2 import ImageExportStream, ImageImportStream
from orlop_sdk.api.types.transfer.registry_pb2 import OCIRegistry
from orlop_sdk.bytestream import receive_bytes, send_bytes
from orlop_sdk.client.archive import Export
from orlop_sdk.client.archive_import import ImportOptions, LoadedArchive, load_archive
from orlop_sdk.client.image import OCI_INDEX, Child, Manifest, child_labels, manifests
from orlop_sdk.client.image_services import ImageServices
from orlop_sdk.client.lease import ensured
from orlop_sdk.client.platform import AnyOf, Everything, Matcher, Only, default
from orlop_sdk.client.pull import PullOptions, fetch_image
from orlop_sdk.client.push import PushOptions, push
from orlop_sdk.client.transfer import put
from orlop_sdk.convert.common import message_name, platform_from_wire, unpack

#: So many at a time where the config sets no limit.
_UNLIMITED: Final = 1000


async def transfer(
    parts: Parts, source: AnyMessage, destination: AnyMessage, streams: StreamManager, progress: ProgressTold
) -> None:
    """See `orlop.interfaces.transfer.Transferrer`."""
    kinds = message_name(source.type_url), message_name(destination.type_url)
    found = _PAIRS.get(kinds)
    if found is None:
        raise Unimplemented(f'transfer from "{kinds[0]}" to "{kinds[1]}": not known here')
    job, first, second = found
    ends: tuple[Any, Any] = unpack(source, first), unpack(destination, second)
    metadata = parts.metadata
    services = ImageServices(metadata.content, metadata.images, metadata.leases, metadata.snapshotters, parts.diff)
    async with AsyncExitStack() as stack:
        await job(_Transfer(parts, services, streams, progress, stack), *ends)


@dataclass(frozen=True, slots=True)
class _Transfer:
    """One transfer. What is put on *stack* is undone at its end, however that comes."""

    parts: Parts
    services: ImageServices
    streams: StreamManager
    tell: ProgressTold
    stack: AsyncExitStack

    # ---- registries -------------------------------------------------------------------------------------------------

    async def pull(self, registry: OCIRegistry, store: ImageStore) -> None:
        registries = _registries()
        place = f"OCI Registry ({registry.reference})"
        config = self.parts.config
        async with Tracker(registry.reference, self.tell) as tracker:
            choice = self._unpacking(registry.reference, tracker).choice(store.unpacks)
            await self._lease()
            resolver = await self.stack.enter_async_context(registries.opened(registry, config, self.streams))
            self._say(f"Resolving from {place}")

            def agreed() -> None:
                self._say(f"Pulling from {place}")
                self._say("fetching image content", registry.reference)

            options = PullOptions(
                registries.VerifiedResolver(resolver, self.parts, agreed),
                _matcher([platform_from_wire(each) for each in store.platforms]),
                one_variant=False,
                limit=store.manifest_limit,
                all_metadata=store.all_metadata,
                any_single=True,
                downloads=config.max_concurrent_downloads or _UNLIMITED,
                progress=tracker.arrived,
                unpackers=choice or _nobody,
            )
            target = await fetch_image(self.services, registry.reference, options)
        await self._store(target, names.direct(store, target.digest))
        self._say(f"Completed pull from {place}")

    async def push(self, store: ImageStore, registry: OCIRegistry) -> None:
        registries = _registries()
        place = f"OCI Registry ({registry.reference})"
        config = self.parts.config
        image = await self.services.images.get(store.name)
        async with Tracker(image.name, self.tell) as tracker:
            await self._lease()
            resolver = await self.stack.enter_async_context(registries.opened(registry, config, self.streams))
            self._say(f"Pushing to {place}")
            self._say("pushing content", image.name, image.target)
            options = PushOptions(
                resolver,
                _matcher([platform_from_wire(each) for each in store.platforms]),
                uploads=config.max_concurrent_uploaded_layers or _UNLIMITED,
                progress=tracker.news,
            )
            pushed = await push(self.services, registry.reference, image.target, options)
        self._say("pushed content", image.name, pushed)
        self._say(f"Completed push to {place}", descriptor=pushed)

    # ---- archives ---------------------------------------------------------------------------------------------------

    async def import_(self, archive: ImageImportStream, store: ImageStore) -> None:
        stream = await self._stream(archive.stream)
        wanted = _matcher([platform_from_wire(each) for each in store.platforms])
        async with Tracker("archive", self.tell) as tracker:
            choice = self._unpacking(store.name or "archive", tracker).choice(store.unpacks)
            await self._lease()
            self._say("Importing")
            options = ImportOptions(
                platforms=wanted,
                all_platforms=store.all_metadata or not store.platforms,
                compress=archive.force_compress,
            )
            chunks = await self.stack.enter_async_context(aclosing(receive_bytes(stream)))
            loaded = await load_archive(self.services, chunks, options)
            await self._unpack_all(loaded, wanted, choice)
        # An image without a name that fits is left out, and that is no failure.
        await self._store_index(loaded, store)
        for target in loaded.images:
            await self._store(target, names.annotated(store, target))
        self._say("Completed import")

    async def _unpack_all(self, loaded: LoadedArchive, wanted: Matcher, choice: Choice | None) -> None:
        if choice is None:
            return
        content = self.services.content
        found: dict[str, Manifest] = {}
        for target in loaded.images:
            for manifest in await manifests(content, target, wanted):
                found.setdefault(manifest.descriptor.digest, manifest)
        if not found:
            raise NotFound(f"archive: nothing in it matches {wanted!r}")
        for manifest in found.values():
            for unpacker in choice(manifest):
                await unpacker.unpack(manifest)

    async def _store_index(self, loaded: LoadedArchive, store: ImageStore) -> None:
        """Keep the archive's index as an image of its own, if that is given a name."""
        target = Descriptor(OCI_INDEX, digests.of(loaded.index), len(loaded.index))
        named = names.direct(store, target.digest)
        if not named:
            return
        labels = child_labels(Child(each) for each in loaded.images)
        await put(self.services.content, target, loaded.index, labels)
        await self._store(target, named)

    async def export(self, store: ImageStore, archive: ImageExportStream) -> None:
        stream = await self._stream(archive.stream)
        await self._lease()
        self._say("Exporting")
        images = [await self.services.images.get(name) for name in _sources(store)]
        platforms = [platform_from_wire(each) for each in archive.platforms] or [default()]
        async with Tracker(images[0].name, self.tell) as tracker:
            export = Export(
                self.services.content,
                images,
                Everything() if archive.all_platforms else _matcher(platforms),
                docker=not archive.skip_compatibility_manifest,
                whole=True,
                restricted=not archive.skip_non_distributable,
                progress=tracker.news,
            )
            async with aclosing(export.stream()) as chunks:
                await send_bytes(stream, chunks)
        await stream.close()
        self._say("Completed export")

    async def echo(self, source: ImageImportStream, destination: ImageExportStream) -> None:
        """Send an archive back as it is: for clients to try streams with."""
        incoming, outgoing = await self._stream(source.stream), await self._stream(destination.stream)
        async with aclosing(receive_bytes(incoming)) as chunks:
            await send_bytes(outgoing, chunks)

    # ---- names ------------------------------------------------------------------------------------------------------

    async def tag(self, source: ImageStore, destination: ImageStore) -> None:
        await self._lease()
        image = await self.services.images.get(source.name)
        named = names.direct(destination, image.target.digest)
        if not named:
            raise NotFound(f'image "{image.name}": no name was given for it')
        await self._store(image.target, named)

    # ---- what they share --------------------------------------------------------------------------------------------

    async def _lease(self) -> None:
        await self.stack.enter_async_context(ensured(self.services.leases))

    async def _stream(self, id: str) -> Stream:
        stream = await self.streams.get(id)
        self.stack.push_async_callback(stream.close)
        return stream

    async def _store(self, target: Descriptor, named: Sequence[names.Named]) -> None:
        for image in await names.store(self.services.images, target, named):
            self._say("saved", image.name, target)

    def _unpacking(self, name: str, tracker: Tracker) -> Unpacking:
        return Unpacking(self.parts, self.services, name, tracker.news)

    def _say(self, event: str, name: str = "", descriptor: Descriptor | None = None) -> None:
        self.tell(TransferProgress(event, name, descriptor=descriptor))


def _registries() -> ModuleType:
    """What talks to registries. Raises `Unimplemented` in a build that was made without it."""
    try:
        from orlop_images.transfer import registry
    except ModuleNotFoundError as error:
        raise Unimplemented(f"registry: this build cannot talk to any; add the distribution {error.name}") from error
    return registry


def _nobody(manifest: Manifest) -> tuple[()]:
    return ()


def _matcher(platforms: Sequence[Platform]) -> Matcher:
    """Exactly these, earlier ones first; everything when there are none."""
    return AnyOf(*(Only(each, strict=True) for each in platforms)) if platforms else Everything()


def _sources(store: ImageStore) -> list[str]:
    """The names of the images to export. Raises `Unimplemented` for prefixes, as containerd does."""
    found = [store.name] if store.name else []
    for extra in store.extra_references:
        if extra.is_prefix:
            raise Unimplemented(f'image prefix "{extra.name}": cannot be looked up; name each image')
        found.append(extra.name)
    if not found:
        raise InvalidArgument("export: no image was named")
    return list(dict.fromkeys(found))


def _pair(job: Any, source: type[Message], destination: type[Message]) -> tuple[tuple[str, str], Any]:
    return (source.DESCRIPTOR.full_name, destination.DESCRIPTOR.full_name), (job, source, destination)


_PAIRS: Final[dict[tuple[str, str], Any]] = dict(
    (
        _pair(_Transfer.pull, OCIRegistry, ImageStore),
        _pair(_Transfer.push, ImageStore, OCIRegistry),
        _pair(_Transfer.import_, ImageImportStream, ImageStore),
        _pair(_Transfer.export, ImageStore, ImageExportStream),
        _pair(_Transfer.tag, ImageStore, ImageStore),
        _pair(_Transfer.echo, ImageImportStream, ImageExportStream),
    )
)
