# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from orlop.errors import InvalidArgument
from orlop.values import (
    EPOCH,
    AnyMessage,
    Container,
    ContentInfo,
    Descriptor,
    Event,
    Image,
    IngestStatus,
    Lease,
    LeaseResource,
    Metric,
    Mount,
    Namespace,
    Platform,
    ProcessInfo,
    ProcessState,
    RuntimeInfo,
    Sandbox,
    SnapshotInfo,
    SnapshotKind,
    Stdio,
    TaskStatus,
    Usage,
)
from orlop_sdk.api.services.snapshots.v1 import snapshots_pb2
from orlop_sdk.convert import (
    common,
    containers,
    content,
    events,
    images,
    leases,
    namespaces,
    sandboxes,
    snapshots,
    tasks,
)

THEN = datetime(2024, 2, 29, 12, 30, 15, 123456, UTC)
LATER = datetime(2031, 1, 1, tzinfo=UTC)
PAYLOAD = AnyMessage("types.example.org/Thing", b"\x00\xff")
LABELS = {"a": "b", "containerd.io/gc.root": "now"}
TARGET = Descriptor("application/vnd.oci.image.index.v1+json", "sha256:" + "a" * 64, 1 << 40, {"note": "x"})
RUNTIME = RuntimeInfo("io.containerd.runc.v2", PAYLOAD)

CASES = {
    "descriptor": (common.descriptor_to_wire, common.descriptor_from_wire, TARGET),
    "mount": (
        common.mount_to_wire,
        common.mount_from_wire,
        Mount("overlay", "overlay", "/x", ("ro", "lowerdir=/a:/b")),
    ),
    "platform": (
        common.platform_to_wire,
        common.platform_from_wire,
        Platform("linux", "arm", "v7", "1.2", ("win32k", "other")),
    ),
    "container": (
        containers.container_to_wire,
        containers.container_from_wire,
        Container(
            id="c1",
            runtime=RUNTIME,
            spec=PAYLOAD,
            image="docker.io/library/busybox:latest",
            snapshotter="overlayfs",
            snapshot_key="c1",
            sandbox="pod",
            labels=LABELS,
            extensions={"ext": PAYLOAD, "empty": AnyMessage("t")},
            created_at=THEN,
            updated_at=LATER,
        ),
    ),
    "bare container": (
        containers.container_to_wire,
        containers.container_from_wire,
        Container(id="c", runtime=RuntimeInfo("r"), labels={}),
    ),
    "content": (content.info_to_wire, content.info_from_wire, ContentInfo(TARGET.digest, 7, THEN, LATER, LABELS)),
    "ingest": (
        content.status_to_wire,
        content.status_from_wire,
        IngestStatus("ref", 3, 7, TARGET.digest, THEN, LATER),
    ),
    "event": (events.event_to_wire, events.event_from_wire, Event("/tasks/exit", PAYLOAD, "k8s.io", THEN)),
    "image": (images.image_to_wire, images.image_from_wire, Image("name", TARGET, LABELS, THEN, LATER)),
    "lease": (leases.lease_to_wire, leases.lease_from_wire, Lease("l", THEN, LABELS)),
    "resource": (leases.resource_to_wire, leases.resource_from_wire, LeaseResource("sha256:1", "content")),
    "namespace": (namespaces.namespace_to_wire, namespaces.namespace_from_wire, Namespace("moby", LABELS)),
    "sandbox": (
        sandboxes.sandbox_to_wire,
        sandboxes.sandbox_from_wire,
        Sandbox("s", RUNTIME, PAYLOAD, "shim", LABELS, {"e": PAYLOAD}, THEN, LATER),
    ),
    "snapshot": (
        snapshots.info_to_wire,
        snapshots.info_from_wire,
        SnapshotInfo(SnapshotKind.COMMITTED, "top", "below", LABELS, THEN, LATER),
    ),
    "usage": (snapshots.usage_to_wire, snapshots.usage_from_wire, Usage(1 << 40, 12)),
    "process": (
        tasks.process_to_wire,
        tasks.process_from_wire,
        ProcessState("c", "", 12, TaskStatus.STOPPED, Stdio("/i", "/o", "/e", terminal=True), "", 137, THEN),
    ),
    "process info": (tasks.process_info_to_wire, tasks.process_info_from_wire, ProcessInfo(1, PAYLOAD)),
    "metric": (tasks.metric_to_wire, tasks.metric_from_wire, Metric("c", THEN, PAYLOAD)),
}


@pytest.mark.parametrize(("to_wire", "from_wire", "value"), CASES.values(), ids=CASES)
def test_a_value_survives_the_wire(
    to_wire: Callable[[Any], Any], from_wire: Callable[[Any], Any], value: object
) -> None:
    message = to_wire(value)
    assert from_wire(type(message).FromString(message.SerializeToString())) == value


def test_an_exec_is_known_by_its_own_id() -> None:
    state = ProcessState("c", "shell", 13, TaskStatus.RUNNING)
    message = tasks.process_to_wire(state)
    assert (message.id, message.container_id) == ("shell", "")
    assert tasks.process_from_wire(message, container="c") == state


@pytest.mark.parametrize("status", TaskStatus)
def test_every_status_has_a_number(status: TaskStatus) -> None:
    assert tasks.status_from_wire(tasks.status_to_wire(status)) is status


def test_an_unknown_status_is_said_to_be_so() -> None:
    assert tasks.status_from_wire(77) is TaskStatus.UNKNOWN


def test_an_unknown_kind_of_snapshot_is_unknown() -> None:
    message = snapshots_pb2.Info(name="x")
    message.MergeFromString(bytes([0x18, 9]))  # kind = 9
    assert snapshots.info_from_wire(message).kind is SnapshotKind.UNKNOWN


class TestTimes:
    def test_the_epoch_stays_unset(self) -> None:
        assert common.time_to_wire(EPOCH) is None
        assert not lease_of_no_time().HasField("created_at")

    def test_unset_and_zero_times_of_go_are_the_epoch(self) -> None:
        assert common.time_from_wire(Timestamp()) == EPOCH
        assert common.time_from_wire(Timestamp(seconds=-62135596800)) == EPOCH

    def test_nanoseconds_are_cut_to_microseconds(self) -> None:
        assert common.time_from_wire(Timestamp(seconds=1, nanos=1_999)) == EPOCH + timedelta(seconds=1, microseconds=1)

    def test_times_before_the_epoch_have_positive_nanoseconds(self) -> None:
        message = common.time_to_wire(EPOCH - timedelta(microseconds=1))
        assert message == Timestamp(seconds=-1, nanos=999_999_000)
        assert common.time_from_wire(message) == EPOCH - timedelta(microseconds=1)

    def test_other_zones_and_naive_times_are_the_same_instant(self) -> None:
        east = THEN.astimezone(timezone(timedelta(hours=5)))
        naive = THEN.replace(tzinfo=None)
        assert common.time_to_wire(east) == common.time_to_wire(THEN) == common.time_to_wire(naive)

    def test_what_is_no_date_is_refused(self) -> None:
        with pytest.raises(InvalidArgument, match="years 1 and 9999"):
            common.time_from_wire(Timestamp(seconds=1 << 60))


def lease_of_no_time() -> Any:
    return leases.lease_to_wire(Lease("l"))


def test_an_empty_payload_is_none_and_a_required_one_is_empty() -> None:
    event = events.event_to_wire(Event("/t", AnyMessage("")))
    assert common.any_from_wire(event.event) is None
    assert events.event_from_wire(event).payload == AnyMessage("")
