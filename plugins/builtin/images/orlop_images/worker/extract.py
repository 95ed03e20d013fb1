# SPDX-License-Identifier: Apache-2.0
"""Writes the entries of a layer into a tree.

The common case, a new regular file of root's, costs four system calls: open, write, set times, close. Everything else
(owners, special modes, attributes, something in the way) is paid for only where it occurs.
"""

from __future__ import annotations

import errno
import os
import stat
from enum import Enum
from typing import Final

from orlop_images.worker import tar
from orlop_images.worker.fault import FULL, Fault, damaged, invalid, printable
from orlop_images.worker.tar import Entry, TarReader
from orlop_images.worker.tree import Directories, Directory, clean, remove_tree

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_OPAQUE_XATTR: Final = "trusted.overlay.opaque"
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL: Final = 0o6000
_TYPES: Final = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
# Attributes by which a layer could forge what overlayfs stores; containerd drops the first kind too.
_FORBIDDEN_XATTRS: Final = ("trusted.", "user.overlay.")
_MOST_DEVICE: Final = (1 << 32) - 1
_MOST_ID: Final = (1 << 32) - 2


class Whiteouts(Enum):
    """What becomes of entries that say "this is gone"."""

    REMOVE = "remove"
    """The tree is whole: take the file away."""
    OVERLAY = "overlay"
    """The tree is one layer of an overlay: leave its mark for a removed file, a device 0:0."""


class Extractor:
    """Unpacks one layer into the current root directory."""

    def __init__(
        self, reader: TarReader, directories: Directories, whiteouts: Whiteouts, *, devices: bool = True, limit: int = 0
    ) -> None:
        self._reader = reader
        self._directories = directories
        self._whiteouts = whiteouts
        self._devices = devices
        self._limit = limit
        self._written: set[bytes] = set()
        # Directories somewhere below which this layer has entries; removing any other needs no look at those.
        self._touched: set[bytes] = {b""}
        self._removed: set[bytes] = set()
        self._times: dict[bytes, tuple[int, int]] = {}
        self._opaque: set[bytes] = set()
        self.entries = 0

    def run(self) -> None:
        """Write all entries, then the times of directories, which later entries would have changed."""
        reader, limit = self._reader, self._limit
        os.umask(0)
        while (entry := reader.next()) is not None:
            self.entries += 1
            if limit and self.entries > limit:
                raise Fault(FULL, f"layer: more than {limit} entries; raise max_layer_entries")
            try:
                self._write(entry)
            except OSError as error:
                error.filename, error.filename2 = entry.name, None
                raise
        for path, times in (self._directories.inherited | self._times).items():
            try:
                os.utime(path, ns=times, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed by a later entry

    def _write(self, entry: Entry) -> None:
        name = clean(entry.name)
        if not name or (not self._devices and entry.kind in (tar.CHARACTER, tar.BLOCK_DEVICE)):
            self._reader.stream.skip(entry.stored)  # the root is the snapshotter's
            return
        parent, _, base = name.rpartition(b"/")
        directory = self._directories.get(parent)
        above = directory.path
        while above not in self._touched:
            self._touched.add(above)
            above = above.rpartition(b"/")[0]
        if base.startswith(_WHITEOUT):
            self._reader.stream.skip(entry.stored)
            self._whiteout(entry, directory, base)
            return
        if entry.uid > _MOST_ID or entry.gid > _MOST_ID:
            raise invalid(f'layer: "{printable(name)}": owner {entry.uid}:{entry.gid} is out of range')
        path = directory.child(base)
        if entry.kind == tar.FILE:
            self._file(entry, directory, base)
        elif entry.kind == tar.DIRECTORY:
            self._directory(entry, directory, base)
        elif entry.kind == tar.SYMLINK:
            self._symlink(entry, directory, base)
        elif entry.kind == tar.HARD_LINK:
            self._hard_link(entry, directory, base)
        elif entry.kind in _TYPES:
            self._node(entry, directory, base)
        else:
            raise invalid(f'layer: "{printable(name)}": unknown type of entry {entry.kind!r}')
        self._written.add(path)

    # ---- kinds ------------------------------------------------------------------------------------------------------

    def _file(self, entry: Entry, directory: Directory, base: bytes) -> None:
        try:
            fd = os.open(base, _CREATE, entry.mode, dir_fd=directory.fd)
        except FileExistsError:
            directory = self._clear(directory, base)
            fd = os.open(base, _CREATE, entry.mode, dir_fd=directory.fd)
        try:
            if entry.sparse is not None:
                self._write_sparse(fd, entry)
            elif entry.size:
                write = os.write
                for piece in self._reader.stream.pieces(entry.size):
                    done = write(fd, piece)
                    while done < len(piece):
                        done += write(fd, piece[done:])
            chown = entry.uid or entry.gid or not directory.plain
            if chown:
                os.fchown(fd, entry.uid, entry.gid)
            if entry.xattrs:
                _set_xattrs(fd, entry)
            if entry.xattrs or not directory.plain or (chown and entry.mode & _SPECIAL):
                os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(_bound(entry.atime), _bound(entry.mtime)))
        finally:
            os.close(fd)

    def _write_sparse(self, fd: int, entry: Entry) -> None:
        os.ftruncate(fd, entry.size)
        for offset, length in entry.sparse or ():
            at = offset
            for piece in self._reader.stream.pieces(length):
                done = 0
                while done < len(piece):
                    done += os.pwrite(fd, piece[done:], at + done)
                at += len(piece)

    def _directory(self, entry: Entry, directory: Directory, base: bytes) -> None:
        exists = False
        try:
            os.mkdir(base, entry.mode, dir_fd=directory.fd)
        except FileExistsError:
            exists = stat.S_ISDIR(os.stat(base, dir_fd=directory.fd, follow_symlinks=False).st_mode)
            if not exists:
                hidden = directory.child(base) in self._removed
                directory = self._clear(directory, base)
                os.mkdir(base, entry.mode, dir_fd=directory.fd)
                if hidden:
                    self._make_opaque(directory.child(base))
        path = directory.child(base)
        careful = exists or not directory.plain
        if careful or entry.uid or entry.gid:
            os.chown(base, entry.uid, entry.gid, dir_fd=directory.fd, follow_symlinks=False)
        if entry.xattrs:
            _set_xattrs(path, entry)
        if careful or entry.xattrs or entry.mode & _SPECIAL:
            # Not followed: it is a directory, as was just made sure.
            os.chmod(base, entry.mode, dir_fd=directory.fd)
            self._directories.forget_one(path)
        self._times[path] = (_bound(entry.atime), _bound(entry.mtime))

    def _symlink(self, entry: Entry, directory: Directory, base: bytes) -> None:
        try:
            os.symlink(entry.link, base, dir_fd=directory.fd)
        except FileExistsError:
            directory = self._clear(directory, base)
            os.symlink(entry.link, base, dir_fd=directory.fd)
        self._finish(entry, directory, base, chmod=False)

    def _node(self, entry: Entry, directory: Directory, base: bytes) -> None:
        if entry.major > _MOST_DEVICE or entry.minor > _MOST_DEVICE:
            raise invalid(f'layer: "{printable(entry.name)}": device {entry.major}:{entry.minor} is out of range')
        mode = _TYPES[entry.kind] | entry.mode
        device = 0 if entry.kind == tar.FIFO else os.makedev(entry.major, entry.minor)
        try:
            os.mknod(base, mode, device, dir_fd=directory.fd)
        except FileExistsError:
            directory = self._clear(directory, base)
            os.mknod(base, mode, device, dir_fd=directory.fd)
        self._finish(entry, directory, base, chmod=True)

    def _hard_link(self, entry: Entry, directory: Directory, base: bytes) -> None:
        """Link to a name of this tree. The name's parents may be symbolic links; the name itself is not followed."""
        try:
            directory = self._link(entry, directory, base)
        except FileNotFoundError:
            text = f'hard link to "{printable(entry.link)}", which is not in this layer'
            raise invalid(f'layer: "{printable(entry.name)}": {text}') from None
        found = os.stat(base, dir_fd=directory.fd, follow_symlinks=False)
        is_link = stat.S_ISLNK(found.st_mode)
        mode = entry.mode if is_link else stat.S_IMODE(found.st_mode)  # links have no mode of their own
        has = (found.st_uid, found.st_gid, mode, found.st_atime_ns, found.st_mtime_ns)
        if has != (entry.uid, entry.gid, entry.mode, _bound(entry.atime), _bound(entry.mtime)) or entry.xattrs:
            self._finish(entry, directory, base, chmod=not is_link)

    def _link(self, entry: Entry, directory: Directory, base: bytes) -> Directory:
        parent, _, target = clean(entry.link).rpartition(b"/")
        source = self._directories.find(parent)
        # Looked up first: nothing is removed for a link that leads nowhere.
        status = os.stat(target or b".", dir_fd=source.fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            raise invalid(f'layer: "{printable(entry.name)}": hard link to a directory')
        if source.child(target) == directory.child(base):
            raise invalid(f'layer: "{printable(entry.name)}": hard link to itself')
        try:
            os.link(target, base, src_dir_fd=source.fd, dst_dir_fd=directory.fd, follow_symlinks=False)
        except FileExistsError:
            directory = self._clear(directory, base)
            source = self._directories.find(parent)
            os.link(target, base, src_dir_fd=source.fd, dst_dir_fd=directory.fd, follow_symlinks=False)
        return directory

    def _finish(self, entry: Entry, directory: Directory, base: bytes, *, chmod: bool) -> None:
        """Owner, attributes, mode and times of what is not open."""
        fd = directory.fd
        if entry.uid or entry.gid or not directory.plain or entry.kind == tar.HARD_LINK:
            os.chown(base, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
        if entry.xattrs:
            _set_xattrs(directory.child(base), entry)
        if chmod:
            os.chmod(base, entry.mode, dir_fd=fd)
        os.utime(base, ns=(_bound(entry.atime), _bound(entry.mtime)), dir_fd=fd, follow_symlinks=False)

    # ---- what is in the way, and what is to go ---------------------------------------------------------------------

    def _clear(self, directory: Directory, base: bytes) -> Directory:
        """Remove what has that name, to be replaced. Returns the directory anew, as everything may have moved."""
        path = directory.child(base)
        status = os.stat(base, dir_fd=directory.fd, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(base, dir_fd=directory.fd)
            if not stat.S_ISLNK(status.st_mode):
                return directory
        else:
            remove_tree(path)
            self._forget_below(path)
        self._directories.forget()
        return self._directories.get(directory.path)

    def _forget_below(self, path: bytes) -> None:
        if path not in self._touched and path not in self._written:
            return
        inside = path + b"/"
        for times in (self._times, self._directories.inherited):
            for name in [name for name in times if name == path or name.startswith(inside)]:
                del times[name]
        self._written = {name for name in self._written if not name.startswith(inside)}
        self._removed = {name for name in self._removed if not name.startswith(inside)}
        self._opaque = {name for name in self._opaque if name != path and not name.startswith(inside)}

    def _whiteout(self, entry: Entry, directory: Directory, base: bytes) -> None:
        if base == _OPAQUE:
            self._hide_lower(directory)
            return
        target = base[len(_WHITEOUT) :]
        if target in (b"", b".", b".."):
            raise invalid(f'layer: "{printable(entry.name)}": invalid whiteout name')
        path = directory.child(target)
        if self._whiteouts is Whiteouts.REMOVE:
            self._remove(directory, target)
            return
        if not self._directories.is_below(path):
            # overlayfs lists marks that hide nothing as names that cannot be looked up.
            if path not in self._written:
                self._remove(directory, target)
            return
        try:
            os.mknod(target, stat.S_IFCHR, 0, dir_fd=directory.fd)
        except FileExistsError:
            if path in self._written:
                # Whiteouts are about the layers below; what this layer brings itself stays, and hides them anyway.
                if stat.S_ISDIR(os.stat(target, dir_fd=directory.fd, follow_symlinks=False).st_mode):
                    self._make_opaque(path)
                return
            directory = self._clear(directory, target)
            os.mknod(target, stat.S_IFCHR, 0, dir_fd=directory.fd)
        self._removed.add(path)
        if entry.uid or entry.gid or not directory.plain:
            os.chown(target, entry.uid, entry.gid, dir_fd=directory.fd, follow_symlinks=False)

    def _remove(self, directory: Directory, base: bytes) -> None:
        path = directory.child(base)
        try:
            if path in self._written:
                if stat.S_ISDIR(os.stat(base, dir_fd=directory.fd, follow_symlinks=False).st_mode):
                    self._remove_older(path)
            else:
                self._clear(directory, base)
        except FileNotFoundError:
            return  # nothing to hide: allowed

    def _hide_lower(self, directory: Directory) -> None:
        if self._whiteouts is Whiteouts.OVERLAY:
            self._make_opaque(directory.path)
        elif directory.path not in self._opaque:
            self._opaque.add(directory.path)
            self._remove_older(directory.path)

    def _make_opaque(self, path: bytes) -> None:
        os.setxattr(path or b".", _OPAQUE_XATTR, b"y", follow_symlinks=False)

    def _remove_older(self, path: bytes) -> None:
        """Remove everything below that this layer did not bring, wherever among its entries the mark stands."""
        kept = self._written_below(path)
        stack = [path]
        while stack:
            current = stack.pop()
            for base in os.listdir(current or b"."):
                child = current + b"/" + base if current else base
                is_directory = stat.S_ISDIR(os.lstat(child).st_mode)
                if child in kept:
                    if is_directory:
                        stack.append(child)
                elif is_directory:
                    remove_tree(child)
                    self._forget_below(child)
                else:
                    os.unlink(child)
        self._directories.forget()

    def _written_below(self, path: bytes) -> set[bytes]:
        """What this layer brought below a directory, with the directories in between."""
        if path not in self._touched:
            return set()
        inside = path + b"/" if path else b""
        kept = set()
        for written in self._written:
            name = written
            while name.startswith(inside) and name != path and name and name not in kept:
                kept.add(name)
                name = name.rpartition(b"/")[0]
        return kept


def _bound(nanoseconds: int) -> int:
    """Times that file systems cannot hold become 1970, as containerd has it."""
    return nanoseconds if 0 <= nanoseconds < 1 << 63 else 0


def _set_xattrs(target: int | bytes, entry: Entry) -> None:
    for name, value in (entry.xattrs or {}).items():
        if name.startswith(_FORBIDDEN_XATTRS):
            continue
        try:
            if isinstance(target, int):
                os.setxattr(target, name, value)
            else:
                os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                continue
            # Only files and directories can have attributes that users may set.
            if error.errno == errno.EPERM and name.startswith("user.") and entry.kind not in (tar.FILE, tar.DIRECTORY):
                continue
            if error.errno in (errno.EINVAL, errno.ERANGE, errno.E2BIG):
                raise damaged(f'layer: "{printable(entry.name)}": attribute {name!r}: {error.strerror}') from None
            raise
