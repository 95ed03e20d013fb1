# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.containers.v1.Containers`` over the container store."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from orlop.errors import InvalidArgument
from orlop.interfaces.metadata import ContainerStore
from orlop_sdk.api.services.containers.v1 import containers_pb2 as pb
from orlop_sdk.convert.containers import container_from_wire, write_container
from orlop_sdk.rpc.service import Service
from orlop_sdk.serving.batches import paced


class ContainersService(Service):
    """Container records."""

    service = "containerd.services.containers.v1.Containers"

    def __init__(self, store: ContainerStore) -> None:
        self._store = store

    async def Get(self, request: pb.GetContainerRequest) -> pb.GetContainerResponse:
        response = pb.GetContainerResponse()
        write_container(await self._store.get(request.id), response.container)
        return response

    async def List(self, request: pb.ListContainersRequest) -> pb.ListContainersResponse:
        response = pb.ListContainersResponse()
        async for container in paced(await self._store.list(list(request.filters))):
            write_container(container, response.containers.add())
        return response

    async def ListStream(self, request: pb.ListContainersRequest) -> AsyncIterator[pb.ListContainerMessage]:
        for container in await self._store.list(list(request.filters)):
            message = pb.ListContainerMessage()
            write_container(container, message.container)
            yield message

    async def Create(self, request: pb.CreateContainerRequest) -> pb.CreateContainerResponse:
        response = pb.CreateContainerResponse()
        write_container(await self._store.create(container_from_wire(request.container)), response.container)
        return response

    async def Update(self, request: pb.UpdateContainerRequest) -> pb.UpdateContainerResponse:
        if not request.container.id:
            raise InvalidArgument("container: id is required to update it")
        updated = await self._store.update(container_from_wire(request.container), list(request.update_mask.paths))
        response = pb.UpdateContainerResponse()
        write_container(updated, response.container)
        return response

    async def Delete(self, request: pb.DeleteContainerRequest) -> Empty:
        await self._store.delete(request.id)
        return Empty()
