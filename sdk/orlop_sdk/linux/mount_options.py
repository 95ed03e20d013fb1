# SPDX-License-Identifier: Apache-2.0
"""fstab-like mount options, and mounts that need nothing but mount(2).

The small part of `orlop_sdk.linux.mount`, for processes that count their memory: it imports next to nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from orlop.errors import InvalidArgument
from orlop_sdk.hints import Final, NamedTuple
from orlop_sdk.linux import syscalls as sc

# Option -> (whether it sets or clears, flag), as in mount(8).
_FLAGS: Final[dict[str, tuple[bool, int]]] = {
    "async": (False, sc.MS_SYNCHRONOUS),
    "atime": (False, sc.MS_NOATIME),
    "bind": (True, sc.MS_BIND),
    "defaults": (False, 0),
    "dev": (False, sc.MS_NODEV),
    "diratime": (False, sc.MS_NODIRATIME),
    "dirsync": (True, sc.MS_DIRSYNC),
    "exec": (False, sc.MS_NOEXEC),
    "lazytime": (True, sc.MS_LAZYTIME),
    "mand": (True, sc.MS_MANDLOCK),
    "noatime": (True, sc.MS_NOATIME),
    "nodev": (True, sc.MS_NODEV),
    "nodiratime": (True, sc.MS_NODIRATIME),
    "noexec": (True, sc.MS_NOEXEC),
    "nolazytime": (False, sc.MS_LAZYTIME),
    "nomand": (False, sc.MS_MANDLOCK),
    "norelatime": (False, sc.MS_RELATIME),
    "nostrictatime": (False, sc.MS_STRICTATIME),
    "nosuid": (True, sc.MS_NOSUID),
    "nosymfollow": (True, sc.MS_NOSYMFOLLOW),
    "rbind": (True, sc.MS_BIND | sc.MS_REC),
    "relatime": (True, sc.MS_RELATIME),
    "remount": (True, sc.MS_REMOUNT),
    "ro": (True, sc.MS_RDONLY),
    "rw": (False, sc.MS_RDONLY),
    "silent": (True, sc.MS_SILENT),
    "strictatime": (True, sc.MS_STRICTATIME),
    "suid": (False, sc.MS_NOSUID),
    "sync": (True, sc.MS_SYNCHRONOUS),
}
_PROPAGATION: Final = {
    f"{prefix}{name}": flag | recursive
    for name, flag in (
        ("private", sc.MS_PRIVATE),
        ("shared", sc.MS_SHARED),
        ("slave", sc.MS_SLAVE),
        ("unbindable", sc.MS_UNBINDABLE),
    )
    for prefix, recursive in (("", 0), ("r", sc.MS_REC))
}
# Options that need steps of their own which nothing here takes.
_REFUSED: Final = frozenset({"loop"})

# What a bind mount ignores unless it is remounted.
_PER_MOUNT: Final = (
    sc.MS_RDONLY
    | sc.MS_NOSUID
    | sc.MS_NODEV
    | sc.MS_NOEXEC
    | sc.MS_NOATIME
    | sc.MS_NODIRATIME
    | sc.MS_RELATIME
    | sc.MS_STRICTATIME
    | sc.MS_NOSYMFOLLOW
)

#: Most bytes of options that mount(2) takes: a page with its terminating zero.
MOST_DATA: Final = os.sysconf("SC_PAGE_SIZE") - 1


class MountOptions(NamedTuple):
    """fstab-like options, sorted into what mount(2) wants."""

    flags: int = 0
    """``MS_*``"""
    propagation: int = 0
    """``MS_PRIVATE`` and the like, for a call of its own."""
    data: tuple[str, ...] = ()
    """What the file system itself understands."""

    @property
    def text(self) -> str:
        """The file system's own options as mount(2) takes them."""
        return ",".join(self.data)

    @property
    def fits(self) -> bool:
        """Whether mount(2) takes them all."""
        return bool(self.flags & (sc.MS_BIND | sc.MS_REMOUNT)) or len(os.fsencode(self.text)) <= MOST_DATA


def parse_options(options: Iterable[str]) -> MountOptions:
    """Sort options; later ones win. Raises `InvalidArgument` for ``loop``, which needs a loop device made first."""
    flags = propagation = 0
    data = []
    for option in options:
        if option in _FLAGS:
            sets, flag = _FLAGS[option]
            flags = flags | flag if sets else flags & ~flag
        elif option in _PROPAGATION:
            propagation = _PROPAGATION[option]
        elif option in _REFUSED:
            raise InvalidArgument(f'mount option "{option}": not supported; use a snapshotter that does not need it')
        elif option:
            data.append(option)
    return MountOptions(flags, propagation, tuple(data))


def mount_plain(type: str, source: str, target: str | os.PathLike[str], options: MountOptions) -> None:
    """Make one mount whose options fit. Raises OSError."""
    sc.mount(source, target, "" if options.flags & sc.MS_BIND else type, options.flags, options.text)
    settle(target, options)


def settle(target: str | os.PathLike[str], options: MountOptions) -> None:
    """Give a new mount what takes calls of its own: flags of a bind mount, and propagation; unmount it on failure."""
    try:
        if options.flags & sc.MS_BIND and not options.flags & sc.MS_REMOUNT and options.flags & _PER_MOUNT:
            # A bind copies the flags of what it binds; its own take effect by remounting only.
            sc.mount("", target, "", options.flags & ~sc.MS_REC | sc.MS_REMOUNT)
        if options.propagation:
            sc.mount("", target, "", options.propagation)
    except OSError:
        sc.umount2(target, sc.MNT_DETACH)
        raise
