# SPDX-License-Identifier: Apache-2.0
"""The metadata store: who owns what, in which namespace, and what nobody needs any more.

It wraps the content store and all snapshotters, so that every reference between things passes through it. All stores
below are bound to the namespace and lease of `orlop.context` at each call; they raise `FailedPrecondition` without one.
Each change is durable when the call returns, and publishes its event then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol, runtime_checkable

from orlop.interfaces.content import ContentStore
from orlop.interfaces.snapshotter import Snapshotter
from orlop.plugin import PluginType
from orlop.values import EMPTY, CollectionStats, Container, Image, Labels, Lease, LeaseResource, Namespace, Sandbox


@runtime_checkable
class NamespaceStore(Protocol):
    """Namespaces. The only store that needs no namespace itself."""

    async def get(self, name: str) -> Namespace:
        """One namespace. Raises `NotFound`."""

    async def list(self) -> list[Namespace]:
        """All, in order of name."""

    async def create(self, namespace: Namespace) -> None:
        """Raises `AlreadyExists`, `InvalidArgument`."""

    async def update(self, namespace: Namespace, fieldpaths: Sequence[str] = ()) -> Namespace:
        """Change labels (``labels.<key>``, or all) of a namespace, which comes into being if need be."""

    async def delete(self, name: str) -> None:
        """Raises `NotFound`; `FailedPrecondition` naming what it still holds."""


@runtime_checkable
class ImageStore(Protocol):
    """Names for image descriptors."""

    async def get(self, name: str) -> Image:
        """Raises `NotFound`."""

    async def list(self, filters: Sequence[str] = ()) -> list[Image]:
        """Those that match any of the filters (name, target.digest, target.mediatype, labels, annotations)."""

    async def create(self, image: Image, *, timestamp: datetime | None = None) -> Image:
        """*timestamp* is when it counts as created and updated, now if not given (a client's SOURCE_DATE_EPOCH).

        Raises `AlreadyExists`, `InvalidArgument`.
        """

    async def update(self, image: Image, fieldpaths: Sequence[str] = (), *, timestamp: datetime | None = None) -> Image:
        """Paths ``labels``, ``labels.<key>``, ``target``, ``annotations``, ``annotations.<key>``; none: all.

        *timestamp* is when it counts as updated, now if not given. Raises `NotFound`, `InvalidArgument`.
        """

    async def delete(self, name: str, *, target: str = "", sync: bool = False) -> None:
        """Forget the name. With *target* only if that is its digest; *sync* waits for a garbage collection.

        Raises `NotFound`.
        """


@runtime_checkable
class ContainerStore(Protocol):
    """Container records."""

    async def get(self, id: str) -> Container:
        """Raises `NotFound`."""

    async def list(self, filters: Sequence[str] = ()) -> list[Container]:
        """Those that match any of the filters (id, runtime.name, image, labels)."""

    async def create(self, container: Container) -> Container:
        """Raises `AlreadyExists`, `InvalidArgument`."""

    async def update(self, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        """Paths as containerd's Containers.Update; snapshotter and runtime name never change. Raises `NotFound`."""

    async def delete(self, id: str) -> None:
        """Raises `NotFound`."""


@runtime_checkable
class SandboxStore(Protocol):
    """Sandbox records."""

    async def get(self, id: str) -> Sandbox:
        """Raises `NotFound`."""

    async def list(self, filters: Sequence[str] = ()) -> list[Sandbox]:
        """Those that match any of the filters (id, labels)."""

    async def create(self, sandbox: Sandbox) -> Sandbox:
        """Raises `AlreadyExists`, `InvalidArgument`."""

    async def update(self, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> Sandbox:
        """Paths ``labels``, ``extensions``, ``spec``, ``runtime`` (its name never changes). Raises `NotFound`."""

    async def delete(self, id: str) -> None:
        """Raises `NotFound`."""


@runtime_checkable
class LeaseStore(Protocol):
    """Leases: what must stay though nothing refers to it yet."""

    async def create(self, id: str = "", labels: Labels = EMPTY) -> Lease:
        """An empty id is replaced by a made-up one. Raises `AlreadyExists`."""

    async def delete(self, id: str, *, sync: bool = False) -> None:
        """Let go of everything it kept; *sync* waits for a garbage collection. Raises `NotFound`."""

    async def resources(self, lease: str) -> list[LeaseResource]:
        """What it keeps. Raises `NotFound`."""

    async def list(self, filters: Sequence[str] = ()) -> list[Lease]:
        """Those that match any of the filters (id, labels)."""

    async def add(self, lease: str, resource: LeaseResource) -> None:
        """Raises `NotFound` for the lease, `Unimplemented` for an unknown resource type."""

    async def remove(self, lease: str, resource: LeaseResource) -> None:
        """Raises as `add`."""


@runtime_checkable
class Collectible(Protocol):
    """A kind of thing, kept elsewhere, that takes part in garbage collection (streams, mounts).

    Things are known by ``(namespace, id)``. Those that refer to what keeps them say so by the optional power
    `orlop.interfaces.gc.Attached`.
    """

    @property
    def label(self) -> str:
        """References to it are labels ``containerd.io/gc.ref.<label>``; leases hold it under this resource type."""

    async def all(self) -> Sequence[tuple[str, str]]:
        """Everything there is."""

    async def active(self) -> Sequence[tuple[str, str]]:
        """What is in use, whoever refers to it."""

    async def remove(self, items: Sequence[tuple[str, str]]) -> None:
        """Remove what was found unused. Things that appeared since `all` are never among them."""


@runtime_checkable
class MetadataStore(Protocol):
    """All records, and the views of content and snapshots that are bound to them."""

    @property
    def namespaces(self) -> NamespaceStore:
        """Namespaces."""

    @property
    def images(self) -> ImageStore:
        """Images of the current namespace."""

    @property
    def containers(self) -> ContainerStore:
        """Container records."""

    @property
    def sandboxes(self) -> SandboxStore:
        """Sandbox records."""

    @property
    def leases(self) -> LeaseStore:
        """Leases."""

    @property
    def content(self) -> ContentStore:
        """Content, bound to namespace and lease."""

    @property
    def snapshotters(self) -> Mapping[str, Snapshotter]:
        """By id; follows snapshotter plugins as they come and go."""

    async def collect(self) -> CollectionStats:
        """Remove what no root reaches, in all namespaces, from the back ends too. See `Scheduler` for when."""

    def mutations(self) -> AsyncIterator[bool]:
        """One item per committed change from now on: True when it removed something. For the scheduler."""

    def delegate_collection(self, collect: Callable[[], Awaitable[object]] | None) -> None:
        """Have *collect* run the collections that synchronous deletes wait for; None: run `collect` for each again.

        For the scheduler, so that many deletes share one collection.
        """

    def register_collectible(self, collectible: Collectible) -> None:
        """Let another kind of thing take part in garbage collection."""

    async def check(self) -> list[str]:
        """Faults found in the store itself, one line each; empty when it is sound."""


@runtime_checkable
class Scheduler(Protocol):
    """Decides when garbage is collected."""

    async def collect_now(self) -> CollectionStats:
        """Ask for a collection and wait for one that started after this call."""


METADATA: Final = PluginType("io.containerd.metadata.v1", MetadataStore, group="orlop.metadata.v1")
metadata_store = METADATA.plugin
"""Decorator that declares a metadata store."""
GC: Final = PluginType("io.containerd.gc.v1", Scheduler, group="orlop.gc.v1")
gc_scheduler = GC.plugin
"""Decorator that declares a garbage collection scheduler."""
