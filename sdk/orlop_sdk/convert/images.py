# SPDX-License-Identifier: Apache-2.0
"""Image records and ``containerd.services.images.v1.Image``."""

from __future__ import annotations

from orlop.values import Image
from orlop_sdk.api.services.images.v1 import images_pb2
from orlop_sdk.convert.common import descriptor_from_wire, descriptor_to_wire, time_from_wire, time_to_wire


def image_to_wire(image: Image) -> images_pb2.Image:
    """The message of a record."""
    return images_pb2.Image(
        name=image.name,
        labels=dict(image.labels),
        target=descriptor_to_wire(image.target),
        created_at=time_to_wire(image.created_at),
        updated_at=time_to_wire(image.updated_at),
    )


def image_from_wire(message: images_pb2.Image) -> Image:
    """The record in a message; nothing is checked."""
    return Image(
        name=message.name,
        target=descriptor_from_wire(message.target),
        labels=dict(message.labels),
        created_at=time_from_wire(message.created_at),
        updated_at=time_from_wire(message.updated_at),
    )
