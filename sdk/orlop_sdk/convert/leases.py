# SPDX-License-Identifier: Apache-2.0
"""Leases and ``containerd.services.leases.v1``."""

from __future__ import annotations

from orlop.values import Lease, LeaseResource
from orlop_sdk.api.services.leases.v1 import leases_pb2
from orlop_sdk.convert.common import time_from_wire, time_to_wire


def lease_to_wire(lease: Lease) -> leases_pb2.Lease:
    """The message of a lease."""
    return leases_pb2.Lease(id=lease.id, created_at=time_to_wire(lease.created_at), labels=dict(lease.labels))


def lease_from_wire(message: leases_pb2.Lease) -> Lease:
    """The lease in a message."""
    return Lease(message.id, time_from_wire(message.created_at), dict(message.labels))


def resource_to_wire(resource: LeaseResource) -> leases_pb2.Resource:
    """The message of a resource."""
    return leases_pb2.Resource(id=resource.id, type=resource.type)


def resource_from_wire(message: leases_pb2.Resource) -> LeaseResource:
    """The resource in a message."""
    return LeaseResource(message.id, message.type)
