# SPDX-License-Identifier: Apache-2.0
"""The daemon's records over a channel: namespaces, images, containers, sandboxes, leases.

Each class is the kernel's store of the same noun (`orlop.interfaces.metadata`), so what is written against a daemon
runs against the kernel's own objects too::

    images = RemoteImageStore(channel)
    for image in await images.list(['name~="^docker.io/"']):
        print(image.name, image.target.digest)
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime

from google.protobuf.field_mask_pb2 import FieldMask

from orlop.errors import NotFound
from orlop.interfaces.metadata import ContainerStore, ImageStore, LeaseStore, NamespaceStore, SandboxStore
from orlop.values import EMPTY, EPOCH, Container, Descriptor, Image, Labels, Lease, LeaseResource, Namespace, Sandbox
from orlop_sdk.api.services.containers.v1 import containers_pb2
from orlop_sdk.api.services.images.v1 import images_pb2
from orlop_sdk.api.services.leases.v1 import leases_pb2
from orlop_sdk.api.services.namespaces.v1 import namespace_pb2
from orlop_sdk.api.services.sandbox.v1 import sandbox_pb2
from orlop_sdk.convert.common import descriptor_to_wire, time_to_wire
from orlop_sdk.convert.containers import container_from_wire, container_to_wire
from orlop_sdk.convert.images import image_from_wire, image_to_wire
from orlop_sdk.convert.leases import lease_from_wire, resource_from_wire, resource_to_wire
from orlop_sdk.convert.namespaces import namespace_from_wire, namespace_to_wire
from orlop_sdk.convert.sandboxes import sandbox_from_wire, sandbox_to_wire
from orlop_sdk.rpc.channel import Channel
from orlop_sdk.rpc.stub import Stub


def field_mask(fieldpaths: Sequence[str]) -> FieldMask | None:
    """A mask for an update; no path leaves it unset, which updates everything."""
    return FieldMask(paths=fieldpaths) if fieldpaths else None


class RemoteNamespaceStore:
    """Namespaces of a daemon."""

    def __init__(self, channel: Channel) -> None:
        self._stub = Stub(channel, "containerd.services.namespaces.v1.Namespaces")

    async def get(self, name: str) -> Namespace:
        answer = await self._stub.Get(namespace_pb2.GetNamespaceRequest(name=name))
        found = namespace_from_wire(answer.namespace)
        # containerd answers with an empty record for a namespace that does not exist.
        if not found.labels and name not in {known.name for known in await self.list()}:
            raise NotFound(f'namespace "{name}": not found')
        return found

    async def list(self) -> list[Namespace]:
        answer = await self._stub.List(namespace_pb2.ListNamespacesRequest())
        return sorted((namespace_from_wire(each) for each in answer.namespaces), key=lambda each: each.name)

    async def create(self, namespace: Namespace) -> None:
        await self._stub.Create(namespace_pb2.CreateNamespaceRequest(namespace=namespace_to_wire(namespace)))

    async def update(self, namespace: Namespace, fieldpaths: Sequence[str] = ()) -> Namespace:
        request = namespace_pb2.UpdateNamespaceRequest(
            namespace=namespace_to_wire(namespace), update_mask=field_mask(fieldpaths)
        )
        await self._stub.Update(request)
        # containerd's answer does not have what the update left alone.
        answer = await self._stub.Get(namespace_pb2.GetNamespaceRequest(name=namespace.name))
        return namespace_from_wire(answer.namespace)

    async def delete(self, name: str) -> None:
        await self._stub.Delete(namespace_pb2.DeleteNamespaceRequest(name=name))


class RemoteImageStore:
    """Image records of a daemon."""

    def __init__(self, channel: Channel) -> None:
        self._stub = Stub(channel, "containerd.services.images.v1.Images")

    async def get(self, name: str) -> Image:
        return image_from_wire((await self._stub.Get(images_pb2.GetImageRequest(name=name))).image)

    async def list(self, filters: Sequence[str] = ()) -> list[Image]:
        answer = await self._stub.List(images_pb2.ListImagesRequest(filters=filters))
        return [image_from_wire(each) for each in answer.images]

    async def create(self, image: Image, *, timestamp: datetime | None = None) -> Image:
        request = images_pb2.CreateImageRequest(
            image=image_to_wire(image), source_date_epoch=time_to_wire(timestamp or EPOCH)
        )
        return image_from_wire((await self._stub.Create(request)).image)

    async def update(self, image: Image, fieldpaths: Sequence[str] = (), *, timestamp: datetime | None = None) -> Image:
        request = images_pb2.UpdateImageRequest(
            image=image_to_wire(image),
            update_mask=field_mask(fieldpaths),
            source_date_epoch=time_to_wire(timestamp or EPOCH),
        )
        return image_from_wire((await self._stub.Update(request)).image)

    async def delete(self, name: str, *, target: str = "", sync: bool = False) -> None:
        wanted = descriptor_to_wire(Descriptor("", target, 0)) if target else None
        await self._stub.Delete(images_pb2.DeleteImageRequest(name=name, sync=sync, target=wanted))


class RemoteContainerStore:
    """Container records of a daemon."""

    def __init__(self, channel: Channel) -> None:
        self._stub = Stub(channel, "containerd.services.containers.v1.Containers")

    async def get(self, id: str) -> Container:
        return container_from_wire((await self._stub.Get(containers_pb2.GetContainerRequest(id=id))).container)

    async def list(self, filters: Sequence[str] = ()) -> list[Container]:
        request = containers_pb2.ListContainersRequest(filters=filters)
        # One message each: a list with many specs in it passes the limit of a single message.
        async with self._stub.ListStream(request) as messages:
            return [container_from_wire(message.container) async for message in messages]

    async def create(self, container: Container) -> Container:
        request = containers_pb2.CreateContainerRequest(container=container_to_wire(container))
        return container_from_wire((await self._stub.Create(request)).container)

    async def update(self, container: Container, fieldpaths: Sequence[str] = ()) -> Container:
        request = containers_pb2.UpdateContainerRequest(
            container=container_to_wire(container), update_mask=field_mask(fieldpaths)
        )
        return container_from_wire((await self._stub.Update(request)).container)

    async def delete(self, id: str) -> None:
        await self._stub.Delete(containers_pb2.DeleteContainerRequest(id=id))


class RemoteSandboxStore:
    """Sandbox records of a daemon. containerd has them since 2.0."""

    def __init__(self, channel: Channel) -> None:
        self._stub = Stub(channel, "containerd.services.sandbox.v1.Store")

    async def get(self, id: str) -> Sandbox:
        return sandbox_from_wire((await self._stub.Get(sandbox_pb2.StoreGetRequest(sandbox_id=id))).sandbox)

    async def list(self, filters: Sequence[str] = ()) -> list[Sandbox]:
        answer = await self._stub.List(sandbox_pb2.StoreListRequest(filters=filters))
        return [sandbox_from_wire(each) for each in answer.list]

    async def create(self, sandbox: Sandbox) -> Sandbox:
        answer = await self._stub.Create(sandbox_pb2.StoreCreateRequest(sandbox=sandbox_to_wire(sandbox)))
        return sandbox_from_wire(answer.sandbox)

    async def update(self, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> Sandbox:
        request = sandbox_pb2.StoreUpdateRequest(sandbox=sandbox_to_wire(sandbox), fields=fieldpaths)
        return sandbox_from_wire((await self._stub.Update(request)).sandbox)

    async def delete(self, id: str) -> None:
        await self._stub.Delete(sandbox_pb2.StoreDeleteRequest(sandbox_id=id))


class RemoteLeaseStore:
    """Leases of a daemon."""

    def __init__(self, channel: Channel) -> None:
        self._stub = Stub(channel, "containerd.services.leases.v1.Leases")

    async def create(self, id: str = "", labels: Labels = EMPTY) -> Lease:
        answer = await self._stub.Create(leases_pb2.CreateRequest(id=id, labels=dict(labels)))
        return lease_from_wire(answer.lease)

    async def delete(self, id: str, *, sync: bool = False) -> None:
        await self._stub.Delete(leases_pb2.DeleteRequest(id=id, sync=sync))

    async def resources(self, lease: str) -> list[LeaseResource]:
        answer = await self._stub.ListResources(leases_pb2.ListResourcesRequest(id=lease))
        return [resource_from_wire(each) for each in answer.resources]

    # `list` is the interface's name for it, and hides the builtin for the annotations after it.
    async def list(self, filters: Sequence[str] = ()) -> builtins.list[Lease]:
        answer = await self._stub.List(leases_pb2.ListRequest(filters=filters))
        return [lease_from_wire(each) for each in answer.leases]

    async def add(self, lease: str, resource: LeaseResource) -> None:
        await self._stub.AddResource(leases_pb2.AddResourceRequest(id=lease, resource=resource_to_wire(resource)))

    async def remove(self, lease: str, resource: LeaseResource) -> None:
        request = leases_pb2.DeleteResourceRequest(id=lease, resource=resource_to_wire(resource))
        await self._stub.DeleteResource(request)


_namespaces: type[NamespaceStore] = RemoteNamespaceStore
_images: type[ImageStore] = RemoteImageStore
_containers: type[ContainerStore] = RemoteContainerStore
_sandboxes: type[SandboxStore] = RemoteSandboxStore
_leases: type[LeaseStore] = RemoteLeaseStore
