# SPDX-License-Identifier: Apache-2.0
"""What a new daemon finds of an old one's tasks. Real shims; needs root."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support import oci
from tests.support.runtime import PATIENCE, RUNC, World, listen, pids_of, world

from orlop import context
from orlop.errors import DeadlineExceeded, NotFound
from orlop.interfaces.runtime import ShimRequest
from orlop.values import TaskStatus, now
from orlop_runtime.bundle import Bundle
from orlop_runtime.recovery import restore

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("containerd-shim-runc-v2", "runc", "busybox"))),
    reason="needs root, containerd's runc shim, runc and busybox-static",
)


@pytest_asyncio.fixture(params=["containerd", "own"])
async def w(short_tmp: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with world(short_tmp, own=request.param == "own") as made:
        yield made


async def test_running_tasks_are_found_again(w: World) -> None:
    old = await w.run("c1", ["sleep", "1000"])
    await w.restart()
    task = await w.runtime.get("c1")
    assert task is not old
    assert task.pid == old.pid
    assert (await task.state()).status is TaskStatus.RUNNING
    waiting = asyncio.create_task(task.wait())
    await task.kill(signal.SIGTERM)
    await task.kill(signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        assert (await waiting).status == 137
    await task.delete()
    assert await w.settled() == []


async def test_created_tasks_are_found_again(w: World) -> None:
    await w.create("c1", ["sh", "-c", "exit 5"])
    await w.restart()
    task = await w.runtime.get("c1")
    assert (await task.state()).status is TaskStatus.CREATED
    await task.start()
    assert (await task.wait()).status == 5


async def test_a_task_that_ended_meanwhile_says_how(w: World) -> None:
    """And when: the time is that of its end, not that at which somebody heard of it."""
    task = await w.run("c1", ["sh", "-c", "trap 'exit 6' TERM; while :; do sleep 0.05; done"])
    async with asyncio.timeout(PATIENCE):
        while not children(task.pid):  # noqa: ASYNC110  # nobody tells when a shell has set its trap
            await asyncio.sleep(0.05)
    await w.stop()
    before = now()
    os.kill(task.pid, signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        while os.path.exists(f"/proc/{task.pid}"):  # noqa: ASYNC110, ASYNC240  # nor when a stranger's child ends
            await asyncio.sleep(0.05)
    await asyncio.sleep(1)
    after = now()
    await w.begin()
    task = await w.runtime.get("c1")
    state = await task.state()
    assert (state.status, state.exit_status) == (TaskStatus.STOPPED, 6)
    ends = [await task.wait(), await task.delete()]
    assert {ended.status for ended in ends} == {6}
    assert {ended.exited_at for ended in ends} == {state.exited_at}
    assert state.exited_at is not None
    assert before <= state.exited_at < after


def children(pid: int) -> str:
    """The children of a process."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


async def test_events_wait_for_a_daemon_that_is_away(w: World) -> None:
    task = await w.run("c1", ["sleep", "1000"])
    await w.events.wait("c1", "/tasks/start")
    await w.server.close()
    await task.kill(signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        await task.wait()
    await asyncio.sleep(0.2)
    assert w.events.topics("c1") == ["/tasks/create", "/tasks/start"]
    w.server = await listen(w.base, w.events)
    exited = await w.events.wait("c1", "/tasks/exit")
    assert (exited.id, exited.pid, exited.exit_status) == ("c1", task.pid, 137)
    await task.delete()
    await w.events.wait("c1", "/tasks/delete")
    assert w.events.topics("c1") == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]


async def test_many_tasks_come_back_at_once(w: World) -> None:
    for number in range(6):
        await w.run(f"c{number}", ["sleep", "1000"])
    await w.restart()
    assert [task.id for task in await w.runtime.list()] == [f"c{number}" for number in range(6)]


async def test_a_group_comes_back_together(w: World) -> None:
    for id in ("c1", "c2"):
        await w.run(id, ["sleep", "1000"], io_containerd_runc_v2_group="g")
    await w.restart()
    assert len(w.shims()) == 1
    await w.remove("c1")
    await asyncio.sleep(0.1)
    assert (await (await w.runtime.get("c2")).state()).status is TaskStatus.RUNNING


async def test_a_shim_that_died_meanwhile_is_cleaned_up_after(w: World) -> None:
    task = await w.run("c1", ["sleep", "98763"])
    await w.stop()
    (shim,) = w.shims()
    os.kill(shim, signal.SIGKILL)
    await asyncio.sleep(0.1)
    await w.begin()
    with pytest.raises(NotFound):
        await w.runtime.get("c1")
    exited = await w.events.wait("c1", "/tasks/exit")
    assert (exited.exit_status, exited.pid) == (137, task.pid)
    assert w.events.topics("c1")[-2:] == ["/tasks/exit", "/tasks/delete"]
    assert pids_of("98763") == []
    assert await w.settled() == []


async def test_a_frozen_shim_does_not_cost_the_container(w: World) -> None:
    await w.run("c1", ["sleep", "98762"])
    await w.stop()
    (shim,) = w.shims()
    # Some are more than one process.
    os.killpg(shim, signal.SIGSTOP)
    try:
        await w.begin()
        task = await w.runtime.get("c1")
        with pytest.raises((DeadlineExceeded, TimeoutError)):
            async with asyncio.timeout(0.2):
                await task.state()
    finally:
        os.killpg(shim, signal.SIGCONT)
    assert (await task.state()).status is TaskStatus.RUNNING
    assert len(pids_of("98762")) == 1


async def test_older_shims_left_an_address_only(w: World) -> None:
    await w.run("c1", ["sleep", "1000"])
    saved = json.loads((w.bundle("c1") / "bootstrap.json").read_text())
    await w.stop()
    (w.bundle("c1") / "bootstrap.json").unlink()
    assert (w.bundle("c1") / "address").read_text() == saved["address"]
    await w.begin()
    assert (await (await w.runtime.get("c1")).state()).status is TaskStatus.RUNNING


async def test_a_shim_without_its_container_is_sent_away(w: World) -> None:
    bundle = Bundle.at(w.base / "state", w.base / "root", w.namespace, "c1")
    bundle.create(json.dumps(oci.spec(w.namespace, "c1", ["true"])).encode())
    address = await w.launcher.launch(ShimRequest("c1", w.namespace, RUNC, bundle.path))
    bundle.save(address, RUNC)
    # It listens before it has its own name.
    for _ in range(int(PATIENCE / 0.05)):
        if w.shims():
            break
        await asyncio.sleep(0.05)
    assert len(w.shims()) == 1
    await w.restart()
    assert await w.runtime.list() == []
    assert w.events.topics("c1") == []
    assert await w.settled() == []


async def test_a_shim_whose_container_was_just_deleted_is_sent_away(w: World) -> None:
    task = await w.run("c1", ["true"])
    async with asyncio.timeout(PATIENCE):
        await task.wait()
        await task.delete()
    # What a daemon leaves that is killed now.
    for removal in w.runtime._removing.values():
        removal.work.cancel()
    assert w.leftovers() != []
    await w.restart()
    assert await w.runtime.list() == []
    assert await w.settled() == []
    assert w.events.topics("c1").count("/tasks/delete") <= 1


async def test_half_made_bundles_are_removed(w: World) -> None:
    (w.bundle("empty")).mkdir(parents=True)
    bundle = Bundle.at(w.base / "state", w.base / "root", w.namespace, "no-shim")
    bundle.create(b"{}")
    started = Bundle.at(w.base / "state", w.base / "root", w.namespace, "no-address")
    started.create(json.dumps(oci.spec(w.namespace, "no-address", ["true"])).encode())
    (started.path / "shim-binary-path").write_text(str(shutil.which("containerd-shim-runc-v2")))
    aside = Bundle.at(w.base / "state", w.base / "root", w.namespace, "aside")
    aside.create(b"{}")
    aside.set_aside()
    (w.base / "root" / w.namespace / "stray").mkdir()
    await w.restart()
    assert await w.runtime.list() == []
    assert await w.settled() == []


async def test_the_runtime_of_a_record_helps_to_clean_up(w: World) -> None:
    bundle = Bundle.at(w.base / "state", w.base / "root", w.namespace, "c1")
    bundle.create(json.dumps(oci.spec(w.namespace, "c1", ["true"])).encode())
    await w.launcher.launch(ShimRequest("c1", w.namespace, RUNC, bundle.path))
    (bundle.path / "shim-binary-path").unlink()
    asked: list[tuple[str | None, str]] = []

    async def recorded(id: str) -> str:
        asked.append((context.namespace_or_none(), id))
        return RUNC

    await restore(w.runtime, recorded)
    assert asked == [(w.namespace, "c1")]
    assert await w.settled() == []


async def test_a_damaged_bootstrap_file_does_not_stop_the_rest(w: World) -> None:
    await w.run("good", ["sleep", "1000"])
    bundle = Bundle.at(w.base / "state", w.base / "root", w.namespace, "bad")
    bundle.create(json.dumps(oci.spec(w.namespace, "bad", ["true"])).encode())
    (bundle.path / "bootstrap.json").write_text("{nonsense")
    await w.restart()
    assert [task.id for task in await w.runtime.list()] == ["good"]
    assert not bundle.path.exists()


async def test_a_daemon_that_stops_lets_waiters_go_and_containers_live(w: World) -> None:
    task = await w.run("c1", ["sleep", "98761"])
    waiting = asyncio.create_task(task.wait())
    await asyncio.sleep(0.05)
    await w.stop()
    async with asyncio.timeout(PATIENCE):
        results = await asyncio.gather(waiting, return_exceptions=True)
    assert type(results[0]).__name__ == "Unavailable"
    assert len(pids_of("98761")) == 1
    await w.begin()
