# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.namespaces.v1.Namespaces`` over the namespace store."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from orlop.errors import NotFound
from orlop.interfaces.metadata import NamespaceStore
from orlop.values import Namespace
from orlop_sdk.api.services.namespaces.v1 import namespace_pb2 as pb
from orlop_sdk.convert.namespaces import namespace_from_wire, namespace_to_wire
from orlop_sdk.rpc.service import Service


class NamespacesService(Service):
    """Namespaces."""

    service = "containerd.services.namespaces.v1.Namespaces"

    def __init__(self, store: NamespaceStore) -> None:
        self._store = store

    async def Get(self, request: pb.GetNamespaceRequest) -> pb.GetNamespaceResponse:
        try:
            found = await self._store.get(request.name)
        except NotFound:
            # Clients ask for a namespace's labels before anything is in it, and expect none rather than an error.
            found = Namespace(request.name)
        return pb.GetNamespaceResponse(namespace=namespace_to_wire(found))

    async def List(self, _request: pb.ListNamespacesRequest) -> pb.ListNamespacesResponse:
        return pb.ListNamespacesResponse(namespaces=[namespace_to_wire(found) for found in await self._store.list()])

    async def Create(self, request: pb.CreateNamespaceRequest) -> pb.CreateNamespaceResponse:
        namespace = namespace_from_wire(request.namespace)
        await self._store.create(namespace)
        return pb.CreateNamespaceResponse(namespace=namespace_to_wire(namespace))

    async def Update(self, request: pb.UpdateNamespaceRequest) -> pb.UpdateNamespaceResponse:
        namespace = namespace_from_wire(request.namespace)
        updated = await self._store.update(namespace, list(request.update_mask.paths))
        return pb.UpdateNamespaceResponse(namespace=namespace_to_wire(updated))

    async def Delete(self, request: pb.DeleteNamespaceRequest) -> Empty:
        await self._store.delete(request.name)
        return Empty()
