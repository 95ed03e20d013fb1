# SPDX-License-Identifier: Apache-2.0
"""Our shim at rest: the worker has ended, and whatever happens then is dealt with as if it had not."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support import oci
from tests.support.ctr import until
from tests.support.processes import arguments, memory
from tests.support.runtime import PATIENCE, Output, World, cgroup_files, pids_of, world

from orlop.interfaces.runtime import Task
from orlop.values import AnyMessage, Stdio, TaskStatus

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("runc", "busybox"))), reason="needs root, runc and busybox-static"
)
LOGGER = """\
#!/bin/sh
exec >"$2"
exec 5>&-
cat <&3
echo end
"""
# More than a pipe holds.
MUCH = 300_000


@pytest_asyncio.fixture
async def w(short_tmp: Path) -> AsyncIterator[World]:
    async with world(short_tmp, own=True) as made:
        yield made


def workers(w: World) -> list[int]:
    """The workers of all shims of the namespace."""
    return [pid for pid in pids_of(w.namespace) if arguments(pid)[0].endswith(b"-worker")]


async def rested(w: World, but: int = 0) -> None:
    """Wait until no shim works, but for so many at most."""
    await until(lambda: len(workers(w)) <= but, "shims are at work still", PATIENCE)


def go(w: World, name: str = "go") -> None:
    """Have a container that waits for this file go on."""
    (w.base / "tree" / name).touch()


def after(name: str, then: str) -> list[str]:
    """The command of a container that waits for `go`."""
    return ["sh", "-c", f"while [ ! -e /{name} ]; do sleep 0.1; done; {then}"]


async def test_calls_of_all_kinds_wake_it(w: World) -> None:
    task = await w.run("c1", ["sleep", "98741"])
    (shim,) = w.shims()
    descriptors = len(os.listdir(f"/proc/{shim}/fd"))
    await rested(w)
    assert w.shims() == [shim], "the shim is the same process, and it lives"
    assert (await task.state()).status is TaskStatus.RUNNING
    out = Output(w.base / "out")
    await task.exec(
        "e1", oci.process_message(oci.process(["sh", "-c", "echo hello; exit 3"])), Stdio("", str(out.path))
    )
    await rested(w)
    await task.start("e1")
    assert (await task.wait("e1")).status == 3
    assert await out.text() == "hello\n"
    await task.delete("e1")
    await task.pause()
    await rested(w)
    assert (await task.state()).status is TaskStatus.PAUSED
    await task.resume()
    limits = json.dumps({"pids": {"limit": 17}}).encode()
    await task.update(AnyMessage("types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", limits))
    assert {path.read_text().strip() for path in cgroup_files(w.namespace, "c1/pids.max")} == {"17"}
    assert [process.pid for process in await task.pids()] == [task.pid]
    assert await task.stats() is not None
    await rested(w)
    # At rest it holds what a container needs: connection, socket, what tells of want of memory, ties to its worker.
    assert len(os.listdir(f"/proc/{shim}/fd")) <= descriptors + 8
    await task.kill(signal.SIGKILL)
    assert (await task.wait()).status == 137


async def test_an_end_at_rest_is_told_to_all_who_wait(w: World) -> None:
    """Those of a container, and of another process in it; the daemon that asked first is not there any more."""
    first = await w.run("c1", after("go", "exit 7"))
    await first.exec("e1", oci.process_message(oci.process(after("go-e1", "exit 5"))), Stdio())
    await first.start("e1")
    waiting = [asyncio.create_task(first.wait()), asyncio.create_task(first.wait("e1"))]
    await asyncio.sleep(0)
    await rested(w)
    go(w, "go-e1")
    assert (await asyncio.wait_for(waiting[1], PATIENCE)).status == 5
    await rested(w)
    await w.restart()
    await asyncio.gather(*waiting, return_exceptions=True)
    task = await w.runtime.get("c1")
    again = asyncio.create_task(task.wait())
    await rested(w)
    before = time.time()
    go(w)
    ended = await asyncio.wait_for(again, PATIENCE)
    assert ended.status == 7
    assert before <= ended.exited_at.timestamp() <= time.time()
    exited = await w.events.wait("c1", "/tasks/exit")
    assert exited.container_id == "c1"


async def test_streams_flow_on(w: World) -> None:
    """Input and output of a plain process, a terminal, a file, and a logger, none of which needs a worker to wait."""
    program = w.base / "logger"
    program.write_text(LOGGER)
    program.chmod(0o755)
    ends = [w.base / "in", w.base / "typed"]
    for path in ends:
        os.mkfifo(path)
    writers = [os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in ends]
    out, err, screen = (Output(w.base / name) for name in ("out", "err", "screen"))
    plain = await w.run("plain", ["sh", "-c", "cat; echo end >&2"], Stdio(str(ends[0]), str(out.path), str(err.path)))
    terminal = await w.run(
        "terminal", ["sh", "-c", "read line; stty size"], Stdio(str(ends[1]), str(screen.path), terminal=True)
    )
    to_file = await w.run("file", after("go", "echo kept"), Stdio(stdout=f"file://{w.base}/file"))
    logged = await w.run("logged", after("go", "echo said"), Stdio(stdout=f"binary://{program}?to={w.base}/kept"))
    os.write(writers[0], b"before\n")
    await rested(w)
    os.write(writers[0], b"after\n")
    await rested(w)
    os.close(writers[0])
    await plain.close_stdin()
    await terminal.resize(101, 43)
    await rested(w)
    os.write(writers[1], b"go\n")
    os.close(writers[1])
    go(w)
    for task in (plain, terminal, to_file, logged):
        assert (await asyncio.wait_for(task.wait(), PATIENCE)).status == 0
        await task.delete()
    assert await out.text() == "before\nafter\n"
    assert await err.text() == "end\n"
    assert "43 101" in await screen.text()
    assert (w.base / "file").read_text() == "kept\n"
    assert (w.base / "kept").read_text() == "said\nend\n"


async def test_it_wakes_for_pipes_that_fill_and_for_want_of_memory(w: World) -> None:
    """Of neither any descriptor tells what a worker would watch, or the container stands still for ever."""
    for name in ("unread", "early"):
        os.mkfifo(w.base / name)
    unread = await w.run("unread", after("go", f"head -c {MUCH} /dev/zero"), Stdio(stdout=str(w.base / "unread")))
    # This one has filled before its worker rests for the first time.
    early = await w.run("early", ["sh", "-c", f"head -c {MUCH} /dev/zero"], Stdio(stdout=str(w.base / "early")))
    greedy = await w.run("greedy", after("go", "head -c 100m /dev/zero | tail"))
    limits = json.dumps({"memory": {"limit": 16 << 20}}).encode()
    await greedy.update(AnyMessage("types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", limits))
    await rested(w, but=1)
    go(w)
    await w.events.wait("greedy", "/tasks/oom")
    for task in (unread, early):
        assert (await asyncio.wait_for(task.wait(), 2 * PATIENCE)).status == 0
    await asyncio.wait_for(greedy.wait(), PATIENCE)


async def test_many_containers_of_one_shim(w: World) -> None:
    """More descriptors than go into one packet."""
    tasks: list[Task] = []
    for number in range(45):
        out, err = (Output(w.base / f"{name}{number}") for name in ("out", "err"))
        stdio = Stdio(stdout=str(out.path), stderr=str(err.path))
        tasks.append(await w.run(f"c{number}", after("go", "exit 4"), stdio, io_containerd_runc_v2_group="g"))
    (shim,) = w.shims()
    await rested(w)
    # Its worker has ended, and left them; the anchor is about to take them.
    await until(lambda: len(os.listdir(f"/proc/{shim}/fd")) > 200, "the anchor holds too little")
    # The shim was made for the first of them.
    await w.remove("c0")
    await rested(w)
    assert (await tasks[3].state()).status is TaskStatus.RUNNING
    await rested(w)
    del tasks[0]
    waiting = [asyncio.create_task(task.wait()) for task in tasks]
    go(w)
    ends = await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)
    assert [end.status for end in ends] == [4] * len(tasks)
    assert w.shims() == [shim]


@pytest.mark.parametrize("victim", ["anchor at rest", "anchor", "worker"])
async def test_neither_half_outlives_the_other(w: World, victim: str) -> None:
    await w.run("c1", ["sleep", "98742"])
    (shim,) = w.shims()
    if victim == "anchor at rest":
        await rested(w)
    (target,) = workers(w) if victim == "worker" else [shim]
    os.kill(target, signal.SIGKILL)
    await w.events.wait("c1", "/tasks/delete")
    assert await w.settled() == []
    await rested(w)
    assert pids_of("98742") == []


def holds(pid: int) -> tuple[int, int]:
    """How many descriptors a process has open, and how much memory of its own (KiB)."""
    return len(os.listdir(f"/proc/{pid}/fd")), memory(pid, "Private_Clean", "Private_Dirty")


@pytest.mark.stress
@pytest.mark.timeout(1800)
async def test_an_anchor_does_not_grow(w: World, request: pytest.FixtureRequest) -> None:
    """Whatever wakes it, and however often."""
    if "stress" not in str(request.config.option.markexpr):
        pytest.skip("takes minutes; ask for it with make stress")
    script = "while :; do echo out; echo err >&2; sleep 0.1; while [ ! -e /go ]; do sleep 0.1; done; rm /go; done"
    out = Output(w.base / "out")
    task = await w.run("c1", ["sh", "-c", script], Stdio(stdout=str(out.path), stderr=f"file://{w.base}/err"))
    (shim,) = w.shims()
    seen = []
    for number in range(60):
        await rested(w)
        seen.append(holds(shim))
        go(w)
        await task.exec(f"e{number}", oci.process_message(oci.process(["true"])), Stdio())
        await task.start(f"e{number}")
        assert (await task.wait(f"e{number}")).status == 0
        await task.delete(f"e{number}")
    print(f"\nanchor: {seen[4]} then {seen[-1]} (descriptors, KiB of its own)")
    # The first few leave things in their places.
    assert seen[-1][0] <= max(descriptors for descriptors, _ in seen[:5])
    assert seen[-1][1] <= seen[4][1] + 64
