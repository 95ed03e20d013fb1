# SPDX-License-Identifier: Apache-2.0
"""Many running containers: what each costs the daemon and its shims in memory, and how long lists of them take.

    python -m tests.benchmarks.bench_running [--containers 1000] [--steps 4] [--group] [--side orlop|containerd]

The containers sleep in a busybox on a bind-mounted directory, run by runc. They are started in so many steps, after
each of which everything is measured, so that one sees whether memory grows faster than their number. Each side has its
own shim; with ``--group`` Orlop's containers share one. A list is timed as a client sees it, without its decoding.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from tests.benchmarks.bench_lifecycle import SHIMS, TABLES, record
from tests.benchmarks.bench_scale import resident
from tests.benchmarks.bench_shim import pss
from tests.benchmarks.sides import OURS, THEIRS, both
from tests.support import oci
from tests.support.daemon import Daemon

from orlop import context
from orlop_sdk.api.services.containers.v1 import containers_pb2
from orlop_sdk.api.services.tasks.v1 import tasks_pb2
from orlop_sdk.api.types import mount_pb2
from orlop_sdk.client.connection import open_channel
from orlop_sdk.rpc.stub import Stub

AT_ONCE = 8
"""Containers that are started, or removed, at the same time."""
LISTS = 5
KILL = 9
TIMEOUT = 120.0
GROUP = "io.containerd.runc.v2.group"


class Side:
    """A daemon, and the containers that run on it."""

    def __init__(self, daemon: Daemon, shim: str, tree: Path, *, group: bool) -> None:
        self._daemon = daemon
        self._shim = shim
        self._root = mount_pb2.Mount(type="bind", source=str(tree), options=["rbind", "rw"])
        self._group = group
        self._namespace = f"run-{uuid.uuid4().hex[:8]}"
        daemon.ctr(self._namespace)

    async def run(self, steps: Iterable[int]) -> None:
        """Start containers up to each number, print what there is to see, and remove them all."""
        channel = open_channel(str(self._daemon.address))
        self._containers = Stub(channel, "containerd.services.containers.v1.Containers")
        self._tasks = Stub(channel, "containerd.services.tasks.v1.Tasks")
        empty, made = resident(self._daemon.pid), 0
        print(f"  {0:>6} containers: daemon {empty:7.1f} MB")
        try:
            with context.scope(namespace=self._namespace):
                for goal in steps:
                    began = time.perf_counter()
                    await each(range(made, goal), self._start)
                    took = (time.perf_counter() - began) * 1e3 / (goal - made)
                    made = goal
                    await self._show(made, empty, took)
                await each(range(made), self._remove)
        finally:
            await channel.close()

    async def _start(self, number: int) -> None:
        container = record(f"c-{number}", self._namespace, "runc", self._shim)
        spec = json.loads(container.spec.value)
        spec["process"]["args"] = ["/bin/sleep", "100000"]
        if self._group:
            spec["annotations"] = {GROUP: "bench"}
        container.spec.value = json.dumps(spec).encode()
        await self._containers.Create(containers_pb2.CreateContainerRequest(container=container), timeout=TIMEOUT)
        request = tasks_pb2.CreateTaskRequest(container_id=container.id, rootfs=[self._root])
        await self._tasks.Create(request, timeout=TIMEOUT)
        await self._tasks.Start(tasks_pb2.StartRequest(container_id=container.id), timeout=TIMEOUT)

    async def _remove(self, number: int) -> None:
        id = f"c-{number}"
        await self._tasks.Kill(tasks_pb2.KillRequest(container_id=id, signal=KILL), timeout=TIMEOUT)
        await self._tasks.Wait(tasks_pb2.WaitRequest(container_id=id), timeout=TIMEOUT)
        await self._tasks.Delete(tasks_pb2.DeleteTaskRequest(container_id=id), timeout=TIMEOUT)
        await self._containers.Delete(containers_pb2.DeleteContainerRequest(id=id), timeout=TIMEOUT)

    async def _show(self, count: int, empty: float, took: float) -> None:
        tasks = await timed(lambda: self._tasks.List(tasks_pb2.ListTasksRequest(), timeout=TIMEOUT))
        containers = await timed(lambda: self._containers.List(containers_pb2.ListContainersRequest(), timeout=TIMEOUT))
        now = resident(self._daemon.pid)
        shims = pss(self._daemon)
        print(
            f"  {count:>6} containers: daemon {now:7.1f} MB, {(now - empty) * 1024 / count:6.1f} KiB each; shims "
            f"{shims:8.1f} MiB PSS; started in {took:6.1f} ms each; list of tasks {tasks:6.1f} ms, of containers "
            f"{containers:6.1f} ms",
            flush=True,
        )


async def each(numbers: Iterable[int], do: Callable[[int], Awaitable[None]]) -> None:
    """Do something for each number, for some of them at once."""
    left = iter(numbers)

    async def worker() -> None:
        for number in left:
            await do(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    """The median of how long some calls take, one after another (milliseconds)."""
    took = []
    for _ in range(LISTS):
        began = time.perf_counter()
        await call()
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--containers", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--group", action="store_true", help="Orlop's containers share one shim")
    parser.add_argument("--side", choices=(OURS, THEIRS), help="measure one side only")
    options = parser.parse_args()
    steps = [options.containers * step // options.steps for step in range(1, options.steps + 1)]
    with both(tables=TABLES) as daemons:
        tree = daemons[OURS].base / "tree"
        oci.busybox_tree(tree)
        for side, daemon in daemons.items():
            if options.side in (None, side):
                ours = side == OURS
                print(f"\n{side}")
                shim = SHIMS["own" if ours else "containerd"]
                asyncio.run(Side(daemon, shim, tree, group=ours and options.group).run(steps))
        shutil.rmtree(tree)


if __name__ == "__main__":
    main()
