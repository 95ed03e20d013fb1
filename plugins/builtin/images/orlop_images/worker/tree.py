# SPDX-License-Identifier: Apache-2.0
"""Directories of the tree that is being written: found, made and kept open.

Runs inside a chroot, so no path leads out. What this module adds is speed (most files need no look-up at all) and that
symbolic links among a name's parents are followed as containerd follows them: within the tree, and only the parents.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orlop_images.worker.fault import invalid, printable
from orlop_sdk.linux import syscalls

_MOST_LINKS: Final = 255
_MOST_OPEN: Final = 128
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEFAULT_ACL: Final = "system.posix_acl_default"


@dataclass(frozen=True, slots=True)
class Directory:
    """An open directory. ``path`` is free of symbolic links and relative to the root (which is empty)."""

    fd: int
    path: bytes
    plain: bool
    """Whether new files get exactly the owner and mode they are made with: no setgid bit, no default ACL."""

    def child(self, base: bytes) -> bytes:
        """The path of a name in here."""
        return self.path + b"/" + base if self.path else base


def clean(name: bytes) -> bytes:
    """The name of an entry as a path below the root: ``.`` and ``..`` resolved by their text, as containerd does it."""
    if name[:2] == b"./":
        name = name[2:]
    name = name.strip(b"/")
    if b"//" in name or b"./" in name or name[-1:] == b"." or b"/." in name:
        name = posixpath.normpath(b"/" + name)[1:]
    return b"" if name == b"." else name


class Directories:
    """Finds the directory of each entry.

    *lowers* are open layers below, topmost first: a directory that the layer does not mention but needs, and that
    exists in one of them, is made like that one, because it will hide it.
    """

    def __init__(self, lowers: Sequence[int] = ()) -> None:
        self._lowers = lowers
        self._open: dict[bytes, Directory] = {}
        self._real: dict[bytes, bytes] = {b"": b""}
        self.inherited: dict[bytes, tuple[int, int]] = {}
        """Times (accessed, modified) of directories made like those below, by path."""

    def get(self, name: bytes) -> Directory:
        """The directory that *name* (clean) leads to; made, with its parents, if it is not there."""
        found = self._open.get(name)
        if found is not None:
            return found
        path = self.resolve(name)
        try:
            fd = self._open_path(path)
        except FileNotFoundError:
            self._make(path)
            fd = self._open_path(path)
        return self._remember(name, path, fd)

    def find(self, name: bytes) -> Directory:
        """As `get`, but raises FileNotFoundError instead of making anything."""
        found = self._open.get(name)
        if found is not None:
            return found
        path = self.resolve(name)
        try:
            return self._remember(name, path, self._open_path(path))
        except FileNotFoundError:
            del self._real[name]  # a link may appear there later
            raise

    def forget(self) -> None:
        """Whatever is known of paths may be wrong: a directory or a link was replaced or removed."""
        for directory in self._open.values():
            os.close(directory.fd)
        self._open.clear()
        self._real = {b"": b""}

    def forget_one(self, path: bytes) -> None:
        """A directory's mode or ACL changed."""
        for name in [name for name, directory in self._open.items() if directory.path == path]:
            os.close(self._open.pop(name).fd)

    def resolve(self, name: bytes) -> bytes:
        """The path without symbolic links. What does not exist is taken as it is written."""
        known = self._real.get(name)
        if known is None:
            known = self._real[name] = self._resolve(name)
        return known

    def _resolve(self, name: bytes) -> bytes:
        path, todo, links = b"", name.split(b"/")[::-1], 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                path = path.rpartition(b"/")[0]
                continue
            step = path + b"/" + part if path else part
            if self._real.get(step) == step:
                path = step
                continue
            try:
                target = os.readlink(step)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                    raise
                path = step
                continue
            links += 1
            if links > _MOST_LINKS:
                raise invalid(f'layer: "{printable(name)}": too many symbolic links')
            if target.startswith(b"/"):
                path = b""
            todo.extend(target.split(b"/")[::-1])
        return path

    def is_below(self, path: bytes) -> bool:
        """Whether a layer below has that name. True where there are none: then we are not told what will be below."""
        for lower in self._lowers:
            try:
                fd = syscalls.openat2(
                    os.fsdecode(path), os.O_PATH | os.O_NOFOLLOW, dir_fd=lower, resolve=syscalls.RESOLVE_IN_ROOT
                )
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
            else:
                os.close(fd)
                return True
        return not self._lowers

    def _open_path(self, path: bytes) -> int:
        try:
            return os.open(path or b".", _OPEN_DIRECTORY)
        except NotADirectoryError:
            raise invalid(f'layer: "{printable(path)}": is not a directory, but entries lie below it') from None

    def _remember(self, name: bytes, path: bytes, fd: int) -> Directory:
        if len(self._open) >= _MOST_OPEN:
            for directory in self._open.values():
                os.close(directory.fd)
            self._open.clear()
        plain = not os.fstat(fd).st_mode & stat.S_ISGID and not _has_default_acl(fd)
        directory = self._open[name] = Directory(fd, path, plain)
        # From now on children of this directory need not look for links above themselves.
        self._real[path] = path
        return directory

    def _make(self, path: bytes) -> None:
        missing = []
        while path:
            missing.append(path)
            path = path.rpartition(b"/")[0]
        for step in reversed(missing):
            try:
                os.mkdir(step, 0o755)
            except FileExistsError:
                continue
            os.chmod(step, 0o755)  # noqa: S103  # an inherited default ACL may have taken bits away
            self._copy_lower(step)

    def _copy_lower(self, path: bytes) -> None:
        for lower in self._lowers:
            try:
                fd = syscalls.openat2(
                    os.fsdecode(path), _OPEN_DIRECTORY & ~os.O_NOFOLLOW, dir_fd=lower, resolve=syscalls.RESOLVE_IN_ROOT
                )
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    return  # something else has taken its place there
                raise
            try:
                self.inherited[path] = copy_attributes(fd, path)
            finally:
                os.close(fd)
            return


def copy_attributes(source: int, path: bytes) -> tuple[int, int]:
    """Give a directory the owner, extended attributes and mode of another one; returns that one's times."""
    status = os.fstat(source)
    os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)
    for name in os.listxattr(source):
        if not name.startswith("trusted."):
            os.setxattr(path, name, os.getxattr(source, name), follow_symlinks=False)
    os.chmod(path, stat.S_IMODE(status.st_mode))
    return status.st_atime_ns, status.st_mtime_ns


def _has_default_acl(fd: int) -> bool:
    try:
        os.getxattr(fd, _DEFAULT_ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise
    return True


def remove_tree(path: bytes) -> None:
    """Remove a directory and all below it. Not recursive: layers may nest deeper than Python likes."""
    stack = [path]
    doomed = []
    while stack:
        directory = stack.pop()
        doomed.append(directory)
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                else:
                    os.unlink(entry.path)
    for directory in reversed(doomed):
        os.rmdir(directory)
