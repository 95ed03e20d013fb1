# SPDX-License-Identifier: Apache-2.0
"""Snapshots and ``containerd.services.snapshots.v1``."""

from __future__ import annotations

from typing import Final

from orlop.values import SnapshotInfo, SnapshotKind, Usage
from orlop_sdk.api.services.snapshots.v1 import snapshots_pb2
from orlop_sdk.convert.common import time_from_wire, write_time

_KINDS: Final = {
    SnapshotKind.UNKNOWN: snapshots_pb2.Kind.UNKNOWN,
    SnapshotKind.VIEW: snapshots_pb2.Kind.VIEW,
    SnapshotKind.ACTIVE: snapshots_pb2.Kind.ACTIVE,
    SnapshotKind.COMMITTED: snapshots_pb2.Kind.COMMITTED,
}


def info_to_wire(info: SnapshotInfo) -> snapshots_pb2.Info:
    """``Info`` of a snapshot."""
    message = snapshots_pb2.Info()
    write_info(info, message)
    return message


def write_info(info: SnapshotInfo, message: snapshots_pb2.Info) -> None:
    """Fill an empty ``Info`` that is a field of a message, which costs a third of making and copying it."""
    message.name, message.parent, message.kind = info.name, info.parent, _KINDS[info.kind]
    write_time(info.created_at, message.created_at)
    write_time(info.updated_at, message.updated_at)
    if info.labels:
        message.labels.update(info.labels)


def info_from_wire(message: snapshots_pb2.Info) -> SnapshotInfo:
    """What is known of a snapshot. A kind that nobody knows is `SnapshotKind.UNKNOWN`."""
    kinds = [kind for kind, number in _KINDS.items() if number == message.kind]
    kind = kinds[0] if kinds else SnapshotKind.UNKNOWN
    return SnapshotInfo(
        kind=kind,
        name=message.name,
        parent=message.parent,
        labels=dict(message.labels),
        created_at=time_from_wire(message.created_at),
        updated_at=time_from_wire(message.updated_at),
    )


def usage_to_wire(usage: Usage) -> snapshots_pb2.UsageResponse:
    """``UsageResponse`` of a disk use."""
    return snapshots_pb2.UsageResponse(size=usage.size, inodes=usage.inodes)


def usage_from_wire(message: snapshots_pb2.UsageResponse) -> Usage:
    """The disk use in a ``UsageResponse``."""
    return Usage(message.size, message.inodes)
