# SPDX-License-Identifier: Apache-2.0
"""The wait before a process can be moved into a control group, begun before there is a process to move.

Every OCI runtime moves the process that it makes into the container's control group. Such a move keeps all forks and
exits of the host out by a lock that is cheap for these and dear for it: after some 10 ms without any move, the next one
has to wait for a grace period of RCU, which takes 5 to 25 ms (``cgroup_threadgroup_rwsem``, of the kind that the
kernel's ``kernel/locking/percpu-rwsem.c`` describes). A move of the daemon's own process to where it is does the same
waiting while bundle, shim and runtime are being started. Hosts that mount their control groups with ``favordynmods``
have nothing to wait for.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final

_MOUNTS: Final = "/proc/self/mountinfo"
_GROUPS: Final = "/proc/self/cgroup"
_CHUNK: Final = 64 << 10
_PROCS: Final = "cgroup.procs"
# The controller that version 2 stands beside in `_GROUPS`.
_UNIFIED: Final = ""


def wait_for_moves() -> None:
    """Return when moves of processes between control groups need not wait. Changes nothing. Blocks.

    Where the daemon may not write to its own group, it returns at once.
    """
    with suppress(OSError):
        own = own_group(_read(_GROUPS), hierarchies())
        if own is not None:
            # Opened anew each time: a descriptor kept would move the daemon back to where it once was.
            fd = os.open(own / _PROCS, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)


def own_group(groups: str, places: dict[str, tuple[Path, str]]) -> Path | None:
    """The directory of one of a process's groups, by the text of ``/proc/PID/cgroup`` and `hierarchies`; version 2 is
    preferred. None where no hierarchy is mounted.
    """
    found: dict[str, Path] = {}
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in places:
                point, root = places[controller]
                found[controller] = point / (path if root == "/" else path.removeprefix(root)).lstrip("/")
    return found.get(_UNIFIED) or next(iter(found.values()), None)


@cache
def hierarchies() -> dict[str, tuple[Path, str]]:
    """Where each controller's hierarchy is mounted, and which of its groups is the top there; that of version 2 has the
    empty name. Raises OSError.
    """
    found: dict[str, tuple[Path, str]] = {}
    for line in _read(_MOUNTS).splitlines():
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            fields = mount.split(" ")
            for name in options.split(",") if kind == "cgroup" else (_UNIFIED,):
                found.setdefault(name, (Path(fields[4]), fields[3]))
    return found


def _read(path: str) -> str:
    # Without a file object: what is to be read is short, and time is what this is about.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while piece := os.read(fd, _CHUNK):
            text += piece
        return os.fsdecode(text)
    finally:
        os.close(fd)
