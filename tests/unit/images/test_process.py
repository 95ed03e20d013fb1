# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest
from tests.support.ctr import eventually

from orlop.errors import DataLoss, Unavailable
from orlop_images.process import Workers, failure

REQUEST = {"job": "decode", "codecs": ["orlop_images.codecs:gunzip"]}


def children() -> set[int]:
    found = set()
    for listing in Path("/proc/self/task").glob("*/children"):
        found |= {int(word) for word in listing.read_text().split()}
    return found


async def work(workers: Workers) -> None:
    with tempfile.TemporaryFile() as source:
        source.write(b"not gzip")
        source.seek(0)
        job = await workers.start(REQUEST, source=source.fileno())
        with pytest.raises(DataLoss, match="not gzip"):
            await job.result()
        with pytest.raises(DataLoss, match="not gzip"):
            await job.result()
        await job.close()
        await job.close()


async def test_one_host_serves_many_jobs() -> None:
    before = children()
    workers = Workers("test")
    try:
        assert children() == before, "nothing is started before it is needed"
        await asyncio.gather(*(work(workers) for _ in range(20)))
        assert len(children() - before) == 1
    finally:
        workers.close()
        workers.close()
    assert children() == before


async def test_an_idle_host_ends_and_a_new_one_comes() -> None:
    before = children()
    workers = Workers("test", idle=0.05)
    try:
        for _ in range(3):
            await work(workers)
            await asyncio.to_thread(eventually, lambda: children() == before, "the host has ended")
    finally:
        workers.close()


async def test_a_killed_host_is_replaced() -> None:
    before = children()
    workers = Workers("test")
    try:
        await work(workers)
        (host,) = children() - before
        os.kill(host, 9)
        await work(workers)
    finally:
        workers.close()


async def test_nothing_starts_after_close() -> None:
    workers = Workers("test")
    workers.close()
    with pytest.raises(Unavailable, match="closed"):
        await workers.start(REQUEST, source=0)


async def test_descriptors_are_given_back() -> None:
    workers = Workers("test")
    try:
        await work(workers)
        before = os.listdir("/proc/self/fd")
        for _ in range(10):
            await work(workers)
        assert len(os.listdir("/proc/self/fd")) == len(before)
    finally:
        workers.close()


def test_failures_have_the_class_they_name() -> None:
    assert isinstance(failure("DataLoss", "x"), DataLoss)
    for odd in ("CODES", "nonsense", "Final"):
        assert type(failure(odd, "x")).__name__ == "Unknown"
