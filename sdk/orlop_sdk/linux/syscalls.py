# SPDX-License-Identifier: Apache-2.0
"""One thin wrapper for each system call, named after it. Failures are `OSError` with the errno and the path.

Constants carry their kernel names (``linux/mount.h``, ``linux/openat2.h``, ``sched.h``). Calls from 424 on have the
same number on every architecture, so those that glibc does not wrap go through ``syscall``.
"""

from __future__ import annotations

import ctypes
import errno
import os

from orlop_sdk.hints import Any, Final

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_SYNCHRONOUS: Final = 16
MS_REMOUNT: Final = 32
MS_MANDLOCK: Final = 64
MS_DIRSYNC: Final = 128
MS_NOSYMFOLLOW: Final = 256
MS_NOATIME: Final = 1024
MS_NODIRATIME: Final = 2048
MS_BIND: Final = 4096
MS_MOVE: Final = 8192
MS_REC: Final = 16384
MS_SILENT: Final = 32768
MS_UNBINDABLE: Final = 1 << 17
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MS_RELATIME: Final = 1 << 21
MS_STRICTATIME: Final = 1 << 24
MS_LAZYTIME: Final = 1 << 25

MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

CLONE_NEWTIME: Final = 0x80
CLONE_FS: Final = 0x200
CLONE_NEWNS: Final = 0x20000
CLONE_NEWCGROUP: Final = 0x2000000
CLONE_NEWUTS: Final = 0x4000000
CLONE_NEWIPC: Final = 0x8000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

FSOPEN_CLOEXEC: Final = 1
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_CMD_CREATE: Final = 6
FSMOUNT_CLOEXEC: Final = 1
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8
MOUNT_ATTR_RELATIME: Final = 0x0
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_STRICTATIME: Final = 0x20
MOUNT_ATTR_NODIRATIME: Final = 0x80
MOUNT_ATTR_IDMAP: Final = 0x100000
MOUNT_ATTR_NOSYMFOLLOW: Final = 0x200000
OPEN_TREE_CLONE: Final = 0x1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10
RESOLVE_CACHED: Final = 0x20

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000

_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_FSOPEN: Final = 430
_SYS_FSCONFIG: Final = 431
_SYS_FSMOUNT: Final = 432
_SYS_OPENAT2: Final = 437
_SYS_MOUNT_SETATTR: Final = 442

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    """The kernel's ``struct open_how``."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttr(ctypes.Structure):
    """The kernel's ``struct mount_attr``."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _prototype(name: str, *arguments: Any) -> Any:
    function = getattr(_libc, name)
    function.argtypes = arguments
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    return function


_mount: Final = _prototype("mount", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_umount2: Final = _prototype("umount2", ctypes.c_char_p, ctypes.c_int)
_unshare: Final = _prototype("unshare", ctypes.c_int)
_setns: Final = _prototype("setns", ctypes.c_int, ctypes.c_int)
_pivot_root: Final = _prototype("pivot_root", ctypes.c_char_p, ctypes.c_char_p)
_syncfs: Final = _prototype("syncfs", ctypes.c_int)
# No argtypes: the calls below differ, so each passes ctypes values of the right width itself.
_syscall: Final = _libc.syscall
_syscall.restype = ctypes.c_long


def _fail(what: str, path: str = "") -> OSError:
    number = ctypes.get_errno()
    text = f"{what}: {os.strerror(number)}"
    if number == errno.ENOSYS:
        text += "; this kernel is too old for the call, or a seccomp filter hides it"
    return OSError(number, text, path) if path else OSError(number, text)


def _path(path: str | os.PathLike[str]) -> bytes:
    return os.fsencode(path)


def _call(number: int, *arguments: ctypes._SimpleCData[Any] | Any) -> int:
    return int(_syscall(ctypes.c_long(number), *arguments))


def mount(source: str, target: str | os.PathLike[str], type: str, flags: int, data: str = "") -> None:
    """Mount a file system. *data* of a page or more is cut off by the kernel, so it is refused here with E2BIG."""
    raw = os.fsencode(data)
    if len(raw) >= os.sysconf("SC_PAGE_SIZE"):
        raise OSError(errno.E2BIG, f"mount {type}: options take {len(raw)} bytes, more than a page", str(target))
    if _mount(_path(source), _path(target), type.encode(), flags, raw or None) < 0:
        raise _fail(f"mount {type or 'bind'} from {source}", str(target))


def umount2(target: str | os.PathLike[str], flags: int = 0) -> None:
    """Unmount what is mounted at *target*."""
    if _umount2(_path(target), flags) < 0:
        raise _fail("unmount", str(target))


def unshare(flags: int) -> None:
    """Leave namespaces for new ones. Acts on the calling thread: never for one that others share, as in a pool."""
    if _unshare(flags) < 0:
        raise _fail(f"unshare {flags:#x}")


def setns(fd: int, flags: int = 0) -> None:
    """Enter a namespace. Acts on the calling thread."""
    if _setns(fd, flags) < 0:
        raise _fail(f"setns {flags:#x}")


def pivot_root(new_root: str | os.PathLike[str], put_old: str | os.PathLike[str]) -> None:
    """Swap the root mount of this mount namespace."""
    if _pivot_root(_path(new_root), _path(put_old)) < 0:
        raise _fail("pivot_root", str(new_root))


def syncfs(fd: int) -> None:
    """Write back the file system that *fd* is on."""
    if _syncfs(fd) < 0:
        raise _fail("syncfs")


def fsopen(type: str, flags: int = FSOPEN_CLOEXEC) -> int:
    """Open a context in which a file system is configured; close the descriptor."""
    fd = _call(_SYS_FSOPEN, ctypes.c_char_p(type.encode()), ctypes.c_uint(flags))
    if fd < 0:
        raise _fail(f"fsopen {type}")
    return fd


def fsconfig(fd: int, command: int, key: str = "", value: str = "") -> None:
    """Set a flag or a string (of at most 255 bytes), or give a command. The kernel's own words join the error."""
    failed = _call(
        _SYS_FSCONFIG,
        ctypes.c_int(fd),
        ctypes.c_uint(command),
        ctypes.c_char_p(key.encode() if key else None),
        ctypes.c_char_p(os.fsencode(value) if command == FSCONFIG_SET_STRING else None),
        ctypes.c_int(0),
    )
    if failed < 0:
        error = _fail(f"fsconfig {key or command}")
        said = _context_log(fd)
        raise OSError(error.errno, f"{error.strerror}; {said}") if said else error


def _context_log(fd: int) -> str:
    """What the kernel wrote about a context: lines such as ``e overlay: missing 'lowerdir'``."""
    lines = []
    for _ in range(8):  # the kernel keeps eight at most
        try:
            lines.append(os.read(fd, 4096).decode(errors="replace").strip())
        except OSError:
            break  # ENODATA: no more
    return "; ".join(lines)


def fsmount(fd: int, flags: int = FSMOUNT_CLOEXEC, attributes: int = 0) -> int:
    """Make a mount that is attached nowhere yet; close the descriptor."""
    mounted = _call(_SYS_FSMOUNT, ctypes.c_int(fd), ctypes.c_uint(flags), ctypes.c_uint(attributes))
    if mounted < 0:
        raise _fail("fsmount")
    return mounted


def move_mount(fd: int, target: str | os.PathLike[str]) -> None:
    """Attach what `fsmount` made."""
    failed = _call(
        _SYS_MOVE_MOUNT,
        ctypes.c_int(fd),
        ctypes.c_char_p(b""),
        ctypes.c_int(AT_FDCWD),
        ctypes.c_char_p(_path(target)),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
    )
    if failed < 0:
        raise _fail("move_mount", str(target))


def open_tree(path: str | os.PathLike[str]) -> int:
    """Clone the mount at *path*, attached nowhere; close the descriptor."""
    fd = _call(
        _SYS_OPEN_TREE,
        ctypes.c_int(AT_FDCWD),
        ctypes.c_char_p(_path(path)),
        ctypes.c_uint(OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC),
    )
    if fd < 0:
        raise _fail("open_tree", str(path))
    return fd


def mount_setattr(fd: int, attributes: int, userns_fd: int = 0) -> None:
    """Set attributes of a mount that is attached nowhere yet; ``MOUNT_ATTR_IDMAP`` takes its ids from *userns_fd*."""
    wanted = _MountAttr(attr_set=attributes, userns_fd=userns_fd)
    failed = _call(
        _SYS_MOUNT_SETATTR,
        ctypes.c_int(fd),
        ctypes.c_char_p(b""),
        ctypes.c_uint(AT_EMPTY_PATH),
        ctypes.byref(wanted),
        ctypes.c_size_t(ctypes.sizeof(wanted)),
    )
    if failed < 0:
        raise _fail("mount_setattr")


def openat2(
    path: str | os.PathLike[str], flags: int, *, dir_fd: int = AT_FDCWD, mode: int = 0, resolve: int = 0
) -> int:
    """Open with rules for how the path may be resolved (``RESOLVE_IN_ROOT``...)."""
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve)
    fd = _call(
        _SYS_OPENAT2,
        ctypes.c_int(dir_fd),
        ctypes.c_char_p(_path(path)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if fd < 0:
        raise _fail("openat2", str(path))
    return fd
