# SPDX-License-Identifier: Apache-2.0
"""Snapshots as stacks of directories that the kernel's overlay file system shows as one.

The default: a snapshot costs a directory, whatever its parents hold.

**Host needs**: overlayfs, and for the root a file system that overlayfs can write to (ext4, XFS with ftype=1, btrfs...;
not another overlay, not NFS).

**On disk**: as `orlop_sdk.storage.directories`, each snapshot holding ``fs``, its own layer, and, when active or once
active, ``work``, which the kernel wants beside it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from orlop.errors import SkipPlugin
from orlop.interfaces.snapshotter import Snapshotter
from orlop.values import Mount, SnapshotInfo, SnapshotKind, Usage
from orlop_sdk.linux.idmap import to_host
from orlop_sdk.linux.mount import mount_one, unmount_all
from orlop_sdk.linux.tree import disk_usage
from orlop_sdk.storage.directories import DirectorySnapshotter, NewSnapshot
from orlop_sdk.storage.snapshots import StoredSnapshot
from orlop_snapshots.mapped import Mapping

#: Tells clients where an active snapshot's own layer is, if the operator wants that.
UPPERDIR_LABEL: Final = "containerd.io/snapshot/overlay.upperdir"

_INDEX_PARAMETER: Final = Path("/sys/module/overlay/parameters/index")


class OverlaySnapshotter(DirectorySnapshotter):
    """The snapshotter ``overlayfs``.

    *options* are added to every overlay mount. `check` tells beforehand whether it can work at *root*.
    """

    def __init__(
        self, root: Path, *, options: Sequence[str] = (), upperdir_label: bool = False, sync_remove: bool = False
    ) -> None:
        super().__init__(root, sync_remove=sync_remove, rebase=True)
        self._options = tuple(options)
        self._upperdir_label = upperdir_label

    def populate(self, directory: Path, new: NewSnapshot) -> None:
        directory.chmod(0o700)
        layer = directory / "fs"
        layer.mkdir()
        layer.chmod(0o755)
        if new.kind == SnapshotKind.ACTIVE:
            work = directory / "work"
            work.mkdir()
            work.chmod(0o711)
        mapping = Mapping.of(new.labels)
        if new.parents:
            # What an overlay shows as its root is the root of the uppermost layer.
            _look_alike(new.parents[0] / "fs", layer)
        if mapping:
            found = layer.stat()
            os.chown(layer, to_host(found.st_uid, mapping.uids), to_host(found.st_gid, mapping.gids))

    def describe(self, snapshot: StoredSnapshot) -> list[Mount]:
        own = self.directory(snapshot.id)
        lower = [str(self.directory(id) / "fs") for id in snapshot.parents]
        active = snapshot.info.kind == SnapshotKind.ACTIVE
        mount = overlay_mount(own, lower, active=active, options=self._options)
        if lower and (mapping := Mapping.of(snapshot.info.labels)):
            mount = replace(mount, options=(*mount.options, *mapping.options))
        return [mount]

    def measure(self, directory: Path) -> Usage:
        return disk_usage(directory / "fs")

    def lack(self, directory: Path, kind: SnapshotKind) -> str:
        return "" if (directory / "fs").is_dir() else f'has no layer "{directory / "fs"}"'

    def present(self, snapshot: StoredSnapshot) -> SnapshotInfo:
        if not self._upperdir_label:
            return snapshot.info
        labels = {**snapshot.info.labels, UPPERDIR_LABEL: str(self.directory(snapshot.id) / "fs")}
        return replace(snapshot.info, labels=labels)


def overlay_mount(own: Path, lower: Sequence[str], *, active: bool, options: Sequence[str] = ()) -> Mount:
    """The mount of a snapshot in the directory *own* over the layers *lower*, uppermost first.

    Where there is one layer only, a bind mount shows it, since overlayfs wants two.
    """
    if not lower:
        return Mount("bind", str(own / "fs"), options=("rw" if active else "ro", "rbind"))
    if not active and len(lower) == 1:
        return Mount("bind", lower[0], options=("ro", "rbind"))
    layers = [f"lowerdir={':'.join(lower)}"]
    if active:
        layers = [f"workdir={own / 'work'}", f"upperdir={own / 'fs'}", *layers]
    return Mount("overlay", "overlay", options=(*layers, *options))


def default_options() -> list[str]:
    """What every overlay mount on this host should be given."""
    options = []
    if _INDEX_PARAMETER.exists():
        # With an index the kernel refuses to use a layer in two mounts, which is what snapshots are for.
        options.append("index=off")
    if _in_user_namespace():
        options.append("userxattr")
    return options


def check(root: Path, options: Sequence[str]) -> None:
    """Raise `SkipPlugin`, with the remedy, unless overlayfs works in *root*: it mounts, and hides deleted files."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in root.glob("check-*"):  # by a daemon that was killed here
        unmount_all(left, detach=True)
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix="check-", dir=root) as name:
        own, lower, shown = Path(name, "own"), Path(name, "lower"), Path(name, "shown")
        for directory in (own / "fs", own / "work", lower, shown):
            directory.mkdir(parents=True)
        (lower / "deleted").touch()
        try:
            mount_one(overlay_mount(own, [str(lower)], active=True, options=options), shown)
        except OSError as error:
            raise SkipPlugin(f"overlayfs cannot be mounted in {root}: {error.strerror}; {_remedy(error)}") from error
        try:
            (shown / "deleted").unlink()
            if os.listdir(shown):
                raise SkipPlugin(
                    f"overlayfs does not hide deleted files in {root}: its file system lacks d_type; "
                    "make it anew with d_type (xfs: ftype=1), or set root_path to another one"
                )
        finally:
            unmount_all(shown)


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.ENODEV:
            return "the kernel lacks overlayfs; load the module (modprobe overlay), or use the snapshotter native"
        case errno.EPERM | errno.EACCES:
            return "run the daemon as root, with the capability CAP_SYS_ADMIN"
        case _:
            return "set root_path to a directory on another file system (ext4, xfs, btrfs), or use native"


def _look_alike(parent: Path, layer: Path) -> None:
    """Give a layer's root the owner, mode and times of its parent's."""
    found = parent.stat()
    os.chown(layer, found.st_uid, found.st_gid)
    layer.chmod(stat.S_IMODE(found.st_mode))
    os.utime(layer, ns=(found.st_atime_ns, found.st_mtime_ns))


def _in_user_namespace() -> bool:
    """Whether root here is somebody else outside."""
    return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


_: type[Snapshotter] = OverlaySnapshotter
