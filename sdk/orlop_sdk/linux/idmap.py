# SPDX-License-Identifier: Apache-2.0
"""Ids of users and groups seen differently through a mount: what user namespaces need to share layers.

A mapping is written as containerd's labels and mount options have it, ``container:host:size`` with commas between
several: the owner *container* on disk is seen as *host* through the mount.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from orlop.errors import InvalidArgument
from orlop_sdk.linux import syscalls as sc
from orlop_sdk.linux.temporary import make_directory


@dataclass(frozen=True, slots=True)
class IdRange:
    """*size* ids from *container* on are those from *host* on."""

    container: int
    host: int
    size: int

    def __str__(self) -> str:
        return f"{self.container}:{self.host}:{self.size}"


def parse_mapping(text: str) -> tuple[IdRange, ...]:
    """The ranges of a mapping. Raises `InvalidArgument`."""
    ranges = []
    for part in text.split(","):
        numbers = part.split(":")
        if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
            raise InvalidArgument(f'id mapping "{text}": "{part}" is not container:host:size')
        ranges.append(IdRange(*map(int, numbers)))
    return tuple(ranges)


def to_host(id: int, mapping: Sequence[IdRange]) -> int:
    """What an id is seen as. Raises `InvalidArgument` for one that no range has."""
    for part in mapping:
        if part.container <= id < part.container + part.size:
            return part.host + id - part.container
    raise InvalidArgument(f"id {id}: in none of the ranges {','.join(map(str, mapping))}")


def change_owners(tree: str | os.PathLike[str], uids: Sequence[IdRange], gids: Sequence[IdRange]) -> None:
    """Give everything in a tree, itself included, to whom its owners are mapped. Follows no symbolic links."""
    linked: dict[tuple[int, int], tuple[int, int]] = {}
    for _, _, _, directory in os.fwalk(tree, follow_symlinks=False):
        # The directories in it when it is their turn.
        names = [entry.name for entry in os.scandir(directory) if not entry.is_dir(follow_symlinks=False)]
        for name in (*names, "."):
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            inode = (found.st_dev, found.st_ino)
            # A file of several names was changed by its first, unless that made a copy of it, as overlayfs does.
            if linked.get(inode) == (found.st_uid, found.st_gid):
                continue
            owner = (to_host(found.st_uid, uids), to_host(found.st_gid, gids))
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                linked[inode] = owner
            os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode) and found.st_mode & (stat.S_ISUID | stat.S_ISGID):
                # The change of owner has cleared these.
                os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=directory)


@contextmanager
def user_namespace(uids: Sequence[IdRange], gids: Sequence[IdRange]) -> Iterator[int]:
    """The descriptor of a new user namespace with these mappings, for `mount_mapped`."""
    # A namespace comes with a process only, and this one must not fork; cat answers once it is inside.
    with subprocess.Popen(
        ["unshare", "--user", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"\n")
        if process.stdout.read(1) != b"\n":
            said = process.stderr.read().decode(errors="replace").strip()
            raise OSError(f"user namespace: cannot be made: {said}")
        for name, mapping in (("uid_map", uids), ("gid_map", gids)):
            lines = "".join(f"{part.container} {part.host} {part.size}\n" for part in mapping)
            Path(f"/proc/{process.pid}/{name}").write_text(lines)
        fd = os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        process.stdin.close()
    try:
        yield fd
    finally:
        os.close(fd)


def mount_mapped(source: str, target: str | os.PathLike[str], namespace: int) -> None:
    """Bind *source* to *target*, its owners seen as the user namespace *namespace* has them.

    Raises EINVAL where the file system of *source* does not support that, or the kernel is older than 5.12.
    """
    tree = sc.open_tree(source)
    try:
        sc.mount_setattr(tree, sc.MOUNT_ATTR_IDMAP, namespace)
        sc.move_mount(tree, target)
    finally:
        os.close(tree)


@contextmanager
def mapped_copies(sources: Sequence[str], uids: Sequence[IdRange], gids: Sequence[IdRange]) -> Iterator[list[str]]:
    """Temporary places at which *sources* can be found with their owners mapped, to be mounted from in the body."""
    with ExitStack() as undo, user_namespace(uids, gids) as namespace:
        top = str(make_directory("orlop-mapped-"))
        undo.callback(os.rmdir, top)
        copies = []
        for number, source in enumerate(sources):
            copy = os.path.join(top, str(number))
            os.mkdir(copy)
            undo.callback(os.rmdir, copy)
            mount_mapped(source, copy, namespace)
            undo.callback(sc.umount2, copy, sc.MNT_DETACH)
            copies.append(copy)
        yield copies
