# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.sandbox.v1.Store`` over the sandbox store."""

from __future__ import annotations

from orlop.interfaces.metadata import SandboxStore
from orlop_sdk.api.services.sandbox.v1 import sandbox_pb2 as pb
from orlop_sdk.convert.sandboxes import sandbox_from_wire, sandbox_to_wire
from orlop_sdk.rpc.service import Service


class SandboxesService(Service):
    """Sandbox records."""

    service = "containerd.services.sandbox.v1.Store"

    def __init__(self, store: SandboxStore) -> None:
        self._store = store

    async def Create(self, request: pb.StoreCreateRequest) -> pb.StoreCreateResponse:
        created = await self._store.create(sandbox_from_wire(request.sandbox))
        return pb.StoreCreateResponse(sandbox=sandbox_to_wire(created))

    async def Update(self, request: pb.StoreUpdateRequest) -> pb.StoreUpdateResponse:
        updated = await self._store.update(sandbox_from_wire(request.sandbox), list(request.fields))
        return pb.StoreUpdateResponse(sandbox=sandbox_to_wire(updated))

    async def Delete(self, request: pb.StoreDeleteRequest) -> pb.StoreDeleteResponse:
        await self._store.delete(request.sandbox_id)
        return pb.StoreDeleteResponse()

    async def List(self, request: pb.StoreListRequest) -> pb.StoreListResponse:
        found = await self._store.list(list(request.filters))
        return pb.StoreListResponse(list=[sandbox_to_wire(sandbox) for sandbox in found])

    async def Get(self, request: pb.StoreGetRequest) -> pb.StoreGetResponse:
        return pb.StoreGetResponse(sandbox=sandbox_to_wire(await self._store.get(request.sandbox_id)))
