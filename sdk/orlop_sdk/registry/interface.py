# SPDX-License-Identifier: Apache-2.0
"""What a place that holds images must offer: resolve a reference, fetch blobs, push blobs.

`orlop_sdk.registry.resolver.RegistryResolver` does so for OCI registries. Write another to pull from elsewhere::

    class Cupboard:
        async def resolve(self, reference: str) -> Resolved: ...
        async def fetcher(self, reference: str) -> Fetcher: ...
        async def pusher(self, reference: str) -> Pusher: ...

    await client.pull("cupboard.example/tea:earl-grey", resolver=Cupboard())
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from orlop.values import Descriptor

#: Gives the bytes of a blob from its start. Called again when they must be sent once more.
Body = Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference stands for at this moment."""

    name: str
    descriptor: Descriptor


@runtime_checkable
class Fetcher(Protocol):
    """Reads the blobs of one repository."""

    def fetch(self, descriptor: Descriptor, *, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a blob or manifest from *offset* on, an async generator; the caller closes it.

        Never more than ``descriptor.size`` bytes in all; the caller verifies the digest. Raises `NotFound`,
        `PermissionDenied`, `Unauthenticated`, `Unavailable`.
        """
        ...


@runtime_checkable
class Pusher(Protocol):
    """Writes blobs and manifests of one repository."""

    async def push(self, descriptor: Descriptor, body: Body, *, sources: Sequence[str] = ()) -> None:
        """Store a blob or a manifest. A manifest's children must have been stored before.

        *sources* are repositories of the same registry that hold the blob, so that it need not be sent. Raises
        `AlreadyExists` when it is there already.
        """
        ...


@runtime_checkable
class Resolver(Protocol):
    """Finds images by reference.

    **Concurrency**: calls may overlap; a resolver may be used for many references.
    """

    async def resolve(self, reference: str) -> Resolved:
        """The descriptor of a reference's manifest or index.

        Raises `NotFound`, `InvalidArgument`, `Unauthenticated`, `PermissionDenied`, `Unavailable`.
        """
        ...

    async def fetcher(self, reference: str) -> Fetcher:
        """Reads from the repository of *reference*."""
        ...

    async def pusher(self, reference: str) -> Pusher:
        """Writes to the repository of *reference*.

        Manifests get the tag of *reference*; when it has a digest too, only the manifest of that digest does.
        """
        ...
