# SPDX-License-Identifier: Apache-2.0
"""Activations of mounts and ``containerd.types.ActivationInfo``."""

from __future__ import annotations

from orlop.interfaces.mount import Activation, ActiveMount
from orlop_sdk.api.types import mount_pb2
from orlop_sdk.convert.common import (
    mount_from_wire,
    mount_to_wire,
    mounts_from_wire,
    mounts_to_wire,
    time_from_wire,
    time_to_wire,
)


def activation_to_wire(activation: Activation) -> mount_pb2.ActivationInfo:
    """The message of an activation."""
    return mount_pb2.ActivationInfo(
        name=activation.name,
        active=[
            mount_pb2.ActiveMount(
                mount=mount_to_wire(active.mount),
                mounted_at=time_to_wire(active.mounted_at),
                mount_point=active.mount_point,
                data=dict(active.data),
            )
            for active in activation.active
        ],
        system=mounts_to_wire(activation.system),
        labels=dict(activation.labels),
    )


def activation_from_wire(message: mount_pb2.ActivationInfo) -> Activation:
    """The activation in a message; nothing is checked."""
    return Activation(
        name=message.name,
        active=tuple(
            ActiveMount(
                mount_from_wire(active.mount),
                time_from_wire(active.mounted_at),
                active.mount_point,
                dict(active.data),
            )
            for active in message.active
        ),
        system=tuple(mounts_from_wire(message.system)),
        labels=dict(message.labels),
    )
