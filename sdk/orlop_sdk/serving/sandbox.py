# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.sandbox.v1.Controller`` over any number of sandbox controllers."""

from __future__ import annotations

from collections.abc import Mapping

from orlop.errors import InvalidArgument, NotFound
from orlop.interfaces.sandbox import SandboxController
from orlop_sdk.api.services.sandbox.v1 import sandbox_pb2 as pb
from orlop_sdk.convert.common import platform_to_wire, time_to_wire
from orlop_sdk.convert.sandbox_control import create_from_wire, instance_to_wire, status_to_wire
from orlop_sdk.convert.sandboxes import sandbox_from_wire
from orlop_sdk.convert.tasks import metric_to_wire
from orlop_sdk.rpc.service import Service


class SandboxControllerService(Service):
    """Sandboxes of all controllers; each call names the one that it is for."""

    service = "containerd.services.sandbox.v1.Controller"

    def __init__(self, controllers: Mapping[str, SandboxController]) -> None:
        self._controllers = controllers

    async def Create(self, request: pb.ControllerCreateRequest) -> pb.ControllerCreateResponse:
        controller = self._find(request.sandboxer)
        sandbox, how = create_from_wire(request)
        await controller.create(sandbox, how)
        return pb.ControllerCreateResponse(sandbox_id=sandbox.id)

    async def Start(self, request: pb.ControllerStartRequest) -> pb.ControllerStartResponse:
        return instance_to_wire(await self._find(request.sandboxer).start(request.sandbox_id))

    async def Platform(self, request: pb.ControllerPlatformRequest) -> pb.ControllerPlatformResponse:
        platform = await self._find(request.sandboxer).platform(request.sandbox_id)
        return pb.ControllerPlatformResponse(platform=platform_to_wire(platform))

    async def Stop(self, request: pb.ControllerStopRequest) -> pb.ControllerStopResponse:
        await self._find(request.sandboxer).stop(request.sandbox_id, timeout=request.timeout_secs)
        return pb.ControllerStopResponse()

    async def Wait(self, request: pb.ControllerWaitRequest) -> pb.ControllerWaitResponse:
        ended = await self._find(request.sandboxer).wait(request.sandbox_id)
        return pb.ControllerWaitResponse(exit_status=ended.status, exited_at=time_to_wire(ended.exited_at))

    async def Status(self, request: pb.ControllerStatusRequest) -> pb.ControllerStatusResponse:
        controller = self._find(request.sandboxer)
        return status_to_wire(await controller.status(request.sandbox_id, verbose=request.verbose))

    async def Shutdown(self, request: pb.ControllerShutdownRequest) -> pb.ControllerShutdownResponse:
        await self._find(request.sandboxer).shutdown(request.sandbox_id)
        return pb.ControllerShutdownResponse()

    async def Metrics(self, request: pb.ControllerMetricsRequest) -> pb.ControllerMetricsResponse:
        metric = await self._find(request.sandboxer).metrics(request.sandbox_id)
        return pb.ControllerMetricsResponse(metrics=metric_to_wire(metric))

    async def Update(self, request: pb.ControllerUpdateRequest) -> pb.ControllerUpdateResponse:
        controller = self._find(request.sandboxer)
        await controller.update(request.sandbox_id, sandbox_from_wire(request.sandbox), list(request.fields))
        return pb.ControllerUpdateResponse()

    def _find(self, sandboxer: str) -> SandboxController:
        if not sandboxer:
            raise InvalidArgument('sandboxer: must be set; name a sandbox controller, such as "shim"')
        try:
            return self._controllers[sandboxer]
        except KeyError as error:
            there = ", ".join(sorted(self._controllers)) or "none"
            raise NotFound(f'sandbox controller "{sandboxer}": not found; there are: {there}') from error
