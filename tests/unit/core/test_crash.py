# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random instants: what was acknowledged is there, and the store is sound."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tests.unit.core.conftest import Core

from orlop import context
from orlop_sdk import digest as digests
from orlop_sdk.testing.content import read_all

CHURN = Path(__file__).with_name("churn.py")
TURNS = 8


def run_and_kill(root: Path, turn: int, seconds: float) -> list[str]:
    """Start the program, kill it so long after it got going, and return what it said."""
    said = root / f"said-{turn}"
    with said.open("wb") as output:
        process = subprocess.Popen([sys.executable, str(CHURN), str(root), str(turn)], stdout=output)
        try:
            deadline = time.monotonic() + 60
            while not said.stat().st_size and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(seconds)
            assert process.poll() is None, "the program ended by itself"
        finally:
            process.kill()
            process.wait()
    return said.read_text().splitlines()


def promised(lines: Iterable[str]) -> dict[str, set[str]]:
    """What has to be there, by kind; what may be there or not, is in ``unclear``."""
    kept: dict[str, set[str]] = {
        "content": set(),
        "image": set(),
        "snapshot": set(),
        "deleted": set(),
        "unclear": set(),
    }
    for line in lines:
        kind, _, name = line.partition(" ")
        if kind == "deleting":
            kept["unclear"].add(name)
        elif kind == "deleted":
            kept["deleted"].add(name)
            kept["unclear"].discard(name)
        elif kind in kept:
            kept[kind].add(name)
    kept["image"] -= kept["deleted"] | kept["unclear"]
    return kept


async def examine(core: Core, kept: dict[str, set[str]]) -> None:
    metadata = core.metadata
    with context.scope(namespace="default"):
        assert await metadata.check() == []
        blobs = {info.digest async for info in metadata.content.walk()}
        assert kept["content"] <= blobs
        images = {image.name for image in await metadata.images.list()}
        assert kept["image"] <= images
        assert not kept["deleted"] & images
        native = metadata.snapshotters["native"]
        assert kept["snapshot"] <= {info.name async for info in native.walk()}
        for digest in blobs:
            assert digests.of(await read_all(metadata.content, digest)) == digest
        await metadata.collect()
        assert await metadata.check() == []
        assert {info.digest async for info in core.content.walk()} == {i.digest async for i in metadata.content.walk()}
        stored = [info.name async for info in core.snapshots.walk()]
        assert len(stored) == len([info async for info in native.walk()])


async def test_kill_at_random_instants(tmp_path: Path) -> None:
    chance = random.Random(4)
    said: list[str] = []
    for turn in range(TURNS):
        said += run_and_kill(tmp_path, turn, chance.uniform(0.0, 0.6))
        core = await Core.open(tmp_path)
        await examine(core, promised(said))
        await core.close()
    kept = promised(said)
    assert kept["content"]
    assert kept["image"]
    assert kept["snapshot"]
