# SPDX-License-Identifier: Apache-2.0
"""Where the control groups of a process are (cgroups(7)): in hierarchies of version 1, in that of version 2, or both.

Hierarchies go by their controllers; that of version 2 has the empty name.
"""

from __future__ import annotations

import os

from orlop_sdk.hints import Final, NamedTuple

#: The name of the hierarchy of version 2.
UNIFIED: Final = ""
#: What `hierarchies` takes.
MOUNTS: Final = "/proc/self/mountinfo"


class Hierarchy(NamedTuple):
    """A hierarchy as it is mounted."""

    point: str
    """Where."""
    root: str
    """Which of its groups is the top there."""

    def directory(self, group: str) -> str:
        """That of a group, named as in ``/proc/PID/cgroup``."""
        # Inside a container the hierarchy may be mounted from the container's own group on.
        inner = group.removeprefix(self.root) if self.root != "/" and group.startswith(self.root) else group
        return os.path.join(self.point, inner.lstrip("/"))


def hierarchies(mountinfo: bytes) -> dict[str, Hierarchy]:
    """All that are mounted, by controller."""
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        if b" - cgroup" not in line:
            continue
        mount, _, system = line.partition(b" - ")
        fields, kind = mount.split(b" "), system.split(b" ")
        place = Hierarchy(os.fsdecode(fields[4]), os.fsdecode(fields[3]))
        if kind[0] == b"cgroup2":
            found.setdefault(UNIFIED, place)
        elif kind[0] == b"cgroup":
            for option in kind[2].decode().split(","):
                found.setdefault(option, place)
    return found


def membership(text: str) -> dict[str, str]:
    """The groups of a process by controller, from ``/proc/PID/cgroup``."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found
