# SPDX-License-Identifier: Apache-2.0
"""Container records and ``containerd.services.containers.v1.Container``."""

from __future__ import annotations

from orlop.values import Container, RuntimeInfo
from orlop_sdk.api.services.containers.v1 import containers_pb2
from orlop_sdk.convert.common import (
    any_from_wire,
    payloads_from_wire,
    time_from_wire,
    write_any,
    write_time,
)


def container_to_wire(container: Container) -> containers_pb2.Container:
    """The message of a record."""
    message = containers_pb2.Container()
    write_container(container, message)
    return message


def write_container(container: Container, message: containers_pb2.Container) -> None:
    """Fill an empty message that is a field of another one: giving it to a constructor would copy it with its spec."""
    message.id = container.id
    if container.labels:
        message.labels.update(container.labels)
    message.image = container.image
    message.runtime.name = container.runtime.name
    if container.runtime.options is not None:
        write_any(container.runtime.options, message.runtime.options)
    if container.spec is not None:
        write_any(container.spec, message.spec)
    message.snapshotter = container.snapshotter
    message.snapshot_key = container.snapshot_key
    write_time(container.created_at, message.created_at)
    write_time(container.updated_at, message.updated_at)
    for key, payload in container.extensions.items():
        write_any(payload, message.extensions[key])
    message.sandbox = container.sandbox


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
