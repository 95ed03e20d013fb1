# SPDX-License-Identifier: Apache-2.0
"""Namespaces and ``containerd.services.namespaces.v1.Namespace``."""

from __future__ import annotations

from orlop.values import Namespace
from orlop_sdk.api.services.namespaces.v1 import namespace_pb2


def namespace_to_wire(namespace: Namespace) -> namespace_pb2.Namespace:
    """The message of a namespace."""
    return namespace_pb2.Namespace(name=namespace.name, labels=dict(namespace.labels))


def namespace_from_wire(message: namespace_pb2.Namespace) -> Namespace:
    """The namespace in a message."""
    return Namespace(message.name, dict(message.labels))
