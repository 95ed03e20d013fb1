# SPDX-License-Identifier: Apache-2.0
"""``grpc.health.v1.Health``: probes of orchestrators and of grpc clients.

The messages are described here, in a pool of their own: a plugin that brings the official ``grpc_health`` package would
otherwise register the same file a second time, which protobuf refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from orlop.errors import NotFound
from orlop_sdk.rpc.descriptors import message_class
from orlop_sdk.rpc.service import Service

SERVING: Final = 1
SERVICE_UNKNOWN: Final = 3


def _describe() -> FileDescriptorProto:
    file = FileDescriptorProto(name="grpc/health/v1/health.proto", package="grpc.health.v1", syntax="proto3")
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, type=FieldDescriptorProto.TYPE_STRING)
    response = file.message_type.add(name="HealthCheckResponse")
    status = response.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        status.value.add(name=name, number=number)
    kind = ".grpc.health.v1.HealthCheckResponse.ServingStatus"
    response.field.add(name="status", number=1, type=FieldDescriptorProto.TYPE_ENUM, type_name=kind)
    file.message_type.add(name="HealthListRequest")
    listed = file.message_type.add(name="HealthListResponse")
    entry = listed.nested_type.add(name="StatusesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=FieldDescriptorProto.TYPE_STRING)
    message = FieldDescriptorProto.TYPE_MESSAGE
    entry.field.add(name="value", number=2, type=message, type_name=".grpc.health.v1.HealthCheckResponse")
    listed.field.add(
        name="statuses",
        number=1,
        type=message,
        label=FieldDescriptorProto.LABEL_REPEATED,
        type_name=".grpc.health.v1.HealthListResponse.StatusesEntry",
    )
    service = file.service.add(name="Health")
    types = {
        "input_type": ".grpc.health.v1.HealthCheckRequest",
        "output_type": ".grpc.health.v1.HealthCheckResponse",
    }
    service.method.add(name="Check", **types)
    service.method.add(
        name="List", input_type=".grpc.health.v1.HealthListRequest", output_type=".grpc.health.v1.HealthListResponse"
    )
    service.method.add(name="Watch", server_streaming=True, **types)
    return file


_pool = DescriptorPool()
_pool.Add(_describe())
_file = _pool.FindFileByName("grpc/health/v1/health.proto")
HEALTH: Final = _file.services_by_name["Health"]
Request: Final[type[Any]] = message_class(_file.message_types_by_name["HealthCheckRequest"])
Response: Final[type[Any]] = message_class(_file.message_types_by_name["HealthCheckResponse"])
ListRequest: Final[type[Any]] = message_class(_file.message_types_by_name["HealthListRequest"])
ListResponse: Final[type[Any]] = message_class(_file.message_types_by_name["HealthListResponse"])


class HealthService(Service):
    """The daemon as a whole, named by the empty string, serves as soon as it answers; nothing else is known."""

    service = HEALTH

    async def Check(self, request: Any) -> Any:
        if request.service:
            raise NotFound(f'service "{request.service}": unknown; only the whole daemon, "", can be checked')
        return Response(status=SERVING)

    async def List(self, _request: Any) -> Any:
        return ListResponse(statuses={"": Response(status=SERVING)})

    async def Watch(self, request: Any) -> AsyncIterator[Any]:
        yield Response(status=SERVICE_UNKNOWN if request.service else SERVING)
        # Neither answer ever changes, and a watcher keeps the stream open to learn of a lost connection.
        await asyncio.Event().wait()
