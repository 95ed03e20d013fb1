# SPDX-License-Identifier: Apache-2.0
"""Containers that exceed their memory limit: the event, the figures, and what an operator sees."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.ctr import Ctr, eventually
from tests.support.daemon import ORLOPD, Daemon
from tests.support.image import Image, write_archive
from tests.support.place import short_directory

from orlop_sdk.client import Client
from orlop_sdk.rpc import descriptors

IMAGE = "example.com/busy:1"
LIMIT = 16 << 20
GREEDY = "x=$(yes | tr -d '\\n' | head -c 200000000 | grep z)"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with short_directory() as base, Daemon(base, ORLOPD) as daemon:
        yield daemon


@pytest.fixture
def ctr(daemon: Daemon) -> Ctr:
    ctr = daemon.ctr(f"memory-{uuid.uuid4().hex[:10]}")
    ctr.ok("images", "import", str(write_archive(daemon.base / "busy.tar", {IMAGE: Image()})))
    return ctr


async def test_who_exceeds_its_limit_is_told_before_it_ends(daemon: Daemon, ctr: Ctr) -> None:
    flags = ("run", "--detach", "--memory-limit", str(LIMIT))
    async with Client(str(daemon.address), ctr.namespace) as client:
        async with client.events.subscribe(['topic=="/tasks/oom"', 'topic=="/tasks/exit"']) as events:
            ctr.ok(*flags, IMAGE, "c1", "sh", "-c", GREEDY)
            async with asyncio.timeout(60):
                topics = [(await anext(events)).topic]
                while topics[-1] != "/tasks/exit":
                    topics.append((await anext(events)).topic)
    assert topics[0] == "/tasks/oom"
    eventually(lambda: "out of memory" in daemon.log.read_text(), "nothing is logged")


async def test_the_figures_of_a_container(daemon: Daemon, ctr: Ctr) -> None:
    ctr.ok("run", "--detach", "--memory-limit", str(LIMIT), IMAGE, "c2", "sleep", "1000")
    async with Client(str(daemon.address), ctr.namespace) as client:
        (metric,) = await client.tasks.metrics(['id=="c2"'])
    assert metric.data is not None
    figures: Any = descriptors.message(metric.data.type_url).FromString(metric.data.value)
    limit = figures.memory.usage.limit if metric.data.type_url.endswith("v1.Metrics") else figures.memory.usage_limit
    assert limit == LIMIT
    assert figures.pids.current == 1
