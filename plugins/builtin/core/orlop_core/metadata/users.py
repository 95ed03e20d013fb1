# SPDX-License-Identifier: Apache-2.0
"""Tells what is kept by a snapshotter, and would be out of reach without it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from orlop import context
from orlop.hooks import hookimpl
from orlop.interfaces.metadata import MetadataStore
from orlop.interfaces.snapshotter import SNAPSHOTTER


class SnapshotterUsers:
    """Containers and snapshots, as users of snapshotters. *stores* is a live view."""

    def __init__(self, stores: Mapping[str, MetadataStore]) -> None:
        self._stores = stores

    @hookimpl
    def orlop_plugin_users(self, uri: str) -> list[str] | Awaitable[list[str]]:
        type, _, id = uri.partition(f"{SNAPSHOTTER.name}.")
        return self._of(id) if id and not type else []

    async def _of(self, id: str) -> list[str]:
        found = []
        for store in self._stores.values():
            for namespace in await store.namespaces.list():
                with context.scope(namespace=namespace.name):
                    containers = [each.id for each in await store.containers.list() if each.snapshotter == id]
                    count = sum([1 async for _ in store.snapshotters[id].walk()]) if id in store.snapshotters else 0
                found += [f'container "{namespace.name}/{each}"' for each in containers]
                found += [f'{count} snapshots in namespace "{namespace.name}"'] if count else []
        return found
