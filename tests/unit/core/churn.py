# SPDX-License-Identifier: Apache-2.0
"""Changes a store without end, and says on standard output what is durable: to be killed at any instant.

    python churn.py ROOT TURN [LARGEST]

LARGEST is the size of the largest blob, in bytes.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
from pathlib import Path

from orlop import context
from orlop.blocking import run_blocking
from orlop.values import Descriptor, Image
from orlop_core.content.local import LocalContentStore
from orlop_core.events.exchange import Exchange
from orlop_core.metadata.store import SqliteMetadataStore
from orlop_sdk import digest as digests
from orlop_snapshots.native import NativeSnapshotter

ROOT_LABEL = {"containerd.io/gc.root": "1"}


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


async def write_content(metadata: SqliteMetadataStore, seed: str, largest: int) -> None:
    for number in itertools.count():
        data = random.Random(f"{seed} {number}").randbytes(random.randrange(1, largest))
        writer = await metadata.content.writer(f"ref-{seed}")
        if (await writer.status()).offset:
            await writer.truncate(0)
        for start in range(0, len(data), 50_000):
            await writer.write(data[start : start + 50_000])
        say(f"content {await writer.commit(expected=digests.of(data), labels=ROOT_LABEL)}")
        garbage = await metadata.content.writer(f"garbage-{seed}-{number}")
        await garbage.write(data[:1000] + b"garbage")
        await garbage.commit()


async def write_images(metadata: SqliteMetadataStore, seed: str) -> None:
    for number in itertools.count():
        name = f"{seed}-{number}"
        await metadata.images.create(Image(name, Descriptor("m", digests.of(name.encode()), 1), {"n": name}))
        say(f"image {name}")
        if number % 3 == 2:
            say(f"deleting {seed}-{number - 1}")
            await metadata.images.delete(f"{seed}-{number - 1}")
            say(f"deleted {seed}-{number - 1}")


async def write_snapshots(metadata: SqliteMetadataStore, seed: str) -> None:
    native = metadata.snapshotters["native"]
    parent = ""
    for number in itertools.count():
        name = f"{seed}-{number}"
        await native.prepare(f"active-{name}", parent)
        await native.commit(name, f"active-{name}", labels=ROOT_LABEL)
        say(f"snapshot {name}")
        await native.prepare(f"garbage-{name}", name)
        parent = name if number % 4 else ""


async def collect(metadata: SqliteMetadataStore) -> None:
    while True:
        await metadata.collect()
        await asyncio.sleep(0.01)


async def main(root: Path, turn: str, largest: int = 300_000) -> None:
    content = await LocalContentStore.open(root / "content")
    native = await run_blocking(NativeSnapshotter, root / "native", sync_remove=True)
    metadata = await SqliteMetadataStore.open(
        root / "meta.sqlite", content=content, snapshotters={"native": native}, events=Exchange()
    )
    say("ready")
    with context.scope(namespace="default"):
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                seed = f"t{turn}-{number}"
                group.create_task(write_content(metadata, seed, largest))
                group.create_task(write_images(metadata, seed))
                group.create_task(write_snapshots(metadata, seed))
            group.create_task(collect(metadata))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])))
