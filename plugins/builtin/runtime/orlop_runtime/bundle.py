# SPDX-License-Identifier: Apache-2.0
"""Bundles: the directory of one container that its shim works in.

**On disk**, as containerd has it, since shims and operators look there::

    <state>/<namespace>/<id>/      0700; with a user namespace 0710 and the group of the container's root
        config.json                the OCI runtime spec
        rootfs/                    where the shim mounts the root file system
        work -> <root>/<namespace>/<id>
        log                        a FIFO: the shim's own log
        bootstrap.json             how to reach the shim; older shims write `address` beside it
        shim-binary-path           which shim it is
        sandbox                    the id of the sandbox whose shim it is, if it is one's; "-" for one that nobody named
    <state>/<namespace>/.<id>/     a bundle on its way out

All functions here block.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orlop.errors import AlreadyExists, FailedPrecondition, ResourceExhausted, Unavailable
from orlop.interfaces.runtime import ShimAddress
from orlop_runtime.bootstrap import from_json, to_json
from orlop_sdk.linux.mount import mount_points, unmount_all

#: The numbers of errors that tell of a full disk.
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
BINARY_FILE: Final = "shim-binary-path"
_BOOTSTRAP_FILE: Final = "bootstrap.json"
_ADDRESS_FILE: Final = "address"
_SANDBOX_FILE: Final = "sandbox"


@dataclass(frozen=True, slots=True)
class Bundle:
    """One container's directories."""

    namespace: str
    id: str
    path: Path
    work: Path

    @classmethod
    def at(cls, state: Path, root: Path, namespace: str, id: str) -> Bundle:
        """The bundle of an id, whether it exists or not."""
        return cls(namespace, id, state / namespace / id, root / namespace / id)

    def create(self, spec: bytes) -> None:
        """Make the directories and write the spec; nothing is left behind on failure.

        Raises `AlreadyExists` when the bundle is there, `ResourceExhausted` on a full disk.
        """
        self.path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError as error:
            raise AlreadyExists(f'task "{self.id}": its bundle {self.path} exists') from error
        try:
            self._fill(spec)
        except BaseException as error:
            self.remove()
            if isinstance(error, OSError) and error.errno in FULL:
                raise self.full(error) from error
            raise

    def save(self, address: ShimAddress, runtime: str, sandbox: str = "") -> None:
        """Keep how to reach the shim, which launcher it is from, and the sandbox that it belongs to."""
        if sandbox:
            # Before the address, which makes the bundle count.
            write_atomically(self.path / _SANDBOX_FILE, sandbox.encode(), 0o600)
        write_atomically(self.path / _BOOTSTRAP_FILE, to_json(address, runtime), 0o644)

    def load(self) -> Saved:
        """What is known about the shim of a bundle that an earlier daemon made."""
        address: ShimAddress | None = None
        runtime = ""
        if text := _read(self.path / _BOOTSTRAP_FILE):
            # A damaged file counts as none.
            with contextlib.suppress(Unavailable):
                address = from_json(text)
                runtime = str(json.loads(text).get("runtime") or "")
        if address is None and (bare := _read(self.path / _ADDRESS_FILE).decode(errors="replace").strip()):
            address = ShimAddress(bare)
        return Saved(
            address,
            runtime or _read(self.path / BINARY_FILE).decode(errors="replace").strip(),
            _read(self.path / _SANDBOX_FILE).decode(errors="replace").strip(),
        )

    def full(self, error: OSError) -> ResourceExhausted:
        """What to raise for an error of `FULL`."""
        return ResourceExhausted(f'task "{self.id}": its bundle {self.path}: {error.strerror}; free disk space')

    def set_aside(self) -> None:
        """Free the id: rename the directories, for `remove` to delete."""
        for path in (self.path, self.work):
            aside = _aside(path)
            if aside.exists():
                _remove_tree(aside)
            with contextlib.suppress(FileNotFoundError):
                path.rename(aside)

    def remove(self) -> None:
        """Delete everything, set aside or not. Nothing is followed into what is mounted there.

        Raises `FailedPrecondition` when something cannot be unmounted.
        """
        self.set_aside()
        for path in (self.path, self.work):
            _remove_tree(_aside(path))

    def _fill(self, spec: bytes) -> None:
        (self.path / "rootfs").mkdir(mode=0o711)
        if self.work.exists():
            _remove_tree(self.work)
        self.work.mkdir(mode=0o711, parents=True)
        (self.path / "work").symlink_to(self.work)
        (self.path / "config.json").write_bytes(spec)
        if b'"gidMappings"' in spec and (group := remapped_root_group(json.loads(spec))) is not None:
            os.chown(self.path, -1, group)
            self.path.chmod(0o710)


@dataclass(frozen=True, slots=True)
class Saved:
    """What a bundle says about its shim: the address, the runtime's name or the shim's path, and whose it is."""

    address: ShimAddress | None
    runtime: str
    sandbox: str = ""


def remapped_root_group(spec: dict[str, Any]) -> int | None:
    """The group on the host that is the container's group 0, or None without a user namespace."""
    for mapping in spec.get("linux", {}).get("gidMappings") or ():
        if mapping.get("containerID", 0) == 0 and mapping.get("size", 0) > 0:
            return int(mapping.get("hostID", 0))
    return None


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Replace a file in one step. It is not synced: after a power loss there is no shim to find any more."""
    new = path.with_name(f".{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    new.rename(path)


def leftovers(directory: Path) -> list[Path]:
    """Directories in a namespace's folder that were set aside and not removed."""
    return [path for path in directory.iterdir() if path.name.startswith(".") and path.is_dir()]


def remove_leftover(path: Path) -> None:
    """Delete a directory that was set aside. Raises as `Bundle.remove`."""
    _remove_tree(path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}")


def _remove_tree(path: Path) -> None:
    # Succeeds exactly if nothing is in there and nothing is mounted on it: the usual case, and cheap to know.
    with contextlib.suppress(OSError):
        (path / "rootfs").rmdir()
    try:
        with os.scandir(path) as entries:
            holds_directories = any(entry.is_dir(follow_symlinks=False) for entry in entries)
        if holds_directories:
            _unmount_below(path)
        shutil.rmtree(path)
    except FileNotFoundError:
        return


def _unmount_below(path: Path) -> None:
    try:
        unmount_all(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        unmount_all(path, detach=True)
    left = mount_points(path)
    if left:
        raise FailedPrecondition(f"bundle {path}: still mounted: {', '.join(left)}; unmount it")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
