# SPDX-License-Identifier: Apache-2.0
"""A daemon's sandbox controllers over a channel.

::

    shim = RemoteSandboxController(channel, "shim")
    await shim.create(Sandbox("pod1", RuntimeInfo("io.containerd.kata.v2")), SandboxRequest())
    started = await shim.start("pod1")
"""

from __future__ import annotations

from collections.abc import Sequence

from orlop.interfaces.sandbox import SandboxController, SandboxInstance, SandboxRequest, SandboxStatus
from orlop.values import Exit, Metric, Platform, Sandbox
from orlop_sdk.api.services.sandbox.v1 import sandbox_pb2 as pb
from orlop_sdk.convert.common import platform_from_wire, time_from_wire
from orlop_sdk.convert.sandbox_control import create_to_wire, instance_from_wire, status_from_wire
from orlop_sdk.convert.sandboxes import sandbox_to_wire
from orlop_sdk.convert.tasks import metric_from_wire
from orlop_sdk.rpc.channel import Channel
from orlop_sdk.rpc.stub import Stub


class RemoteSandboxController:
    """One sandbox controller of a daemon, in the namespace of the call. Whether it exists shows with the first call."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._stub = Stub(channel, "containerd.services.sandbox.v1.Controller")
        self.name = name

    async def create(self, sandbox: Sandbox, request: SandboxRequest) -> None:
        await self._stub.Create(create_to_wire(self.name, sandbox, request))

    async def start(self, id: str) -> SandboxInstance:
        request = pb.ControllerStartRequest(sandbox_id=id, sandboxer=self.name)
        return instance_from_wire(await self._stub.Start(request))

    async def platform(self, id: str) -> Platform:
        request = pb.ControllerPlatformRequest(sandbox_id=id, sandboxer=self.name)
        return platform_from_wire((await self._stub.Platform(request)).platform)

    async def stop(self, id: str, *, timeout: float = 0) -> None:
        seconds = max(0, round(timeout))
        await self._stub.Stop(pb.ControllerStopRequest(sandbox_id=id, timeout_secs=seconds, sandboxer=self.name))

    async def wait(self, id: str) -> Exit:
        answer = await self._stub.Wait(pb.ControllerWaitRequest(sandbox_id=id, sandboxer=self.name))
        return Exit(answer.exit_status, time_from_wire(answer.exited_at))

    async def status(self, id: str, *, verbose: bool = False) -> SandboxStatus:
        request = pb.ControllerStatusRequest(sandbox_id=id, verbose=verbose, sandboxer=self.name)
        return status_from_wire(await self._stub.Status(request))

    async def shutdown(self, id: str) -> None:
        await self._stub.Shutdown(pb.ControllerShutdownRequest(sandbox_id=id, sandboxer=self.name))

    async def metrics(self, id: str) -> Metric:
        request = pb.ControllerMetricsRequest(sandbox_id=id, sandboxer=self.name)
        return metric_from_wire((await self._stub.Metrics(request)).metrics)

    async def update(self, id: str, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> None:
        await self._stub.Update(
            pb.ControllerUpdateRequest(
                sandbox_id=id, sandboxer=self.name, sandbox=sandbox_to_wire(sandbox), fields=fieldpaths
            )
        )


_: type[SandboxController] = RemoteSandboxController
