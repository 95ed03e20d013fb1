# SPDX-License-Identifier: Apache-2.0
"""Find services and messages by their full protobuf name."""

from __future__ import annotations

import importlib

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from orlop_sdk.api.index import MODULES


def service(name: str) -> ServiceDescriptor:
    """The service of this full name, such as ``containerd.services.version.v1.Version``.

    The module of `orlop_sdk.api` that defines it is imported; any other module must have been imported before.
    Raises KeyError for a name that nobody defined.
    """
    _load(name)
    return descriptor_pool.Default().FindServiceByName(name)


def message(name: str) -> type[Message]:
    """The class of the message of this full name, for instance of what an ``Any`` holds.

    Imports as `service` does; raises KeyError for a name that nobody defined.
    """
    _load(name)
    return message_class(descriptor_pool.Default().FindMessageTypeByName(name))


def message_class(descriptor: Descriptor) -> type[Message]:
    """The class of a message descriptor."""
    return message_factory.GetMessageClass(descriptor)


def path(method: MethodDescriptor) -> str:
    """The full path of a method: ``/package.Service/Method``."""
    owner = method.containing_service
    if owner is None:
        raise ValueError(f'method "{method.full_name}": belongs to no service')
    return f"/{owner.full_name}/{method.name}"


def _load(name: str) -> None:
    parts = name.split(".")
    # A nested message lives in the module of its outermost one.
    for end in range(len(parts), 1, -1):
        module = MODULES.get(".".join(parts[:end]))
        if module is not None:
            importlib.import_module(module)
            return
