# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.diff.v1.Diff`` over a differ."""

from __future__ import annotations

from orlop.interfaces.differ import Differ
from orlop_sdk.api.services.diff.v1 import diff_pb2 as pb
from orlop_sdk.convert.common import (
    descriptor_from_wire,
    descriptor_to_wire,
    mounts_from_wire,
    payloads_from_wire,
    time_from_wire,
)
from orlop_sdk.rpc.service import Service


class DiffService(Service):
    """Layers to trees, and trees to layers."""

    service = "containerd.services.diff.v1.Diff"

    def __init__(self, differ: Differ) -> None:
        self._differ = differ

    async def Apply(self, request: pb.ApplyRequest) -> pb.ApplyResponse:
        applied = await self._differ.apply(
            descriptor_from_wire(request.diff),
            mounts_from_wire(request.mounts),
            payloads=payloads_from_wire(request.payloads),
            sync=request.sync_fs,
        )
        return pb.ApplyResponse(applied=descriptor_to_wire(applied))

    async def Diff(self, request: pb.DiffRequest) -> pb.DiffResponse:
        # A source date of 1970 is a date here, and common: only an absent one means "as it is".
        dated = request.HasField("source_date_epoch")
        stored = await self._differ.compare(
            mounts_from_wire(request.left),
            mounts_from_wire(request.right),
            media_type=request.media_type,
            ref=request.ref,
            labels=dict(request.labels),
            source_date_epoch=time_from_wire(request.source_date_epoch) if dated else None,
        )
        return pb.DiffResponse(diff=descriptor_to_wire(stored))
