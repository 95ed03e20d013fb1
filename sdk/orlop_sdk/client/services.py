# SPDX-License-Identifier: Apache-2.0
"""The parts a client works with, each replaceable by any object of the same interface.

::

    client = client.replace(content=MyContentStore())   # pull into something else, with the same daemon's images

Everything above these (pulling, pushing, importing, unpacking, running) knows only the interfaces, so that a daemon
uses the same code with its own objects in their place.
"""

from __future__ import annotations

from dataclasses import dataclass

from orlop.interfaces.event import EventExchange
from orlop.interfaces.metadata import ContainerStore, NamespaceStore, SandboxStore
from orlop.interfaces.task import Tasks
from orlop_sdk.client.content import RemoteContentStore
from orlop_sdk.client.events import RemoteEvents
from orlop_sdk.client.image_services import ImageServices
from orlop_sdk.client.introspection import Introspection, RemoteIntrospection
from orlop_sdk.client.records import (
    RemoteContainerStore,
    RemoteImageStore,
    RemoteLeaseStore,
    RemoteNamespaceStore,
    RemoteSandboxStore,
)
from orlop_sdk.client.snapshots import RemoteDiffer, RemoteSnapshotters
from orlop_sdk.client.tasks import RemoteTasks
from orlop_sdk.client.transfers import RemoteTransfers, Transfers
from orlop_sdk.rpc.channel import Channel


@dataclass(frozen=True, slots=True)
class Services(ImageServices):
    """Everything a client needs."""

    namespaces: NamespaceStore
    containers: ContainerStore
    sandboxes: SandboxStore
    events: EventExchange
    tasks: Tasks
    introspection: Introspection
    transfers: Transfers


def remote_services(channel: Channel, namespace: str) -> Services:
    """All services of the daemon at the other end of a channel."""
    return Services(
        content=RemoteContentStore(channel),
        images=RemoteImageStore(channel),
        leases=RemoteLeaseStore(channel),
        snapshotters=RemoteSnapshotters(channel),
        diff=RemoteDiffer(channel),
        namespaces=RemoteNamespaceStore(channel),
        containers=RemoteContainerStore(channel),
        sandboxes=RemoteSandboxStore(channel),
        events=RemoteEvents(channel),
        tasks=RemoteTasks(channel, namespace),
        introspection=RemoteIntrospection(channel),
        transfers=RemoteTransfers(channel),
    )
