# SPDX-License-Identifier: Apache-2.0
"""The thread that runs calls one after another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from orlop_sdk.storage.serial import Call, SerialWorker

PATIENCE = 30


@pytest.fixture
def worker() -> Iterator[SerialWorker]:
    worker = SerialWorker("serial")
    yield worker
    worker.close()


async def test_answers_and_errors_reach_the_caller(worker: SerialWorker) -> None:
    assert await worker.run(int, "7") == 7
    with pytest.raises(ValueError, match="seven"):
        await worker.run(int, "seven")


async def test_a_call_runs_though_its_caller_was_cancelled(worker: SerialWorker) -> None:
    running, go = threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        running.set()
        assert go.wait(PATIENCE)
        done.append("first")

    callers = [asyncio.create_task(worker.run(first)), asyncio.create_task(worker.run(done.append, "second"))]
    assert await asyncio.to_thread(running.wait, PATIENCE)
    for caller in callers:
        caller.cancel()
    assert all(
        isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*callers, return_exceptions=True)
    )
    go.set()
    await worker.run(done.append, "third")
    assert done == ["first", "second", "third"]


def test_a_loop_that_is_gone_does_not_end_the_thread(worker: SerialWorker) -> None:
    go = threading.Event()

    async def leave() -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(worker.run(go.wait, PATIENCE), 0.01)

    asyncio.run(leave())
    go.set()

    async def come() -> int:
        return await worker.run(int, "7")

    assert asyncio.run(come()) == 7


async def test_calls_that_wait_are_run_together() -> None:
    running, go = threading.Event(), threading.Event()
    batches: list[int] = []

    def batch(calls: list[Call]) -> None:
        batches.append(len(calls))
        for call in calls:
            call.run()

    def hold() -> None:
        running.set()
        assert go.wait(PATIENCE)

    worker = SerialWorker("batches", batch, most=2)
    held = asyncio.create_task(worker.run(hold))
    assert await asyncio.to_thread(running.wait, PATIENCE)
    waiting = asyncio.gather(*(worker.run(int, text) for text in "123"))
    await asyncio.sleep(0)
    go.set()
    assert await waiting == [1, 2, 3]
    await held
    worker.close()
    assert batches == [1, 2, 1]


async def test_a_closed_worker_runs_what_was_queued_and_takes_no_more() -> None:
    worker = SerialWorker("closing")
    queued = asyncio.create_task(worker.run(int, "7"))
    await asyncio.sleep(0)
    await asyncio.to_thread(worker.close)
    assert await queued == 7
    with pytest.raises(RuntimeError, match="closed"):
        await worker.run(int, "8")
    worker.close()
