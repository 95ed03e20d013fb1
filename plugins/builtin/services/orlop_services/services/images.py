# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.images.v1.Images`` over the image store."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.empty_pb2 import Empty

from orlop.errors import InvalidArgument
from orlop.interfaces.metadata import ImageStore
from orlop_sdk.api.services.images.v1 import images_pb2 as pb
from orlop_sdk.convert.common import time_from_wire
from orlop_sdk.convert.images import image_from_wire, image_to_wire, write_image
from orlop_sdk.rpc.service import Service
from orlop_sdk.serving.batches import paced


class ImagesService(Service):
    """Image records."""

    service = "containerd.services.images.v1.Images"

    def __init__(self, store: ImageStore) -> None:
        self._store = store

    async def Get(self, request: pb.GetImageRequest) -> pb.GetImageResponse:
        return pb.GetImageResponse(image=image_to_wire(await self._store.get(request.name)))

    async def List(self, request: pb.ListImagesRequest) -> pb.ListImagesResponse:
        response = pb.ListImagesResponse()
        async for image in paced(await self._store.list(list(request.filters))):
            write_image(image, response.images.add())
        return response

    async def Create(self, request: pb.CreateImageRequest) -> pb.CreateImageResponse:
        created = await self._store.create(image_from_wire(request.image), timestamp=_source_date(request))
        return pb.CreateImageResponse(image=image_to_wire(created))

    async def Update(self, request: pb.UpdateImageRequest) -> pb.UpdateImageResponse:
        if not request.image.name:
            raise InvalidArgument("image: name is required to update it")
        paths = list(request.update_mask.paths)
        updated = await self._store.update(image_from_wire(request.image), paths, timestamp=_source_date(request))
        return pb.UpdateImageResponse(image=image_to_wire(updated))

    async def Delete(self, request: pb.DeleteImageRequest) -> Empty:
        await self._store.delete(request.name, target=request.target.digest, sync=request.sync)
        return Empty()


def _source_date(request: pb.CreateImageRequest | pb.UpdateImageRequest) -> datetime | None:
    return time_from_wire(request.source_date_epoch) if request.HasField("source_date_epoch") else None
