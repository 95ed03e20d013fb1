# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.snapshots.v1.Snapshots`` over any number of snapshotters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from google.protobuf.empty_pb2 import Empty

from orlop.errors import InvalidArgument, Unimplemented
from orlop.interfaces.snapshotter import Cleaner, Snapshotter
from orlop_sdk.api.services.snapshots.v1 import snapshots_pb2 as pb
from orlop_sdk.convert.common import mounts_to_wire
from orlop_sdk.convert.snapshots import info_from_wire, info_to_wire, usage_to_wire, write_info
from orlop_sdk.rpc.service import Service
from orlop_sdk.serving.batches import batches


class SnapshotsService(Service):
    """Snapshots of all snapshotters."""

    service = "containerd.services.snapshots.v1.Snapshots"

    def __init__(self, snapshotters: Mapping[str, Snapshotter]) -> None:
        self._snapshotters = snapshotters

    async def Prepare(self, request: pb.PrepareSnapshotRequest) -> pb.PrepareSnapshotResponse:
        snapshotter = self._find(request.snapshotter)
        mounts = await snapshotter.prepare(request.key, request.parent, labels=dict(request.labels))
        return pb.PrepareSnapshotResponse(mounts=mounts_to_wire(mounts))

    async def View(self, request: pb.ViewSnapshotRequest) -> pb.ViewSnapshotResponse:
        snapshotter = self._find(request.snapshotter)
        mounts = await snapshotter.view(request.key, request.parent, labels=dict(request.labels))
        return pb.ViewSnapshotResponse(mounts=mounts_to_wire(mounts))

    async def Mounts(self, request: pb.MountsRequest) -> pb.MountsResponse:
        return pb.MountsResponse(mounts=mounts_to_wire(await self._find(request.snapshotter).mounts(request.key)))

    async def Commit(self, request: pb.CommitSnapshotRequest) -> Empty:
        snapshotter = self._find(request.snapshotter)
        await snapshotter.commit(request.name, request.key, parent=request.parent, labels=dict(request.labels))
        return Empty()

    async def Remove(self, request: pb.RemoveSnapshotRequest) -> Empty:
        await self._find(request.snapshotter).remove(request.key)
        return Empty()

    async def Stat(self, request: pb.StatSnapshotRequest) -> pb.StatSnapshotResponse:
        return pb.StatSnapshotResponse(info=info_to_wire(await self._find(request.snapshotter).stat(request.key)))

    async def Update(self, request: pb.UpdateSnapshotRequest) -> pb.UpdateSnapshotResponse:
        snapshotter = self._find(request.snapshotter)
        updated = await snapshotter.update(info_from_wire(request.info), list(request.update_mask.paths))
        return pb.UpdateSnapshotResponse(info=info_to_wire(updated))

    async def List(self, request: pb.ListSnapshotsRequest) -> AsyncIterator[pb.ListSnapshotsResponse]:
        async for batch in batches(self._find(request.snapshotter).walk(list(request.filters))):
            response = pb.ListSnapshotsResponse()
            for info in batch:
                write_info(info, response.info.add())
            yield response

    async def Usage(self, request: pb.UsageRequest) -> pb.UsageResponse:
        return usage_to_wire(await self._find(request.snapshotter).usage(request.key))

    async def Cleanup(self, request: pb.CleanupRequest) -> Empty:
        snapshotter = self._find(request.snapshotter)
        if not isinstance(snapshotter, Cleaner):
            raise Unimplemented(f'snapshotter "{request.snapshotter}": has nothing to clean up')
        await snapshotter.cleanup()
        return Empty()

    def _find(self, name: str) -> Snapshotter:
        if not name:
            raise InvalidArgument("snapshotter: the request names none")
        snapshotter = self._snapshotters.get(name)
        if snapshotter is None:
            known = ", ".join(sorted(self._snapshotters)) or "none"
            raise InvalidArgument(f'snapshotter "{name}": not loaded; those loaded: {known}')
        return snapshotter
