# SPDX-License-Identifier: Apache-2.0
"""Snapshots as full copies of their parents: slow and large, and works on every file system.

On btrfs and XFS the copies share their data until it is changed.

**Host needs**: none.

**On disk**: as `orlop_sdk.storage.directories`, each snapshot being the tree itself. A view has no tree of its own: it
shows its parent's.
"""

from __future__ import annotations

from pathlib import Path

from orlop.interfaces.snapshotter import Snapshotter
from orlop.values import Mount, SnapshotKind
from orlop_sdk.linux.copy import copy_tree
from orlop_sdk.storage.directories import DirectorySnapshotter, NewSnapshot
from orlop_sdk.storage.snapshots import StoredSnapshot


class NativeSnapshotter(DirectorySnapshotter):
    """The snapshotter ``native``."""

    def populate(self, directory: Path, new: NewSnapshot) -> None:
        if new.parents and new.kind == SnapshotKind.ACTIVE:
            copy_tree(new.parents[0], directory)

    def describe(self, snapshot: StoredSnapshot) -> list[Mount]:
        if snapshot.info.kind == SnapshotKind.ACTIVE:
            return [Mount("bind", str(self.directory(snapshot.id)), options=("rbind", "rw"))]
        shown = snapshot.parents[0] if snapshot.parents else snapshot.id
        return [Mount("bind", str(self.directory(shown)), options=("rbind", "ro"))]


_: type[Snapshotter] = NativeSnapshotter
