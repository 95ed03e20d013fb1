# SPDX-License-Identifier: Apache-2.0
"""Finds what turns one tree into another, and writes it as the entries of a layer.

Runs chrooted above both trees, and opens nothing through a symbolic link: a container that still runs may change its
tree while we look. The order is that of names, so that the same trees give the same layer.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from orlop_images.worker.fault import STATE, Fault, printable
from orlop_images.worker.tarwrite import TarWriter

_SECOND: Final = 1_000_000_000
_PIECE: Final = 1 << 18
_OPAQUE_NAMES: Final = ("trusted.overlay.opaque", "user.overlay.opaque")
_MOVED: Final = ("trusted.overlay.redirect", "user.overlay.redirect")
_NO_XATTRS: Final = (errno.EOPNOTSUPP, errno.ENODATA)
# What belongs to the host or to the file system rather than to the file.
_NOT_KEPT: Final = ("trusted.", "user.overlay.", "security.selinux", "security.ima", "security.evm", "system.nfs4")


class Layer:
    """Writes changed names, their parents first, and keeps track of hard links."""

    def __init__(self, root: bytes, writer: TarWriter, epoch: int | None) -> None:
        self._root = root
        self._writer = writer
        self._epoch = epoch
        self._directories: set[bytes] = {b""}
        self._links: dict[tuple[int, int], bytes] = {}
        self._unchanged: dict[tuple[int, int], list[tuple[bytes, os.stat_result]]] = {}

    def changed(self, name: bytes, status: os.stat_result) -> None:
        """This name is new or different."""
        self._parents(name)
        if stat.S_ISDIR(status.st_mode):
            self._directories.add(name)
        elif status.st_nlink > 1:
            inode = (status.st_dev, status.st_ino)
            if inode in self._links:
                self._entry(name, status, link=self._links[inode])
                return
            self._links[inode] = name
            self._entry(name, status)
            for other, other_status in self._unchanged.pop(inode, ()):
                self._parents(other)
                self._entry(other, other_status, link=name)
            return
        self._entry(name, status)

    def unchanged(self, name: bytes, status: os.stat_result) -> None:
        """This name is as it was. It is written only if another name of the same file is."""
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            inode = (status.st_dev, status.st_ino)
            if inode in self._links:
                self._parents(name)
                self._entry(name, status, link=self._links[inode])
            else:
                self._unchanged.setdefault(inode, []).append((name, status))

    def removed(self, name: bytes) -> None:
        """This name is gone."""
        self._parents(name)
        parent, slash, base = name.rpartition(b"/")
        self._writer.whiteout(parent + slash + b".wh." + base)

    def opaque(self, name: bytes) -> None:
        """Nothing of the layers below shows in this directory, which was written just now."""
        self._writer.whiteout((name + b"/" if name else b"") + b".wh..wh..opq")

    def _parents(self, name: bytes) -> None:
        missing = []
        parent = name.rpartition(b"/")[0]
        while parent not in self._directories:
            missing.append(parent)
            parent = parent.rpartition(b"/")[0]
        for directory in reversed(missing):
            self._directories.add(directory)
            self._entry(directory, os.lstat(self._root + b"/" + directory))

    def _entry(self, name: bytes, status: os.stat_result, link: bytes = b"") -> None:
        if stat.S_ISSOCK(status.st_mode):
            return  # means nothing without the process that listens
        path = self._root + b"/" + name
        seconds = status.st_mtime_ns // _SECOND
        if self._epoch is not None:
            seconds = min(seconds, self._epoch)
        attributes = xattrs(path)
        if link or not stat.S_ISREG(status.st_mode):
            target = link or (os.readlink(path) if stat.S_ISLNK(status.st_mode) else b"")
            self._writer.header(name, status, seconds, target=target, hard=bool(link), xattrs=attributes)
            return
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            opened = os.fstat(fd)
            if (opened.st_dev, opened.st_ino) != (status.st_dev, status.st_ino) or not stat.S_ISREG(opened.st_mode):
                raise Fault(STATE, f'"{printable(name)}": was replaced while it was being read')
            self._writer.header(name, opened, seconds, xattrs=attributes)
            self._copy(fd, name, opened.st_size)
        finally:
            os.close(fd)

    def _copy(self, fd: int, name: bytes, size: int) -> None:
        left = size
        while left:
            data = os.read(fd, min(left, _PIECE))
            if not data:
                raise Fault(STATE, f'"{printable(name)}": was cut short while it was being read; pause the container')
            self._writer.data(data)
            left -= len(data)
        self._writer.pad(size)


def walk_both(layer: Layer, lower: bytes, upper: bytes) -> None:
    """Compare two whole trees."""
    stack = [_Level(b"", _names(upper, b""), _names(lower, b""))]
    while stack:
        level = stack[-1]
        if not level.todo:
            stack.pop()
            continue
        base = level.todo.pop()
        child = level.name + b"/" + base if level.name else base
        if base not in level.upper:
            layer.removed(child)
            continue
        status = os.lstat(upper + b"/" + child)
        before = os.lstat(lower + b"/" + child) if base in level.lower else None
        if before is not None and same(lower + b"/" + child, before, upper + b"/" + child, status):
            layer.unchanged(child, status)
        else:
            layer.changed(child, status)
        if stat.S_ISDIR(status.st_mode):
            was_directory = before is not None and stat.S_ISDIR(before.st_mode)
            stack.append(_Level(child, _names(upper, child), _names(lower, child) if was_directory else set()))


class _Level:
    """A directory of both trees, and the names in it that are still to be looked at, last first."""

    def __init__(self, name: bytes, upper: set[bytes], lower: set[bytes]) -> None:
        self.name = name
        self.upper = upper
        self.lower = lower
        self.todo = sorted(upper | lower, reverse=True)


def walk_layer(layer: Layer, merged: bytes, top: bytes) -> None:
    """Read off an overlay's top directory what it changes; attributes and data come from the merged tree."""
    stack = [(b"", sorted(_names(top, b""), reverse=True), top)]
    while stack:
        name, todo, source = stack.pop()
        while todo:
            base = todo.pop()
            child = name + b"/" + base if name else base
            status = os.lstat(source + b"/" + child)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                layer.removed(child)
                continue
            if not stat.S_ISDIR(status.st_mode):
                # As users see it, since the top layer may hold a file's attributes only.
                layer.changed(child, os.lstat(merged + b"/" + child))
                continue
            layer.changed(child, os.lstat(merged + b"/" + child))
            inner = source
            if source == top and _has(top + b"/" + child, _MOVED):
                # Renamed from elsewhere: what it holds is not in this layer's directory alone.
                layer.opaque(child)
                inner = merged
            elif source == top and _has(top + b"/" + child, _OPAQUE_NAMES):
                layer.opaque(child)
            stack.append((name, todo, source))
            stack.append((child, sorted(_names(inner, child), reverse=True), inner))
            break


def same(lower: bytes, before: os.stat_result, upper: bytes, after: os.stat_result) -> bool:
    """Whether two names have the same type, attributes and content. Times of directories do not count."""
    if (before.st_dev, before.st_ino, before.st_ctime_ns) == (after.st_dev, after.st_ino, after.st_ctime_ns):
        return True
    if (before.st_mode, before.st_uid, before.st_gid) != (after.st_mode, after.st_uid, after.st_gid):
        return False
    if xattrs(lower) != xattrs(upper):
        return False
    if stat.S_ISDIR(after.st_mode):
        return True
    if (before.st_mtime_ns, before.st_rdev, before.st_size) != (after.st_mtime_ns, after.st_rdev, after.st_size):
        return False
    if stat.S_ISLNK(after.st_mode):
        return os.readlink(lower) == os.readlink(upper)
    # Whole seconds are what layers bring: such times say little, so look.
    look = stat.S_ISREG(after.st_mode) and after.st_mtime_ns % _SECOND == 0
    return not look or _same_content(lower, upper)


def _same_content(one: bytes, other: bytes) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    first = os.open(one, flags)
    try:
        second = os.open(other, flags)
        try:
            while True:
                data = os.read(first, _PIECE)
                if data != os.read(second, _PIECE):
                    return False
                if not data:
                    return True
        finally:
            os.close(second)
    finally:
        os.close(first)


def xattrs(path: bytes) -> dict[str, bytes]:
    """The extended attributes that belong into a layer."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in sorted(names)
            if not name.startswith(_NOT_KEPT)
        }
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return {}
        raise


def _has(path: bytes, names: tuple[str, ...]) -> bool:
    return any(name in names for name in os.listxattr(path, follow_symlinks=False))


def _names(root: bytes, name: bytes) -> set[bytes]:
    fd = os.open(root + b"/" + name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return {os.fsencode(base) for base in os.listdir(fd)}
    finally:
        os.close(fd)
