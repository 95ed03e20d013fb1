# SPDX-License-Identifier: Apache-2.0
"""A program that makes, commits and removes snapshots until it is killed, and prints each call that has returned."""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from orlop_snapshots.native import NativeSnapshotter
from orlop_snapshots.overlayfs import OverlaySnapshotter

SNAPSHOTTERS = {"native": NativeSnapshotter, "overlayfs": OverlaySnapshotter}


def say(*words: str) -> None:
    print(*words, flush=True)


async def main(name: str, root: str, prefix: str) -> None:
    snapshotter = SNAPSHOTTERS[name](Path(root))
    parent = ""
    for number in itertools.count():
        key, layer = f"{prefix}-key-{number}", f"{prefix}-layer-{number}"
        say("start", key)
        (mount,) = await snapshotter.prepare(key, parent)
        if not parent:
            await asyncio.to_thread((Path(mount.source) / "file").write_text, "base")
        say("active", key)
        if number % 3 == 2:
            say("start", key)
            await snapshotter.remove(key)
            say("removed", key)
            await snapshotter.cleanup()
        else:
            say("start", key, layer)
            await snapshotter.commit(layer, key)
            say("committed", layer)
            say("removed", key)
            parent = layer


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
