# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.leases.v1.Leases`` over the lease store."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from orlop.interfaces.metadata import LeaseStore
from orlop_sdk.api.services.leases.v1 import leases_pb2 as pb
from orlop_sdk.convert.leases import lease_to_wire, resource_from_wire, resource_to_wire
from orlop_sdk.rpc.service import Service


class LeasesService(Service):
    """Leases and what they keep."""

    service = "containerd.services.leases.v1.Leases"

    def __init__(self, store: LeaseStore) -> None:
        self._store = store

    async def Create(self, request: pb.CreateRequest) -> pb.CreateResponse:
        return pb.CreateResponse(lease=lease_to_wire(await self._store.create(request.id, dict(request.labels))))

    async def Delete(self, request: pb.DeleteRequest) -> Empty:
        await self._store.delete(request.id, sync=request.sync)
        return Empty()

    async def List(self, request: pb.ListRequest) -> pb.ListResponse:
        found = await self._store.list(list(request.filters))
        return pb.ListResponse(leases=[lease_to_wire(lease) for lease in found])

    async def AddResource(self, request: pb.AddResourceRequest) -> Empty:
        await self._store.add(request.id, resource_from_wire(request.resource))
        return Empty()

    async def DeleteResource(self, request: pb.DeleteResourceRequest) -> Empty:
        await self._store.remove(request.id, resource_from_wire(request.resource))
        return Empty()

    async def ListResources(self, request: pb.ListResourcesRequest) -> pb.ListResourcesResponse:
        found = await self._store.resources(request.id)
        return pb.ListResourcesResponse(resources=[resource_to_wire(resource) for resource in found])
