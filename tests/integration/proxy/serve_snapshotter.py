# SPDX-License-Identifier: Apache-2.0
"""A proxy plugin as its author would write it: one of our snapshotters as a program of its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from orlop_sdk.serving.proxy import run
from orlop_snapshots.native import NativeSnapshotter
from orlop_snapshots.overlayfs import OverlaySnapshotter

SNAPSHOTTERS = {"native": NativeSnapshotter, "overlayfs": OverlaySnapshotter}


async def main(name: str, address: str, root: str) -> None:
    await run(address, snapshotter=SNAPSHOTTERS[name](Path(root)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
