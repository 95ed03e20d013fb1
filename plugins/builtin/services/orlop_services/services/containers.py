# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.containers.v1.Containers`` over the container store."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from orlop.errors import InvalidArgument
from orlop.interfaces.metadata import ContainerStore
from orlop_sdk.api.services.containers.v1 import containers_pb2 as pb
from orlop_sdk.convert.containers import container_from_wire, container_to_wire
from orlop_sdk.rpc.service import Service


class ContainersService(Service):
    """Container records."""

    service = "containerd.services.containers.v1.Containers"

    def __init__(self, store: ContainerStore) -> None:
        self._store = store

    async def Get(self, request: pb.GetContainerRequest) -> pb.GetContainerResponse:
        return pb.GetContainerResponse(container=container_to_wire(await self._store.get(request.id)))

    async def List(self, request: pb.ListContainersRequest) -> pb.ListContainersResponse:
        found = await self._store.list(list(request.filters))
        return pb.ListContainersResponse(containers=[container_to_wire(container) for container in found])

    async def ListStream(self, request: pb.ListContainersRequest) -> AsyncIterator[pb.ListContainerMessage]:
        for container in await self._store.list(list(request.filters)):
            yield pb.ListContainerMessage(container=container_to_wire(container))

    async def Create(self, request: pb.CreateContainerRequest) -> pb.CreateContainerResponse:
        created = await self._store.create(container_from_wire(request.container))
        return pb.CreateContainerResponse(container=container_to_wire(created))

    async def Update(self, request: pb.UpdateContainerRequest) -> pb.UpdateContainerResponse:
        if not request.container.id:
            raise InvalidArgument("container: id is required to update it")
        updated = await self._store.update(container_from_wire(request.container), list(request.update_mask.paths))
        return pb.UpdateContainerResponse(container=container_to_wire(updated))

    async def Delete(self, request: pb.DeleteContainerRequest) -> Empty:
        await self._store.delete(request.id)
        return Empty()
