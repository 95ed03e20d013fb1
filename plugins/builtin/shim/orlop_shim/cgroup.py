# SPDX-License-Identifier: Apache-2.0
"""Where a container's control groups are, in hierarchies of version 1, in the one of version 2, or in a mix."""

from __future__ import annotations

import os
from contextlib import suppress

from orlop_sdk.hints import Final
from orlop_sdk.linux.cgroup import MOUNTS, UNIFIED, Hierarchy, hierarchies, membership
from orlop_shim import files

#: Controllers that decide: where one of them is in a hierarchy of version 1, that version counts for the container.
_DECISIVE: Final = ("memory", "cpu", "cpuacct", "pids", "blkio", "devices")
_MOST_GROUPS: Final = 10_000


_remembered: Final[dict[str, Hierarchy]] = {}


def remember() -> None:
    """Take note of where the hierarchies are mounted, for this process and those that it forks.

    They stay where they are while a host runs; one that is mounted later is found all the same.
    """
    _remembered.clear()
    with suppress(OSError):
        _remembered.update(hierarchies(files.read(MOUNTS)))


class Cgroup:
    """The control groups of one container."""

    def __init__(self, places: dict[str, str], own: bool) -> None:
        self._places = places
        #: Whether there is one that is not the shim's as well.
        self.own: Final = own
        #: Whether only the hierarchy of version 2 counts.
        self.unified: Final = not any(name in places for name in _DECISIVE)

    @classmethod
    def of(cls, pid: int) -> Cgroup | None:
        """Those of a process, or None when it is gone."""
        try:
            member = membership(os.fsdecode(files.read(f"/proc/{pid}/cgroup")))
            ours = membership(os.fsdecode(files.read("/proc/self/cgroup")))
        except OSError:
            return None
        if not _remembered or not all(name in _remembered for name in member):
            remember()
        places = {}
        for name, path in member.items():
            if name in _remembered and path != ours.get(name):
                places[name] = _remembered[name].directory(path)
        return cls(places, bool(places))

    @classmethod
    def at(cls, path: str) -> Cgroup | None:
        """Those of one path in all hierarchies, or None where it is in none."""
        places = {name: top.directory(path) for name, top in hierarchies(files.read(MOUNTS)).items()}
        there = {name: place for name, place in places.items() if os.path.isdir(place)}
        return cls(there, True) if there else None

    def save(self) -> dict[str, str]:
        """What `restored` takes: the directories by controller."""
        return self._places

    @classmethod
    def restored(cls, places: dict[str, str]) -> Cgroup:
        """One that was saved, of a container that has its own."""
        return cls(places, True)

    def path(self, controller: str, file: str = "") -> str:
        """A file of a controller's group; empty if the container has no group there."""
        place = self._places.get(UNIFIED if self.unified else controller)
        return os.path.join(place, file) if place else ""

    def read(self, controller: str, file: str) -> str:
        """What is in a file; empty if there is none."""
        path = self.path(controller, file)
        return files.read_or_nothing(path).decode(errors="replace") if path else ""

    def files(self, controller: str) -> list[str]:
        """The names of a group's files."""
        path = self.path(controller)
        if path:
            with suppress(OSError):
                return sorted(os.listdir(path))
        return []

    def pids(self) -> list[int]:
        """All processes in it, those of groups below included."""
        top = next(filter(None, (self.path(name) for name in _DECISIVE)), "")
        found: set[int] = set()
        waiting = [top] if top else []
        for _ in range(_MOST_GROUPS):
            if not waiting:
                break
            place = waiting.pop()
            with suppress(OSError):
                # A group of threads refuses to list processes, but has groups below all the same.
                found.update(map(int, files.read_or_nothing(os.path.join(place, "cgroup.procs")).split()))
                with os.scandir(place) as entries:
                    waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        return sorted(found)
