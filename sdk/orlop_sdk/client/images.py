# SPDX-License-Identifier: Apache-2.0
"""What a client does with images.

::

    image = await client.pull("docker.io/library/busybox:latest")
    await client.tag(image.name, "registry.example/team/busybox:1")
    await client.push("registry.example/team/busybox:1")
    print((await client.check_image(image.name)).complete)
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from orlop.errors import AlreadyExists
from orlop.interfaces.transfer import ProgressTold, untold
from orlop.values import Descriptor, Image, Labels
from orlop_sdk.client import lease as leases
from orlop_sdk.client.archive import ArchiveTarget, export_archive
from orlop_sdk.client.archive_import import ImportOptions, import_archive
from orlop_sdk.client.archive_read import ArchiveSource
from orlop_sdk.client.image import ImageStatus, Manifest, check, read_json, read_manifest
from orlop_sdk.client.platform import PlatformLike, matcher
from orlop_sdk.client.progress import ProgressCallback, silent
from orlop_sdk.client.pull import PullOptions, pull
from orlop_sdk.client.push import PushOptions, push
from orlop_sdk.client.services import Services
from orlop_sdk.client.transfers import Endpoint
from orlop_sdk.client.unpack import Unpacker, UnpackOptions, image_labels
from orlop_sdk.registry.interface import Resolver

if TYPE_CHECKING:
    from orlop_sdk.registry.resolver import RegistryResolver

DEFAULT_SNAPSHOTTER: Final = "overlayfs"
HOSTS_DIRECTORIES: Final = (Path("/etc/containerd/certs.d"), Path("/etc/docker/certs.d"))
_SNAPSHOTTER_LABEL: Final = "containerd.io/defaults/snapshotter"
#: A snapshotter's export that asks for labels which say where layers come from.
_REMOTE: Final = "enable_remote_snapshot_annotations"


class PullMore(TypedDict, total=False):
    """What is seldom set about a pull; see `orlop_sdk.client.pull.PullOptions`."""

    labels: Labels
    one_variant: bool
    downloads: int
    unpack: UnpackOptions
    all_layers: bool


def default_resolver() -> RegistryResolver:
    """Registries as this host is configured: ``certs.d`` of containerd and Docker, and ``docker login``."""
    # An HTTP client takes a while to import, and most programs that use a client never talk to a registry.
    from orlop_sdk.registry import DirectoryHosts, RegistryResolver, docker_config

    return RegistryResolver(hosts=DirectoryHosts(HOSTS_DIRECTORIES), credentials=docker_config())


class ImageOperations(ABC):
    """The part of a client that is about images."""

    @property
    @abstractmethod
    def services(self) -> Services:
        """The client's parts."""

    @abstractmethod
    def scope(self) -> AbstractContextManager[None]:
        """For the body, make calls in the client's namespace."""

    @abstractmethod
    async def default(self, what: str) -> str:
        """The namespace's default of that name; empty where there is none."""

    async def pull(
        self,
        reference: str,
        platform: PlatformLike = None,
        *,
        resolver: Resolver | None = None,
        snapshotter: str | None = None,
        progress: ProgressCallback = silent,
        **more: Unpack[PullMore],
    ) -> Image:
        """Pull an image by its full reference and unpack it for this host, or for *platform*.

        *snapshotter* is where to unpack: None for the default one, empty to fetch only. What was fetched before a
        failure is not fetched again. `orlop_sdk.registry.normalise` makes full references of short ones.
        """
        name = await self.snapshotter(snapshotter)
        async with _used(resolver) as using:
            more["unpack"] = await self._possible(more.get("unpack", UnpackOptions()), name, reference)
            options = PullOptions(using, matcher(platform), name, progress=progress, **more)
            async with self._leased():
                return await pull(self.services, reference, options)

    async def push(
        self,
        reference: str,
        platform: PlatformLike = "all",
        *,
        image: str = "",
        resolver: Resolver | None = None,
        progress: ProgressCallback = silent,
    ) -> Descriptor:
        """Push *image* (default: the one called *reference*) to where *reference* says; returns what was pushed.

        Everything of it must be here, unless *platform* chooses one variant.
        """
        async with _used(resolver) as using:
            with self.scope():
                target = (await self.services.images.get(image or reference)).target
                return await push(
                    self.services, reference, target, PushOptions(using, matcher(platform), progress=progress)
                )

    async def transfer(self, source: Endpoint, destination: Endpoint, *, progress: ProgressTold = untold) -> None:
        """Have the daemon itself pull, push, import, export or tag; see `orlop_sdk.client.transfers`."""
        with self.scope():
            await self.services.transfers.transfer(source, destination, progress=progress)

    async def tag(self, name: str, new: str, *, force: bool = False) -> Image:
        """Give an image another name. Raises `AlreadyExists` for one in use, unless *force*."""
        with self.scope():
            image = await self.services.images.get(name)
            renamed = replace(image, name=new)
            try:
                return await self.services.images.create(renamed)
            except AlreadyExists:
                if not force:
                    raise
                return await self.services.images.update(renamed)

    async def remove_image(self, name: str, *, sync: bool = False) -> None:
        """Forget an image; *sync* waits until what only it needed is gone. Raises `NotFound`."""
        with self.scope():
            await self.services.images.delete(name, sync=sync)

    async def check_image(self, name: str, platform: PlatformLike = None) -> ImageStatus:
        """Which blobs of an image are there."""
        with self.scope():
            image = await self.services.images.get(name)
            return await check(self.services.content, image.target, matcher(platform))

    async def manifest(self, name: str, platform: PlatformLike = None) -> Manifest:
        """The variant of an image for this host, or for *platform*. Raises `NotFound`."""
        with self.scope():
            image = await self.services.images.get(name)
            return await read_manifest(self.services.content, image.target, matcher(platform))

    async def image_config(self, name: str, platform: PlatformLike = None) -> Mapping[str, Any]:
        """An image's configuration (OCI image-spec, config.md)."""
        manifest = await self.manifest(name, platform)
        with self.scope():
            return await read_json(self.services.content, manifest.config)

    async def unpack(
        self,
        name: str,
        platform: PlatformLike = None,
        *,
        snapshotter: str | None = None,
        progress: ProgressCallback = silent,
        options: UnpackOptions | None = None,
    ) -> str:
        """Unpack an image that is there, as far as it is not, and return the snapshot to build on (its chain id)."""
        where = await self.snapshotter(snapshotter) or DEFAULT_SNAPSHOTTER
        manifest = await self.manifest(name, platform)
        async with self._leased():
            possible = await self._possible(options or UnpackOptions(), where)
            return await Unpacker(self.services, where, possible, progress).unpack(manifest)

    async def import_images(
        self,
        source: ArchiveSource,
        *,
        snapshotter: str | None = "",
        options: ImportOptions | None = None,
        progress: ProgressCallback = silent,
    ) -> list[Image]:
        """Take the images in an OCI or Docker archive, compressed or not: a path, a binary file, or a stream of bytes.

        With a *snapshotter* (None: the default one) each is unpacked for this host.
        """
        options = options or ImportOptions()
        async with self._leased():
            images = await import_archive(self.services, source, options, progress)
            where = await self.snapshotter(snapshotter)
            for image in images if where else ():
                manifest = await read_manifest(self.services.content, image.target, options.platforms)
                await Unpacker(self.services, where, progress=progress).unpack(manifest)
        return images

    async def export_images(
        self,
        target: ArchiveTarget,
        *names: str,
        platform: PlatformLike = "all",
        docker: bool = True,
        progress: ProgressCallback = silent,
    ) -> None:
        """Write images into one archive, an OCI layout that with *docker* is one for ``docker load`` too."""
        with self.scope():
            images = [await self.services.images.get(name) for name in names]
            await export_archive(
                self.services.content, images, target, platforms=matcher(platform), docker=docker, progress=progress
            )

    async def snapshotter(self, name: str | None = None) -> str:
        """The snapshotter to use for *name*: itself, or for None ``CONTAINERD_SNAPSHOTTER``, or the namespace's."""
        if name is not None:
            return name
        chosen = os.environ.get("CONTAINERD_SNAPSHOTTER") or await self.default(_SNAPSHOTTER_LABEL)
        return chosen or DEFAULT_SNAPSHOTTER

    async def _possible(self, options: UnpackOptions, snapshotter: str, reference: str = "") -> UnpackOptions:
        """The options as the snapshotter can have them: nobody wants to know that before they pull.

        One that brings layers from elsewhere, as its export says, is told where: as by containerd 2.
        """
        if not snapshotter or (options.parallel == 1 and not reference):
            return options
        plugins = await self.services.introspection.plugins([f"type==io.containerd.snapshotter.v1,id=={snapshotter}"])
        if not any("rebase" in plugin.capabilities for plugin in plugins):
            options = replace(options, parallel=1)
        remote = any(plugin.exports.get(_REMOTE) == "true" for plugin in plugins)
        if remote and reference and options.layer_labels is None:
            options = replace(options, layer_labels=image_labels(reference))
        return options

    @asynccontextmanager
    async def _leased(self) -> AsyncIterator[None]:
        with self.scope():
            async with leases.ensured(self.services.leases):
                yield


@asynccontextmanager
async def _used(resolver: Resolver | None) -> AsyncIterator[Resolver]:
    """The resolver given, or the default one for as long as it is needed."""
    if resolver is not None:
        yield resolver
        return
    async with default_resolver() as made:
        yield made
