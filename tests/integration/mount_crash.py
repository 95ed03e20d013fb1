# SPDX-License-Identifier: Apache-2.0
"""A program that is killed while it activates mounts: ``mount_crash.py STATE ROOT IMAGE WHERE``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from orlop import context
from orlop.interfaces.mount import ActiveMount, MountHandler
from orlop.values import Mount
from orlop_snapshots.mounts.handlers import ErofsHandler, LoopHandler
from orlop_snapshots.mounts.manager import Mounts


class Deadly(LoopHandler):
    """Dies before the mount, or after it."""

    def __init__(self, before: bool) -> None:
        self._before = before

    def mount(self, mount: Mount, target: str) -> ActiveMount:
        if not self._before:
            super().mount(mount, target)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


async def main(state: str, root: str, image: str, where: str) -> None:
    handlers: dict[str, MountHandler] = {"erofs": ErofsHandler(), "loop": Deadly(where == "before")}
    manager = Mounts(Path(state), handlers, (Path(root),))
    with context.scope(namespace="test"):
        await manager.activate("a", [Mount("erofs", image), Mount("loop", image)])


asyncio.run(main(*sys.argv[1:]))
