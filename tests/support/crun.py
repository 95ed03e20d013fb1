# SPDX-License-Identifier: Apache-2.0
"""Making a host one that crun runs containers on.

crun refuses hosts with hierarchies of both cgroup versions while version 2 has a controller there. Mounting the last
controllers as hierarchies of version 1 takes them away, for as long as they stay mounted.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from orlop_sdk.linux.cgroup import MOUNTS, hierarchies

#: Seconds for a controller to become free.
PATIENCE = 15.0
UNIFIED = Path("/sys/fs/cgroup/unified")


class NotUsable(Exception):
    """crun cannot be made to work here; the text says why."""


@contextmanager
def crun_usable() -> Iterator[None]:
    """Have crun work while the block runs. Raises `NotUsable`."""
    with ExitStack() as stack:
        for controller in (*_controllers(), *_returning()):
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orlop-cgroup-")))
            _mount(controller, place)
            stack.callback(subprocess.run, ["umount", str(place)], check=True)
        if left := _controllers():
            raise NotUsable(f"version 2 of cgroups keeps {', '.join(left)} beside hierarchies of version 1")
        yield


def _mount(controller: str, place: Path) -> None:
    """Mount a controller's hierarchy. Groups of version 2 that have just been removed hold it for a while longer."""
    deadline = time.monotonic() + PATIENCE
    while True:
        done = subprocess.run(
            ["mount", "-t", "cgroup", "-o", controller, "none", str(place)],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise NotUsable(f"cgroup controller {controller} cannot be mounted: {done.stderr.strip()}")
        time.sleep(0.5)


def _controllers() -> list[str]:
    """The controllers that version 2 of cgroups has beside hierarchies of version 1."""
    try:
        return (UNIFIED / "cgroup.controllers").read_text().split()
    except FileNotFoundError:
        # Only one version is there: fine.
        return []


def _returning() -> list[str]:
    """Those that go back to version 2 any moment: their hierarchy is mounted no more, and has yet to vanish."""
    if not UNIFIED.exists():
        return []
    mounted = hierarchies(Path(MOUNTS).read_bytes())
    rows = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()[1:]]
    return [name for name, hierarchy, *_ in rows if hierarchy != "0" and name not in mounted]
