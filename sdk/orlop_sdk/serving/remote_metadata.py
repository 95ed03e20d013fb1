# SPDX-License-Identifier: Apache-2.0
"""A daemon's stores in the place of a metadata store, for plugins that work beside the daemon instead of inside it.

A differ that is served to containerd has to read layers from containerd's content store and to write them there::

    async with hosted(target, root, plugins=(remote_metadata("/run/containerd/containerd.sock"),), ...) as ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, NoReturn

from orlop.errors import Unimplemented
from orlop.interfaces.content import ContentStore
from orlop.interfaces.metadata import (
    METADATA,
    Collectible,
    ContainerStore,
    ImageStore,
    LeaseStore,
    MetadataStore,
    NamespaceStore,
    SandboxStore,
)
from orlop.interfaces.snapshotter import Snapshotter
from orlop.plugin import InitContext, NoConfig, Registration
from orlop.values import CollectionStats
from orlop_sdk.client.connection import open_channel
from orlop_sdk.client.services import remote_services

ID: Final = "remote"


class RemoteMetadata:
    """The stores of the daemon at *address*, each call in its own namespace. Garbage is that daemon's affair."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self._services = remote_services(self._channel, "")

    @property
    def namespaces(self) -> NamespaceStore:
        return self._services.namespaces

    @property
    def images(self) -> ImageStore:
        return self._services.images

    @property
    def containers(self) -> ContainerStore:
        return self._services.containers

    @property
    def sandboxes(self) -> SandboxStore:
        return self._services.sandboxes

    @property
    def leases(self) -> LeaseStore:
        return self._services.leases

    @property
    def content(self) -> ContentStore:
        return self._services.content

    @property
    def snapshotters(self) -> Mapping[str, Snapshotter]:
        return self._services.snapshotters

    async def collect(self) -> CollectionStats:
        _not_here()

    def mutations(self) -> AsyncIterator[bool]:
        _not_here()

    def delegate_collection(self, collect: Callable[[], Awaitable[object]] | None) -> None:
        _not_here()

    def register_collectible(self, collectible: Collectible) -> None:
        _not_here()

    async def check(self) -> list[str]:
        return []

    async def close(self) -> None:
        """Hang up. May be called twice."""
        await self._channel.close()


def remote_metadata(address: str) -> Registration[NoConfig, MetadataStore]:
    """A registration of `RemoteMetadata`, for an embedded kernel."""

    @METADATA.plugin(ID)
    async def connect(ctx: InitContext[NoConfig]) -> MetadataStore:
        return RemoteMetadata(address)

    return connect


def _not_here() -> NoReturn:
    raise Unimplemented("garbage collection: it is the affair of the daemon that has the stores")


_: type[MetadataStore] = RemoteMetadata
