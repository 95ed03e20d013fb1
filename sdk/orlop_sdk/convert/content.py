# SPDX-License-Identifier: Apache-2.0
"""Blobs and ingests, and ``containerd.services.content.v1``."""

from __future__ import annotations

from orlop.values import ContentInfo, IngestStatus
from orlop_sdk.api.services.content.v1 import content_pb2
from orlop_sdk.convert.common import time_from_wire, time_to_wire, write_time


def info_to_wire(info: ContentInfo) -> content_pb2.Info:
    """``Info`` of a blob."""
    message = content_pb2.Info()
    write_info(info, message)
    return message


def write_info(info: ContentInfo, message: content_pb2.Info) -> None:
    """Fill an empty ``Info`` that is a field of a message, which costs a third of making and copying it."""
    message.digest, message.size = info.digest, info.size
    write_time(info.created_at, message.created_at)
    write_time(info.updated_at, message.updated_at)
    if info.labels:
        message.labels.update(info.labels)


def info_from_wire(message: content_pb2.Info) -> ContentInfo:
    """What is known of a blob."""
    return ContentInfo(
        digest=message.digest,
        size=message.size,
        created_at=time_from_wire(message.created_at),
        updated_at=time_from_wire(message.updated_at),
        labels=dict(message.labels),
    )


def status_to_wire(status: IngestStatus) -> content_pb2.Status:
    """``Status`` of an ingest."""
    return content_pb2.Status(
        started_at=time_to_wire(status.started_at),
        updated_at=time_to_wire(status.updated_at),
        ref=status.ref,
        offset=status.offset,
        total=status.total,
        expected=status.expected,
    )


def status_from_wire(message: content_pb2.Status) -> IngestStatus:
    """How far an ingest is."""
    return IngestStatus(
        ref=message.ref,
        offset=message.offset,
        total=message.total,
        expected=message.expected,
        started_at=time_from_wire(message.started_at),
        updated_at=time_from_wire(message.updated_at),
    )
