# SPDX-License-Identifier: Apache-2.0
"""Snapshots as full copies of their parents: slow and large, and works on every file system.

On btrfs and XFS the copies share their data until it is changed. For a container in a user namespace the copy gets
other owners at once, which takes nothing of the kernel; a view has its mount map them.

**Host needs**: none.

**On disk**: as `orlop_sdk.storage.directories`, each snapshot being the tree itself. A view has no tree of its own: it
shows its parent's.
"""

from __future__ import annotations

from pathlib import Path

from orlop.interfaces.snapshotter import Snapshotter
from orlop.values import Mount, SnapshotKind
from orlop_sdk.linux.copy import copy_tree
from orlop_sdk.linux.idmap import change_owners
from orlop_sdk.storage.directories import DirectorySnapshotter, NewSnapshot
from orlop_sdk.storage.snapshots import StoredSnapshot
from orlop_snapshots.mapped import Mapping


class NativeSnapshotter(DirectorySnapshotter):
    """The snapshotter ``native``."""

    def populate(self, directory: Path, new: NewSnapshot) -> None:
        if new.kind != SnapshotKind.ACTIVE:
            return
        if new.parents:
            copy_tree(new.parents[0], directory)
        if mapping := Mapping.of(new.labels):
            change_owners(directory, mapping.uids, mapping.gids)

    def describe(self, snapshot: StoredSnapshot) -> list[Mount]:
        if snapshot.info.kind == SnapshotKind.ACTIVE:
            return [Mount("bind", str(self.directory(snapshot.id)), options=("rbind", "rw"))]
        shown = snapshot.parents[0] if snapshot.parents else snapshot.id
        mapping = Mapping.of(snapshot.info.labels) if snapshot.parents else None
        options = mapping.options if mapping and snapshot.info.kind == SnapshotKind.VIEW else ()
        return [Mount("bind", str(self.directory(shown)), options=("rbind", "ro", *options))]


_: type[Snapshotter] = NativeSnapshotter
