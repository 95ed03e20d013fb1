# SPDX-License-Identifier: Apache-2.0
"""Making a host one that crun runs containers on.

crun refuses hosts with hierarchies of both cgroup versions while version 2 has a controller there. Mounting the last
controllers as hierarchies of version 1 takes them away, for as long as they stay mounted.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

UNIFIED = Path("/sys/fs/cgroup/unified")


class NotUsable(Exception):
    """crun cannot be made to work here; the text says why."""


@contextmanager
def crun_usable() -> Iterator[None]:
    """Have crun work while the block runs. Raises `NotUsable`."""
    with ExitStack() as stack:
        for controller in _controllers():
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orlop-cgroup-")))
            done = subprocess.run(
                ["mount", "-t", "cgroup", "-o", controller, "none", str(place)],
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                raise NotUsable(f"cgroup controller {controller} cannot be mounted: {done.stderr.strip()}")
            stack.callback(subprocess.run, ["umount", str(place)], check=True)
        if left := _controllers():
            raise NotUsable(f"version 2 of cgroups keeps {', '.join(left)} beside hierarchies of version 1")
        yield


def _controllers() -> list[str]:
    try:
        return (UNIFIED / "cgroup.controllers").read_text().split()
    except FileNotFoundError:
        # Only one version is there: fine.
        return []
