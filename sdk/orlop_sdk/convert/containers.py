# SPDX-License-Identifier: Apache-2.0
"""Container records and ``containerd.services.containers.v1.Container``."""

from __future__ import annotations

from orlop.values import Container, RuntimeInfo
from orlop_sdk.api.services.containers.v1 import containers_pb2
from orlop_sdk.convert.common import (
    any_from_wire,
    any_to_wire,
    payloads_from_wire,
    payloads_to_wire,
    time_from_wire,
    time_to_wire,
)


def container_to_wire(container: Container) -> containers_pb2.Container:
    """The message of a record."""
    return containers_pb2.Container(
        id=container.id,
        labels=dict(container.labels),
        image=container.image,
        runtime=containers_pb2.Container.Runtime(
            name=container.runtime.name, options=any_to_wire(container.runtime.options)
        ),
        spec=any_to_wire(container.spec),
        snapshotter=container.snapshotter,
        snapshot_key=container.snapshot_key,
        created_at=time_to_wire(container.created_at),
        updated_at=time_to_wire(container.updated_at),
        extensions=payloads_to_wire(container.extensions),
        sandbox=container.sandbox,
    )


def container_from_wire(message: containers_pb2.Container) -> Container:
    """The record in a message; nothing is checked."""
    return Container(
        id=message.id,
        runtime=RuntimeInfo(message.runtime.name, any_from_wire(message.runtime.options)),
        spec=any_from_wire(message.spec),
        image=message.image,
        snapshotter=message.snapshotter,
        snapshot_key=message.snapshot_key,
        sandbox=message.sandbox,
        labels=dict(message.labels),
        extensions=payloads_from_wire(message.extensions),
        created_at=time_from_wire(message.created_at),
        updated_at=time_from_wire(message.updated_at),
    )
