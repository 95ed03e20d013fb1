# SPDX-License-Identifier: Apache-2.0
"""The messages of ``grpc.reflection.v1`` and of ``v1alpha``, which are the same but for the package.

They are described here, in a pool of their own: a plugin that brings the official ``grpc_reflection`` package would
otherwise register the same file a second time, which protobuf refuses. (Protocol: grpc/reflection/v1/reflection.proto
of the grpc-proto repository.)
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from orlop_sdk.rpc.descriptors import message_class

PACKAGES: Final = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
_TEXT, _INT32, _BYTES = Field.TYPE_STRING, Field.TYPE_INT32, Field.TYPE_BYTES
#: Message -> fields: number, name, type (the name of a message, too), and whether it is repeated.
_MESSAGES: Final[dict[str, tuple[tuple[int, str, Any, bool], ...]]] = {
    "ServerReflectionRequest": (
        (1, "host", _TEXT, False),
        (3, "file_by_filename", _TEXT, False),
        (4, "file_containing_symbol", _TEXT, False),
        (5, "file_containing_extension", "ExtensionRequest", False),
        (6, "all_extension_numbers_of_type", _TEXT, False),
        (7, "list_services", _TEXT, False),
    ),
    "ExtensionRequest": ((1, "containing_type", _TEXT, False), (2, "extension_number", _INT32, False)),
    "ServerReflectionResponse": (
        (1, "valid_host", _TEXT, False),
        (2, "original_request", "ServerReflectionRequest", False),
        (4, "file_descriptor_response", "FileDescriptorResponse", False),
        (5, "all_extension_numbers_response", "ExtensionNumberResponse", False),
        (6, "list_services_response", "ListServiceResponse", False),
        (7, "error_response", "ErrorResponse", False),
    ),
    "FileDescriptorResponse": ((1, "file_descriptor_proto", _BYTES, True),),
    "ExtensionNumberResponse": ((1, "base_type_name", _TEXT, False), (2, "extension_number", _INT32, True)),
    "ListServiceResponse": ((1, "service", "ServiceResponse", True),),
    "ServiceResponse": ((1, "name", _TEXT, False),),
    "ErrorResponse": ((1, "error_code", _INT32, False), (2, "error_message", _TEXT, False)),
}
#: The messages in which one field is set, from this number on.
_CHOICES: Final = {
    "ServerReflectionRequest": ("message_request", 3),
    "ServerReflectionResponse": ("message_response", 4),
}


def describe(package: str) -> FileDescriptor:
    """The file of one version of the protocol."""
    name = f"{package.replace('.', '/')}/reflection.proto"
    file = FileDescriptorProto(name=name, package=package, syntax="proto3")
    for message, fields in _MESSAGES.items():
        made = file.message_type.add(name=message)
        choice, first = _CHOICES.get(message, ("", 0))
        if choice:
            made.oneof_decl.add(name=choice)
        for number, field, kind, repeated in fields:
            added = made.field.add(name=field, number=number)
            added.label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                added.type, added.type_name = Field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                added.type = kind
            if choice and number >= first:
                added.oneof_index = 0
    file.service.add(name="ServerReflection").method.add(
        name="ServerReflectionInfo",
        input_type=f".{package}.ServerReflectionRequest",
        output_type=f".{package}.ServerReflectionResponse",
        client_streaming=True,
        server_streaming=True,
    )
    pool = DescriptorPool()
    pool.Add(file)
    return pool.FindFileByName(name)


def response_class(file: FileDescriptor) -> type[Any]:
    """The class of the answers of one version."""
    return message_class(file.message_types_by_name["ServerReflectionResponse"])
