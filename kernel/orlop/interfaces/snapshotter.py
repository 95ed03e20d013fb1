# SPDX-License-Identifier: Apache-2.0
"""Snapshotters: stacks of file-system layers, and the mounts that show them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, Protocol, runtime_checkable

from orlop.plugin import PluginType
from orlop.values import EMPTY, Labels, Mount, SnapshotInfo, Usage


@runtime_checkable
class Snapshotter(Protocol):
    """Allocates, snapshots and mounts file-system trees.

    **Vocabulary**: an *active* snapshot is writable and known by a *key*; `commit` turns it into a *committed* one,
    read-only for ever, known by a *name*, and the key is gone. A *view* is a read-only look at a committed snapshot,
    known by a key. A *parent* is always committed. Keys and names share one space.

    **Lifecycle**: ``prepare`` -> (mount, write) -> ``commit`` or ``remove``; ``view`` -> ``remove``. A snapshot with
    children cannot be removed. A snapshotter never mounts anything itself: it returns what to mount, so that the
    mount is made in whichever namespace needs it.

    **Durability**: after a crash at any instant every snapshot is either there as the last completed call left it, or
    not there at all; `cleanup` removes what was left between.

    **Concurrency**: calls may overlap; calls on one key are the caller's to order. Cancelling a call leaves the
    snapshot as before it, or as after it.

    **Example**: unpack a layer on top of another::

        mounts = await sn.prepare("extract-1", parent="sha256:base")
        ...apply the layer through the mounts...
        await sn.commit("sha256:base+layer", "extract-1")
    """

    async def stat(self, key: str) -> SnapshotInfo:
        """One snapshot of any kind. Raises `NotFound`."""

    async def update(self, info: SnapshotInfo, fieldpaths: Sequence[str] = ()) -> SnapshotInfo:
        """Change labels: paths ``labels`` or ``labels.<key>``, none for all. Raises `NotFound`, `InvalidArgument`."""

    async def usage(self, key: str) -> Usage:
        """Disk use of this layer alone. Cheap for committed ones (recorded at commit). Raises `NotFound`."""

    async def mounts(self, key: str) -> list[Mount]:
        """The mounts of an active snapshot or view, as `prepare` or `view` gave them.

        Raises `NotFound`; `FailedPrecondition` for a committed snapshot.
        """

    async def prepare(self, key: str, parent: str = "", *, labels: Labels = EMPTY) -> list[Mount]:
        """Make an active snapshot on top of *parent* ("" for an empty tree, whose root is 0755 root:root).

        Raises `AlreadyExists` for a used key, `NotFound` for an unknown parent, `InvalidArgument` for one that is not
        committed.
        """

    async def view(self, key: str, parent: str = "", *, labels: Labels = EMPTY) -> list[Mount]:
        """Make a read-only view of *parent*. Raises as `prepare`."""

    async def commit(self, name: str, key: str, *, parent: str = "", labels: Labels = EMPTY) -> None:
        """Turn the active snapshot *key* into the committed *name*. Labels of the key are dropped.

        *parent* is for snapshotters with the capability ``rebase``: it gives a snapshot prepared without a parent one.
        Raises `NotFound`, `AlreadyExists` for a used name, `FailedPrecondition` for a snapshot that is not active.
        """

    async def remove(self, key: str) -> None:
        """Remove a snapshot of any kind. Raises `NotFound`; `FailedPrecondition` while it has children."""

    def walk(self, filters: Sequence[str] = ()) -> AsyncIterator[SnapshotInfo]:
        """All snapshots that match any of the filters (kind, name, parent, labels). Other calls may be made within."""

    async def close(self) -> None:
        """Free everything. May be called twice."""


@runtime_checkable
class Cleaner(Protocol):
    """Optional power: removal that was put off until now."""

    async def cleanup(self) -> None:
        """Give back the disk space of removed snapshots. Safe at any time, also after a crash."""


SNAPSHOTTER: Final = PluginType("io.containerd.snapshotter.v1", Snapshotter, group="orlop.snapshotter.v1", many=True)
snapshotter = SNAPSHOTTER.plugin
"""Decorator that declares a snapshotter plugin.

Capabilities that clients know: ``rebase``, ``remap-ids``, ``only-remap-ids``. Export ``root``: the directory it uses.
"""
