# SPDX-License-Identifier: Apache-2.0
"""Declares the metadata store. It keeps containerd's id, ``bolt``, because configuration and tools name it."""

from __future__ import annotations

from typing import Literal

from orlop.hooks import hook
from orlop.interfaces.content import CONTENT
from orlop.interfaces.event import EVENT
from orlop.interfaces.metadata import METADATA, MetadataStore, metadata_store
from orlop.interfaces.snapshotter import SNAPSHOTTER
from orlop.plugin import InitContext, NoConfig, PluginConfig


class MetadataConfig(PluginConfig):
    """Settings of the metadata store."""

    content_sharing_policy: Literal["shared", "isolated"] = "shared"
    """``shared``: a namespace gets content that another one has by naming its digest. ``isolated``: it has to send it,
    unless the other namespace is labelled ``containerd.io/namespace.shareable=true``."""
    no_sync: bool = False
    """Do not wait for the disk. Faster, and a power failure may take the last changes or the whole file."""


@metadata_store("bolt", config=MetadataConfig, requires=(CONTENT, EVENT, SNAPSHOTTER.optional()))
async def bolt(ctx: InitContext[MetadataConfig]) -> MetadataStore:
    """Open the file below the plugin's own root, over the content store and all snapshotters."""
    from orlop_core.metadata.store import SqliteMetadataStore

    path = ctx.root / "meta.sqlite"
    ctx.export("policy", ctx.config.content_sharing_policy)
    ctx.export("path", str(path))
    return await SqliteMetadataStore.open(
        path,
        content=ctx.get(CONTENT, "" if len(ctx.all(CONTENT)) == 1 else "content"),
        snapshotters=ctx.all(SNAPSHOTTER),
        events=ctx.get(EVENT),
        policy=ctx.config.content_sharing_policy,
        sync=not ctx.config.no_sync,
        timeout=ctx.timeout("io.containerd.timeout.bolt.open", 0.0),
    )


@hook("snapshot-users", requires=(METADATA.optional(),))
async def snapshot_users(ctx: InitContext[NoConfig]) -> object:
    """Keeps snapshotters from being stopped under what they hold."""
    from orlop_core.metadata.users import SnapshotterUsers

    return SnapshotterUsers(ctx.all(METADATA))
