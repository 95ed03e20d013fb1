# SPDX-License-Identifier: Apache-2.0
"""A daemon's snapshotters and differs over a channel.

::

    overlay = RemoteSnapshotter(channel, "overlayfs")
    mounts = await overlay.prepare("scratch-1")
    ...
    await overlay.remove("scratch-1")
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final

from orlop.errors import NotFound
from orlop.interfaces.differ import Differ
from orlop.interfaces.snapshotter import Cleaner, Snapshotter
from orlop.values import EMPTY, EPOCH, AnyMessage, Descriptor, Labels, Mount, SnapshotInfo, Usage
from orlop_sdk.api.services.diff.v1 import diff_pb2
from orlop_sdk.api.services.snapshots.v1 import snapshots_pb2
from orlop_sdk.client.records import field_mask
from orlop_sdk.convert.common import (
    descriptor_from_wire,
    descriptor_to_wire,
    mounts_from_wire,
    mounts_to_wire,
    payloads_to_wire,
    time_to_wire,
)
from orlop_sdk.convert.snapshots import info_from_wire, info_to_wire, usage_from_wire
from orlop_sdk.rpc.channel import Channel
from orlop_sdk.rpc.stub import Stub

_NO_PAYLOADS: Final[Mapping[str, AnyMessage]] = MappingProxyType({})


class RemoteSnapshotter:
    """One snapshotter of a daemon, in the namespace of the call. Whether it exists shows with the first call."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._stub = Stub(channel, "containerd.services.snapshots.v1.Snapshots")
        self.name = name

    async def stat(self, key: str) -> SnapshotInfo:
        answer = await self._stub.Stat(snapshots_pb2.StatSnapshotRequest(snapshotter=self.name, key=key))
        return info_from_wire(answer.info)

    async def update(self, info: SnapshotInfo, fieldpaths: Sequence[str] = ()) -> SnapshotInfo:
        request = snapshots_pb2.UpdateSnapshotRequest(
            snapshotter=self.name, info=info_to_wire(info), update_mask=field_mask(fieldpaths)
        )
        return info_from_wire((await self._stub.Update(request)).info)

    async def usage(self, key: str) -> Usage:
        return usage_from_wire(await self._stub.Usage(snapshots_pb2.UsageRequest(snapshotter=self.name, key=key)))

    async def mounts(self, key: str) -> list[Mount]:
        answer = await self._stub.Mounts(snapshots_pb2.MountsRequest(snapshotter=self.name, key=key))
        return mounts_from_wire(answer.mounts)

    async def prepare(self, key: str, parent: str = "", *, labels: Labels = EMPTY) -> list[Mount]:
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=self.name, key=key, parent=parent, labels=dict(labels)
        )
        return mounts_from_wire((await self._stub.Prepare(request)).mounts)

    async def view(self, key: str, parent: str = "", *, labels: Labels = EMPTY) -> list[Mount]:
        request = snapshots_pb2.ViewSnapshotRequest(snapshotter=self.name, key=key, parent=parent, labels=dict(labels))
        return mounts_from_wire((await self._stub.View(request)).mounts)

    async def commit(self, name: str, key: str, *, parent: str = "", labels: Labels = EMPTY) -> None:
        request = snapshots_pb2.CommitSnapshotRequest(
            snapshotter=self.name, name=name, key=key, parent=parent, labels=dict(labels)
        )
        await self._stub.Commit(request)

    async def remove(self, key: str) -> None:
        await self._stub.Remove(snapshots_pb2.RemoveSnapshotRequest(snapshotter=self.name, key=key))

    async def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]:
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=self.name, filters=filters)
        async with self._stub.List(request) as messages:
            async for message in messages:
                for info in message.info:
                    yield info_from_wire(info)

    async def cleanup(self) -> None:
        await self._stub.Cleanup(snapshots_pb2.CleanupRequest(snapshotter=self.name))

    async def close(self) -> None:
        """The channel is its owner's to close."""


class RemoteSnapshotters(Mapping[str, Snapshotter]):
    """Snapshotters of a daemon by name. Any name gives one; iterating gives those used so far, not all there are."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._made: dict[str, RemoteSnapshotter] = {}

    def __getitem__(self, name: str) -> RemoteSnapshotter:
        if not name:
            raise NotFound("snapshotter: the name must not be empty")
        if name not in self._made:
            self._made[name] = RemoteSnapshotter(self._channel, name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


class RemoteDiffer:
    """The diff service of a daemon."""

    def __init__(self, channel: Channel) -> None:
        self._stub = Stub(channel, "containerd.services.diff.v1.Diff")

    async def apply(
        self,
        descriptor: Descriptor,
        mounts: Sequence[Mount],
        *,
        payloads: Mapping[str, AnyMessage] = _NO_PAYLOADS,
        sync: bool = False,
    ) -> Descriptor:
        request = diff_pb2.ApplyRequest(
            diff=descriptor_to_wire(descriptor),
            mounts=mounts_to_wire(mounts),
            payloads=payloads_to_wire(payloads),
            sync_fs=sync,
        )
        return descriptor_from_wire((await self._stub.Apply(request)).applied)

    async def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        *,
        media_type: str = "",
        ref: str = "",
        labels: Labels = EMPTY,
        source_date_epoch: datetime | None = None,
    ) -> Descriptor:
        request = diff_pb2.DiffRequest(
            left=mounts_to_wire(lower),
            right=mounts_to_wire(upper),
            media_type=media_type,
            ref=ref,
            labels=dict(labels),
            source_date_epoch=time_to_wire(source_date_epoch or EPOCH),
        )
        return descriptor_from_wire((await self._stub.Diff(request)).diff)


_snapshotter: type[Snapshotter] = RemoteSnapshotter
_cleaner: type[Cleaner] = RemoteSnapshotter
_differ: type[Differ] = RemoteDiffer
