# SPDX-License-Identifier: Apache-2.0
"""Sandbox records and ``containerd.types.Sandbox``."""

from __future__ import annotations

from orlop.values import RuntimeInfo, Sandbox
from orlop_sdk.api.types import sandbox_pb2
from orlop_sdk.convert.common import (
    any_from_wire,
    any_to_wire,
    payloads_from_wire,
    payloads_to_wire,
    time_from_wire,
    time_to_wire,
)


def sandbox_to_wire(sandbox: Sandbox) -> sandbox_pb2.Sandbox:
    """The message of a record."""
    return sandbox_pb2.Sandbox(
        sandbox_id=sandbox.id,
        runtime=sandbox_pb2.Sandbox.Runtime(name=sandbox.runtime.name, options=any_to_wire(sandbox.runtime.options)),
        spec=any_to_wire(sandbox.spec),
        labels=dict(sandbox.labels),
        created_at=time_to_wire(sandbox.created_at),
        updated_at=time_to_wire(sandbox.updated_at),
        extensions=payloads_to_wire(sandbox.extensions),
        sandboxer=sandbox.sandboxer,
    )


def sandbox_from_wire(message: sandbox_pb2.Sandbox) -> Sandbox:
    """The record in a message; nothing is checked."""
    return Sandbox(
        id=message.sandbox_id,
        runtime=RuntimeInfo(message.runtime.name, any_from_wire(message.runtime.options)),
        spec=any_from_wire(message.spec),
        sandboxer=message.sandboxer,
        labels=dict(message.labels),
        extensions=payloads_from_wire(message.extensions),
        created_at=time_from_wire(message.created_at),
        updated_at=time_from_wire(message.updated_at),
    )
