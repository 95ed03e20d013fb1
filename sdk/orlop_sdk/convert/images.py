# SPDX-License-Identifier: Apache-2.0
"""Image records and ``containerd.services.images.v1.Image``."""

from __future__ import annotations

from orlop.values import Image
from orlop_sdk.api.services.images.v1 import images_pb2
from orlop_sdk.convert.common import descriptor_from_wire, time_from_wire, write_descriptor, write_time


def image_to_wire(image: Image) -> images_pb2.Image:
    """The message of a record."""
    message = images_pb2.Image()
    write_image(image, message)
    return message


def write_image(image: Image, message: images_pb2.Image) -> None:
    """Fill an empty message that is a field of another one, which costs a third of making and copying it."""
    message.name = image.name
    if image.labels:
        message.labels.update(image.labels)
    write_descriptor(image.target, message.target)
    write_time(image.created_at, message.created_at)
    write_time(image.updated_at, message.updated_at)


def image_from_wire(message: images_pb2.Image) -> Image:
    """The record in a message; nothing is checked."""
    return Image(
        name=message.name,
        target=descriptor_from_wire(message.target),
        labels=dict(message.labels),
        created_at=time_from_wire(message.created_at),
        updated_at=time_from_wire(message.updated_at),
    )
