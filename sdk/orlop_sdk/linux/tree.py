# SPDX-License-Identifier: Apache-2.0
"""Measure and remove trees that a container wrote: names, depth and links are whatever somebody hostile chose.

Nothing here follows a symbolic link, leaves the file system it started on, recurses, or holds more than three
descriptors open, however deep the tree.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from orlop.values import Usage
from orlop_sdk.linux import syscalls as sc

FS_IOC_GETFLAGS: Final = 0x80086601
FS_IOC_SETFLAGS: Final = 0x40086602
FS_IMMUTABLE_FL: Final = 0x10
FS_APPEND_FL: Final = 0x20

# Paths may not exceed PATH_MAX (4096), so that they are cut into pieces; a piece of this length takes one more name.
_LONG: Final = 3000
_WITHIN: Final = sc.RESOLVE_NO_SYMLINKS | sc.RESOLVE_NO_XDEV
_NOT_THERE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Directory:
    """One directory of a walk. ``fd`` is open, and ``entries`` can be asked for their stat, until the next step."""

    path: str
    """Relative to the top; ``.`` for the top itself."""
    fd: int
    entries: list[os.DirEntry[str]]


def directories(top: str | os.PathLike[str]) -> Iterator[Directory]:
    """Every directory of a tree, parents first. What vanishes meanwhile is left out, mounts below are not entered."""
    top_fd = os.open(top, _OPEN)
    try:
        # Paths in pieces short enough for the kernel.
        pending: list[tuple[str, ...]] = [()]
        while pending:
            pieces = pending.pop()
            with _reached(top_fd, pieces) as fd:
                if fd is None:
                    continue
                with os.scandir(fd) as listing:
                    directory = Directory("/".join(pieces) or ".", fd, list(listing))
                yield directory
                for entry in directory.entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(_below(pieces, entry.name))
    finally:
        os.close(top_fd)


def disk_usage(top: str | os.PathLike[str]) -> Usage:
    """Bytes on disk and inodes of a tree; what has several hard links counts once."""
    first = os.stat(top, follow_symlinks=False)
    size, inodes = first.st_blocks * 512, 1
    seen: set[tuple[int, int]] = set()
    for directory in directories(top):
        for entry in directory.entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            size += found.st_blocks * 512
            inodes += 1
    return Usage(size, inodes)


def remove_tree(top: str | os.PathLike[str]) -> None:
    """Remove a directory with all it holds; one that does not exist is fine.

    A directory with something mounted on it raises EBUSY, and nothing of what is mounted is touched.
    """
    try:
        fd = os.open(top, _OPEN)
    except FileNotFoundError:
        return
    try:
        _empty(fd)
    finally:
        os.close(fd)
    os.rmdir(top)


def _below(pieces: tuple[str, ...], name: str) -> tuple[str, ...]:
    if pieces and len(os.fsencode(pieces[-1])) <= _LONG:
        return (*pieces[:-1], f"{pieces[-1]}/{name}")
    return (*pieces, name)


@contextlib.contextmanager
def _reached(top: int, pieces: tuple[str, ...]) -> Iterator[int | None]:
    """Open a directory below *top*; None when it is no longer there, or not reached without a link or a mount."""
    fd: int | None = os.open(".", _OPEN, dir_fd=top)
    try:
        for piece in pieces:
            assert fd is not None
            above, fd = fd, None
            try:
                fd = sc.openat2(piece, os.O_RDONLY | os.O_DIRECTORY, dir_fd=above, resolve=_WITHIN)
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise
                break
            finally:
                os.close(above)
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


@contextlib.contextmanager
def _opened(name: str, dir_fd: int) -> Iterator[int]:
    fd = os.open(name, _OPEN, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _empty(top: int) -> None:
    """Remove everything in *top*.

    A subdirectory that is not empty is moved up into *top* before it is emptied, so the depth never matters. As the
    kernel refuses to move or remove a mount point, there is no way into one.
    """
    token = secrets.token_hex(8)
    moved = _empty_one(top, top, token, 0)
    # Numbers of the directories that wait in `top`; those of its own were renamed there as well.
    done = 0
    while done < moved:
        name = f"{token}-{done}"
        with _opened(name, top) as fd:
            moved = _empty_one(fd, top, token, moved)
        os.rmdir(name, dir_fd=top)
        done += 1


def _empty_one(fd: int, top: int, token: str, moved: int) -> int:
    with os.scandir(fd) as listing:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing]
    for name, is_directory in entries:
        if not is_directory:
            _unflagged(partial(os.unlink, name, dir_fd=fd), name, fd)
            continue
        try:
            _unflagged(partial(os.rmdir, name, dir_fd=fd), name, fd)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            _unflagged(partial(os.rename, name, f"{token}-{moved}", src_dir_fd=fd, dst_dir_fd=top), name, fd)
            moved += 1
    return moved


def _unflagged(step: Callable[[], None], name: str, dir_fd: int) -> None:
    """Take a step on *name*, and if that is not permitted, once more without the flags chattr(1) sets."""
    try:
        step()
    except PermissionError:
        _clear_flags(dir_fd)
        if stat.S_IFMT(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
            try:
                _clear_flags(fd)
            finally:
                os.close(fd)
        step()


def _clear_flags(fd: int) -> None:
    try:
        (flags,) = struct.unpack("i", fcntl.ioctl(fd, FS_IOC_GETFLAGS, struct.pack("i", 0)))
        if flags & (FS_IMMUTABLE_FL | FS_APPEND_FL):
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("i", flags & ~(FS_IMMUTABLE_FL | FS_APPEND_FL)))
    except OSError as error:
        # A file system without such flags was not what refused the step.
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise
