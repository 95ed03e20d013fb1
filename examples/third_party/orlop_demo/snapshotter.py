# SPDX-License-Identifier: Apache-2.0
"""A snapshotter that copies: each snapshot is a directory with everything in it, shared where the file system can.

It needs nothing of the host. Snapshots take time and, without reflinks, space; what it lacks in speed it makes up for
in that anybody can look into ``<root>/snapshots`` and see a container's whole file system.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from orlop.blocking import run_blocking
from orlop.interfaces.snapshotter import Snapshotter, snapshotter
from orlop.plugin import ConfigPath, InitContext, PluginConfig
from orlop.values import Mount, SnapshotKind
from orlop_sdk.linux.copy import copy_tree
from orlop_sdk.storage.directories import DirectorySnapshotter, NewSnapshot
from orlop_sdk.storage.snapshots import StoredSnapshot


class DemoConfig(PluginConfig):
    """The table ``[plugins."io.containerd.snapshotter.v1.demo"]``."""

    root_path: ConfigPath = None
    """Where snapshots are kept; the plugin's own root when unset."""
    removal: Literal["at-once", "later"] = "later"
    """Whether removing a snapshot waits until its files are gone, or leaves them to the next clean-up."""


class DemoSnapshotter(DirectorySnapshotter):
    """See `orlop.interfaces.snapshotter.Snapshotter`; records, rules and crashes are the base class's affair."""

    def populate(self, directory: Path, new: NewSnapshot) -> None:
        if new.parents:
            copy_tree(new.parents[0], directory)

    def describe(self, snapshot: StoredSnapshot) -> list[Mount]:
        access = "rw" if snapshot.info.kind is SnapshotKind.ACTIVE else "ro"
        return [Mount("bind", str(self.directory(snapshot.id)), options=("rbind", access))]


@snapshotter("demo", config=DemoConfig)
async def demo(ctx: InitContext[DemoConfig]) -> Snapshotter:
    """Register the snapshotter. Opening reads the records, which is work for a thread."""
    root = ctx.config.root_path or ctx.root
    ctx.export("root", str(root))
    return await run_blocking(DemoSnapshotter, root, sync_remove=ctx.config.removal == "at-once")


_: type[Snapshotter] = DemoSnapshotter
