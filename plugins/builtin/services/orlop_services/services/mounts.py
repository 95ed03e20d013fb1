# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.mounts.v1.Mounts`` over the mount manager."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from orlop.interfaces.mount import MountManager
from orlop_sdk.api.services.mounts.v1 import mounts_pb2 as pb
from orlop_sdk.convert.common import mounts_from_wire
from orlop_sdk.convert.mounts import activation_from_wire, activation_to_wire
from orlop_sdk.rpc.service import Service


class MountsService(Service):
    """Mounts that need help."""

    service = "containerd.services.mounts.v1.Mounts"

    def __init__(self, manager: MountManager) -> None:
        self._manager = manager

    async def Activate(self, request: pb.ActivateRequest) -> pb.ActivateResponse:
        made = await self._manager.activate(
            request.name,
            mounts_from_wire(request.mounts),
            labels=dict(request.labels),
            temporary=request.temporary,
        )
        return pb.ActivateResponse(info=activation_to_wire(made))

    async def Deactivate(self, request: pb.DeactivateRequest) -> Empty:
        await self._manager.deactivate(request.name)
        return Empty()

    async def Info(self, request: pb.InfoRequest) -> pb.InfoResponse:
        return pb.InfoResponse(info=activation_to_wire(await self._manager.info(request.name)))

    async def Update(self, request: pb.UpdateRequest) -> pb.UpdateResponse:
        changed = await self._manager.update(activation_from_wire(request.info), list(request.update_mask.paths))
        return pb.UpdateResponse(info=activation_to_wire(changed))

    async def List(self, request: pb.ListRequest) -> AsyncIterator[pb.ListMessage]:
        for activation in await self._manager.list(list(request.filters)):
            yield pb.ListMessage(info=activation_to_wire(activation))
