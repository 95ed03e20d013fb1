# SPDX-License-Identifier: Apache-2.0
"""The shim's own protobuf codec against the classes that protoc generated."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop_sdk.api.cgroups.v1 import metrics_pb2 as v1
from orlop_sdk.api.cgroups.v2 import metrics_pb2 as v2
from orlop_sdk.api.events import task_pb2
from orlop_sdk.api.runtime.bootstrap.v1 import bootstrap_pb2
from orlop_sdk.api.runtime.task.v2 import shim_pb2
from orlop_sdk.api.services.ttrpc.events.v1 import events_pb2
from orlop_sdk.api.ttrpc import ttrpc_pb2
from orlop_sdk.api.types import introspection_pb2
from orlop_sdk.api.types.runc.options import oci_pb2
from orlop_shim import messages as pb
from orlop_shim import metrics
from orlop_shim.wire import Schema, WireError, from_entries

EVENTS = [(getattr(task_pb2, name), schema) for name, schema in pb.EVENTS.values()]
PAIRS: list[tuple[type[Message], Schema]] = [
    (ttrpc_pb2.Request, pb.REQUEST),
    (ttrpc_pb2.Response, pb.RESPONSE),
    (shim_pb2.CreateTaskRequest, pb.CREATE),
    (shim_pb2.CreateTaskResponse, pb.PID),
    (shim_pb2.StartRequest, pb.PROCESS),
    (shim_pb2.StartResponse, pb.PID),
    (shim_pb2.StateRequest, pb.PROCESS),
    (shim_pb2.WaitRequest, pb.PROCESS),
    (shim_pb2.DeleteRequest, pb.PROCESS),
    (shim_pb2.DeleteResponse, pb.DELETED),
    (shim_pb2.WaitResponse, pb.WAITED),
    (shim_pb2.StateResponse, pb.STATE),
    (shim_pb2.ExecProcessRequest, pb.EXEC),
    (shim_pb2.ResizePtyRequest, pb.RESIZE),
    (shim_pb2.KillRequest, pb.KILL),
    (shim_pb2.CloseIORequest, pb.CLOSE_IO),
    (shim_pb2.CheckpointTaskRequest, pb.CHECKPOINT),
    (shim_pb2.UpdateTaskRequest, pb.UPDATE),
    (shim_pb2.ShutdownRequest, pb.SHUTDOWN),
    (shim_pb2.PidsResponse, pb.PIDS),
    (shim_pb2.StatsResponse, pb.STATS),
    (shim_pb2.ConnectResponse, pb.CONNECTED),
    (oci_pb2.Options, pb.OPTIONS),
    (oci_pb2.CheckpointOptions, pb.CHECKPOINT_OPTIONS),
    (oci_pb2.ProcessDetails, pb.PROCESS_DETAILS),
    (bootstrap_pb2.BootstrapParams, pb.BOOTSTRAP),
    (bootstrap_pb2.BootstrapResult, pb.BOOTSTRAP_RESULT),
    (introspection_pb2.RuntimeInfo, pb.RUNTIME_INFO),
    (events_pb2.ForwardRequest, pb.FORWARD),
    *EVENTS,
    (v1.Metrics, metrics.V1),
    (v2.Metrics, metrics.V2),
]
NUMBERS = {
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, (1 << 64) - 1),
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(0, 8),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
}


def fill(message: Message, draw: Any) -> None:
    """Give every field of a message a value, or leave it out."""
    for field in message.DESCRIPTOR.fields:
        for _ in range(draw(st.integers(0, 2)) if repeated(field) else draw(st.integers(0, 1))):
            if is_map(field):
                getattr(message, field.name)[draw(st.text(max_size=3))] = draw(st.text(max_size=3))
            elif field.message_type is not None:
                inner = getattr(message, field.name)
                target = inner.add() if repeated(field) else inner
                target.SetInParent()
                fill(target, draw)
            elif repeated(field):
                getattr(message, field.name).append(scalar(field, draw))
            else:
                setattr(message, field.name, scalar(field, draw))


def repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def scalar(field: Any, draw: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return draw(st.text(max_size=5))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw(st.binary(max_size=5))
    return draw(NUMBERS[field.cpp_type])


def values(message: Message, schema_values: Any) -> Any:
    """A message as the codec would decode it, but only the fields that the codec knows."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.name not in schema_values:
            continue
        value = getattr(message, field.name)
        if is_map(field):
            found[field.name] = dict(value)
        elif field.message_type is not None and repeated(field):
            found[field.name] = [
                values(item, known) for item, known in zip(value, schema_values[field.name], strict=True)
            ]
        elif field.message_type is not None:
            known = schema_values[field.name]
            found[field.name] = values(value, known) if message.HasField(field.name) and known is not None else None
        else:
            found[field.name] = list(value) if repeated(field) else value
    return found


def with_maps(message: Message, decoded: dict[str, Any]) -> dict[str, Any]:
    """Decoded values with maps as dictionaries, at every depth."""
    shown = dict(decoded)
    for field in message.DESCRIPTOR.fields:
        value = shown.get(field.name)
        if is_map(field) and value is not None:
            shown[field.name] = from_entries(value)
    return shown


@pytest.mark.parametrize(("generated", "schema"), PAIRS, ids=lambda item: getattr(item, "__name__", ""))
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_it_reads_and_writes_what_protobuf_does(generated: type[Message], schema: Schema, data: st.DataObject) -> None:
    message = generated()
    fill(message, data.draw)
    decoded = schema.decode(message.SerializeToString())
    assert with_maps(message, decoded) == values(message, decoded)
    again = generated()
    again.ParseFromString(schema.encode(**decoded))
    assert values(again, decoded) == values(message, decoded)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40))
def test_noise_is_refused_or_read_but_never_worse(data: bytes) -> None:
    for schema in (pb.REQUEST, pb.CREATE, pb.BOOTSTRAP, metrics.V2):
        try:
            schema.decode(data)
        except WireError:
            continue


def test_cut_messages_are_refused() -> None:
    whole = pb.CREATE.encode(id="abc", bundle="/x")
    with pytest.raises(WireError, match="cut off"):
        pb.CREATE.decode(whole[:-1])


def test_unknown_fields_are_skipped() -> None:
    newer = Schema.encode(pb.STATE, id="a", pid=3)
    assert pb.PID.decode(newer)["pid"] == 0
    assert pb.PROCESS.decode(newer)["id"] == "a"
