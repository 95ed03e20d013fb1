# SPDX-License-Identifier: Apache-2.0
"""Copy a tree with everything a container could tell apart.

Owners, modes, times, extended attributes, hard links, holes, devices, FIFOs and sockets are kept. File data is shared
with the original where the file system can (btrfs, XFS), else it is copied within the kernel.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from orlop_sdk.linux.tree import directories

_CHUNK: Final = 1 << 26
# What copy_file_range(2) answers where a plain copy is the way.
_NO_KERNEL_COPY: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY)
_NO_ATTRIBUTES: Final = (errno.ENOTSUP, errno.EPERM)


def copy_tree(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy what is in *source* into the existing directory *target*, which also gets the looks of *source* itself.

    *target* must be ours alone. A tree with paths longer than PATH_MAX raises ENAMETOOLONG.
    """
    _Copy(source, target).run()


class _Copy:
    def __init__(self, source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
        self._source = os.fspath(source)
        self._target = os.fspath(target)
        # The first copy of every file that has more than one name, by device and inode of the original.
        self._linked: dict[tuple[int, int], str] = {}
        self._done: list[tuple[str, str]] = []

    def run(self) -> None:
        for directory in directories(self._source):
            inside = os.path.join(self._target, directory.path)
            for entry in directory.entries:
                self._copy(f"/proc/self/fd/{directory.fd}/{entry.name}", os.path.join(inside, entry.name), entry)
            self._done.append((directory.path, inside))
        # Children first: whatever is made in a directory changes its times.
        for path, inside in reversed(self._done):
            original = os.path.join(self._source, path)
            _copy_looks(original, inside, os.stat(original, follow_symlinks=False))

    def _copy(self, original: str, copy: str, entry: os.DirEntry[str]) -> None:
        found = entry.stat(follow_symlinks=False)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(copy, 0o700)
            return
        if found.st_nlink > 1:
            first = self._linked.setdefault((found.st_dev, found.st_ino), copy)
            if first != copy:
                os.link(first, copy, follow_symlinks=False)
                return
        if kind == stat.S_IFREG:
            _copy_data(original, copy, found)
        elif kind == stat.S_IFLNK:
            os.symlink(os.readlink(original), copy)
        else:
            os.mknod(copy, kind | 0o600, found.st_rdev)
        _copy_looks(original, copy, found)


def _copy_data(original: str, copy: str, found: os.stat_result) -> None:
    source = os.open(original, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        target = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if found.st_blocks * 512 >= found.st_size:
                _copy_range(source, target, 0, found.st_size)
            else:
                os.ftruncate(target, found.st_size)
                _copy_sparse(source, target, found.st_size)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_sparse(source: int, target: int, size: int) -> None:
    """Copy the parts that hold data; the rest are holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        _copy_range(source, target, start, end)


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    position = start
    while position < end:
        try:
            moved = os.copy_file_range(source, target, min(end - position, _CHUNK), position, position)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
            moved = _copy_chunk(source, target, min(end - position, 1 << 20), position)
        if not moved:
            return  # the file is shorter than it was
        position += moved


def _copy_chunk(source: int, target: int, size: int, position: int) -> int:
    data = memoryview(os.pread(source, size, position))
    done = 0
    while done < len(data):
        done += os.pwrite(target, data[done:], position + done)
    return done


def _copy_looks(original: str, copy: str, found: os.stat_result) -> None:
    # In this order: a new owner clears set-uid bits and file capabilities, and every change the times.
    os.chown(copy, found.st_uid, found.st_gid, follow_symlinks=False)
    for name in os.listxattr(original, follow_symlinks=False):
        _copy_attribute(original, copy, name)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(copy, stat.S_IMODE(found.st_mode))
    os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)


def _copy_attribute(original: str, copy: str, name: str) -> None:
    try:
        os.setxattr(copy, name, os.getxattr(original, name, follow_symlinks=False), follow_symlinks=False)
    except OSError as error:
        # Labels of a security module are the target's own affair; file capabilities are not.
        module = name.startswith("security.") and name != "security.capability"
        if not (module and error.errno in _NO_ATTRIBUTES):
            raise
