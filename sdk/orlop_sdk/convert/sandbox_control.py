# SPDX-License-Identifier: Apache-2.0
"""What sandbox controllers take and answer, and the messages of ``containerd.services.sandbox.v1.Controller``."""

from __future__ import annotations

from dataclasses import replace

from orlop.interfaces.sandbox import SandboxInstance, SandboxRequest, SandboxStatus
from orlop.values import Sandbox
from orlop_sdk.api.services.sandbox.v1 import sandbox_pb2 as pb
from orlop_sdk.convert.common import (
    any_from_wire,
    any_to_wire,
    mounts_from_wire,
    mounts_to_wire,
    time_from_wire,
    time_to_wire,
)
from orlop_sdk.convert.sandboxes import sandbox_from_wire, sandbox_to_wire


def create_to_wire(sandboxer: str, sandbox: Sandbox, request: SandboxRequest) -> pb.ControllerCreateRequest:
    """The call that makes a sandbox."""
    return pb.ControllerCreateRequest(
        sandbox_id=sandbox.id,
        rootfs=mounts_to_wire(request.rootfs),
        options=any_to_wire(request.options),
        netns_path=request.netns_path,
        annotations=dict(request.annotations),
        sandbox=sandbox_to_wire(sandbox),
        sandboxer=sandboxer,
    )


def create_from_wire(message: pb.ControllerCreateRequest) -> tuple[Sandbox, SandboxRequest]:
    """The record in such a call, which has nothing but its id where the caller sent none, and the request."""
    sandbox = sandbox_from_wire(message.sandbox)
    request = SandboxRequest(
        rootfs=tuple(mounts_from_wire(message.rootfs)),
        options=any_from_wire(message.options),
        netns_path=message.netns_path,
        annotations=dict(message.annotations),
    )
    return replace(sandbox, id=message.sandbox_id or sandbox.id, sandboxer=message.sandboxer), request


def instance_to_wire(instance: SandboxInstance) -> pb.ControllerStartResponse:
    """The answer to a start."""
    return pb.ControllerStartResponse(
        sandbox_id=instance.id,
        pid=instance.pid,
        created_at=time_to_wire(instance.created_at),
        labels=dict(instance.labels),
        address=instance.address,
        version=instance.version,
        spec=any_to_wire(instance.spec),
    )


def instance_from_wire(message: pb.ControllerStartResponse) -> SandboxInstance:
    """The instance in the answer to a start."""
    return SandboxInstance(
        id=message.sandbox_id,
        pid=message.pid,
        created_at=time_from_wire(message.created_at),
        labels=dict(message.labels),
        address=message.address,
        version=message.version,
        spec=any_from_wire(message.spec),
    )


def status_to_wire(status: SandboxStatus) -> pb.ControllerStatusResponse:
    """The answer to a question for the status."""
    return pb.ControllerStatusResponse(
        sandbox_id=status.id,
        pid=status.pid,
        state=status.state,
        info=dict(status.info),
        created_at=time_to_wire(status.created_at),
        exited_at=time_to_wire(status.exited_at),
        extra=any_to_wire(status.extra),
        address=status.address,
        version=status.version,
    )


def status_from_wire(message: pb.ControllerStatusResponse) -> SandboxStatus:
    """The status in such an answer."""
    return SandboxStatus(
        id=message.sandbox_id,
        pid=message.pid,
        state=message.state,
        info=dict(message.info),
        created_at=time_from_wire(message.created_at),
        exited_at=time_from_wire(message.exited_at),
        extra=any_from_wire(message.extra),
        address=message.address,
        version=message.version,
    )
