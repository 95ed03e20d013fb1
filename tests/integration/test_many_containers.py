# SPDX-License-Identifier: Apache-2.0
"""Many containers, with the daemon killed and restarted under them: none is lost, and nothing is left in the end.

A few in every run; five hundred when asked for (``make stress``).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import mount_points
from tests.support.busy import IMAGE, busy_namespace
from tests.support.ctr import Ctr, eventually
from tests.support.daemon import ORLOPD, RUNC_STATE, Daemon
from tests.support.place import short_directory
from tests.support.processes import memory
from tests.support.runtime import cgroup_files

from orlop.values import TaskStatus
from orlop_sdk.client import Client
from orlop_sdk.client.stdio import capture

AT_ONCE = 8
"""Calls that are made at the same time."""
PATIENCE = 300.0
"""Seconds that something may take which has no reason to take any."""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    # As systemd starts services that do not say.
    with short_directory() as base, Daemon(base, ("prlimit", "--nofile=1024:", *ORLOPD)) as daemon:
        yield daemon


@pytest.fixture
def ctr(daemon: Daemon) -> Iterator[Ctr]:
    with busy_namespace(daemon, "many") as ctr:
        yield ctr


class Many:
    """Containers of one namespace, numbered."""

    def __init__(self, daemon: Daemon, ctr: Ctr, count: int) -> None:
        self.daemon = daemon
        self.ctr = ctr
        self.ids = [f"c{number}" for number in range(count)]

    def client(self) -> Client:
        """A client of the daemon that is there now."""
        return Client(str(self.daemon.address), self.ctr.namespace)

    async def start(self) -> dict[str, int]:
        """Create and start them all; their pids."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(client: Client, id: str) -> int:
            async with turns:
                container = await client.create_container(id, IMAGE, args=["sleep", "100000"])
                task = await container.create_task()
                await task.start()
                await task.detach()
                return task.pid

        async with self.client() as client:
            pids = await asyncio.gather(*(one(client, id) for id in self.ids))
        return dict(zip(self.ids, pids, strict=True))

    async def running(self) -> dict[str, int]:
        """The pids of those that run, as the daemon says."""
        async with self.client() as client:
            with client.scope():
                states = await client.tasks.states()
        return {state.id: state.pid for state in states if state.status is TaskStatus.RUNNING}

    async def say(self, ids: list[str]) -> list[bytes]:
        """Run a further process in some of them; what it says."""
        said = []
        async with self.client() as client:
            for id in ids:
                streams = capture()
                async with await (await client.container(id)).exec("e1", "echo", id, streams=streams) as process:
                    await process.start()
                    await process.wait()
                    await process.delete()
                said.append(streams.stdout)
        return said

    async def remove(self) -> None:
        """Kill and delete them all, with their snapshots."""
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(client: Client, id: str) -> None:
            async with turns:
                container = await client.container(id)
                await (await container.task()).delete(kill=True)
                await container.delete()

        async with self.client() as client:
            await asyncio.gather(*(one(client, id) for id in self.ids))

    def held(self) -> dict[str, int]:
        """What there is on the host for containers of the namespace."""
        bundles = self.daemon.state / "io.containerd.runtime.v2.task" / self.ctr.namespace
        runc = RUNC_STATE / self.ctr.namespace
        return {
            "shims": len(self.daemon.shims()),
            "mounts": len(mount_points(self.daemon.base)),
            "bundles": len(list(bundles.iterdir())) if bundles.is_dir() else 0,
            "runtime states": len(list(runc.iterdir())) if runc.is_dir() else 0,
            "cgroups": len([path for path in cgroup_files(self.ctr.namespace, "c*") if path.is_dir()]),
        }


def resources(pid: int) -> dict[str, int]:
    """Descriptors, threads and resident MiB of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = {line.partition(":")[0]: line.split()[1] for line in status.splitlines() if len(line.split()) > 1}
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(fields["Threads"]),
        "memory": int(fields["VmRSS"]) >> 10,
    }


def proportional(pids: list[int]) -> int:
    """MiB of memory of some processes, what they share counted once."""
    return sum(memory(pid, "Pss") for pid in pids) >> 10


class Laps:
    """What took how long, to be printed."""

    def __init__(self) -> None:
        self.figures: list[str] = []
        self._last = time.monotonic()

    def begin(self) -> None:
        """From now on."""
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Until now."""
        self.figures.append(f"{name} {time.monotonic() - self._last:.1f} s")
        self.begin()


def warm_up(daemon: Daemon, ctr: Ctr) -> dict[str, int]:
    """What the daemon takes once it has had containers, and has none any more."""
    some = Many(daemon, ctr, AT_ONCE)
    asyncio.run(some.start())
    asyncio.run(some.remove())
    eventually(lambda: not any(some.held().values()), lambda: f"left of a few: {some.held()}", PATIENCE)
    return resources(daemon.pid)


def check(daemon: Daemon, ctr: Ctr, count: int) -> None:
    before = warm_up(daemon, ctr)
    laps = Laps()
    many = Many(daemon, ctr, count)
    pids = asyncio.run(many.start())
    laps.lap(f"{count} started in")
    held = many.held()
    assert [held[name] for name in ("shims", "mounts", "bundles", "runtime states")] == [count] * 4
    full = {**resources(daemon.pid), "shims' memory": proportional(list(daemon.shims()))}
    laps.begin()
    for name, end in (("killed", daemon.kill), ("stopped", daemon.stop)):
        end()
        assert all(Path(f"/proc/{pid}").exists() for pid in pids.values())
        laps.lap(f"{name} in")
        daemon.start()
        assert asyncio.run(many.running()) == pids
        laps.lap("back after")
    ends = [many.ids[0], many.ids[count // 2], many.ids[-1]]
    assert asyncio.run(many.say(ends)) == [f"{id}\n".encode() for id in ends]
    assert many.held() == held
    laps.begin()
    asyncio.run(many.remove())
    laps.lap("removed in")
    eventually(lambda: not any(many.held().values()), lambda: f"left behind: {many.held()}\n{daemon.tail()}", PATIENCE)
    assert [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()] == []
    after = resources(daemon.pid)
    print(f"{', '.join(laps.figures)}; daemon before {before}, with all {full}, after {after}")
    assert after["descriptors"] <= before["descriptors"] + 8, (before, after)
    assert ctr.ok("tasks", "ls", "-q") == ctr.ok("containers", "ls", "-q") == ""


@pytest.mark.timeout(300)
def test_a_dozen_containers(daemon: Daemon, ctr: Ctr) -> None:
    check(daemon, ctr, 12)


@pytest.mark.stress
@pytest.mark.timeout(3600)
def test_five_hundred_containers(request: pytest.FixtureRequest, daemon: Daemon, ctr: Ctr) -> None:
    if "stress" not in str(request.config.option.markexpr):
        pytest.skip("takes minutes; ask for it with make stress")
    check(daemon, ctr, 500)
