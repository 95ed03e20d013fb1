# SPDX-License-Identifier: Apache-2.0
"""One store with very much in it: making it, lists, filters and lookups, garbage collection, and the daemon's memory.

    python -m tests.benchmarks.bench_scale [--scale 0.02] [--clients 16] [--seconds 3] [--side SIDE] [--quick]

At scale 1 there are 10,000 images of 10 blobs each, 10,000 containers, and 20,000 snapshots: a layer for each image and
a container's on top of it. Everything is made, and asked for, through the socket, by the same Python client on both
sides, whose own cost is in all figures. Latencies are of lookups and of writes while collections run one after another.

``--quick`` is for large scales: everything is made on a file system in memory, where no write waits for a disk, and
then moved to where it is measured. The figures of the making are then of processors only.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tests.benchmarks.sides import OURS, THEIRS, Figure, both, show
from tests.support.daemon import Daemon

from orlop import context
from orlop.values import AnyMessage, Container, Descriptor, Image, RuntimeInfo
from orlop_sdk import digest as digests
from orlop_sdk.api.services.containers.v1 import containers_pb2 as messages
from orlop_sdk.client.connection import open_channel
from orlop_sdk.client.services import Services, remote_services
from orlop_sdk.rpc.stub import Stub

IMAGES = 10_000
BLOBS = 10
"""Blobs of each image: a manifest and what it refers to."""
SNAPSHOTTER = "native"
"""The one that does least itself."""
NAMESPACE = "scale"
SPEC = AnyMessage("types.containerd.io/opencontainers/runtime-spec/1/Spec", b"{" + b" " * 400 + b"}")
SETTLED = 120.0
"""Seconds that a daemon may have work of its own before it is measured all the same."""
IDLE = 0.03
"""Seconds of processor time in a second that count as none."""
LATENCIES = (("p50", 0.5), ("p99", 0.99))

Measured = dict[str, tuple[str, list[float]]]
"""Unit and values by what was measured."""


class Side:
    """A daemon, a client for it, and what was measured."""

    def __init__(self, daemon: Daemon, scale: float, clients: int, seconds: float) -> None:
        self._daemon = daemon
        self._clients = clients
        self._seconds = seconds
        self._images = max(clients, int(IMAGES * scale))
        self._numbers = itertools.count()
        self.measured: Measured = {}

    async def fill(self) -> str:
        """Make everything. Returns the lease that keeps it."""
        async with self._connected() as services:
            self._memory("memory, empty")
            lease = await services.leases.create()
            with context.scope(namespace=NAMESPACE, lease=lease.id):
                await self._fill(services)
            self._memory("memory, full")
        return lease.id

    async def measure(self, lease: str) -> None:
        """Ask for it, and throw some of it away."""
        settle(self._daemon.pid)
        async with self._connected() as services:
            await self._lists(services)
            await self._lookups(services)
            await self._collections(services, lease)
            self._memory("memory, after all this")

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Services]:
        channel = open_channel(str(self._daemon.address))
        try:
            services = remote_services(channel, NAMESPACE)
            self._stub = Stub(channel, "containerd.services.containers.v1.Containers")
            with context.scope(namespace=NAMESPACE):
                yield services
        finally:
            await channel.close()

    async def _fill(self, services: Services) -> None:
        await self._rate("blobs made", self._images * BLOBS, self._each(lambda n: self._blobs(services, n)))
        await self._rate("images made", self._images, self._each(lambda n: self._image(services, n)))
        await self._rate("snapshots made", 2 * self._images, self._each(lambda n: self._snapshots(services, n)))
        await self._rate("containers made", self._images, self._each(lambda n: self._container(services, n)))

    async def _blobs(self, services: Services, number: int) -> None:
        labels = {}
        for part in range(BLOBS - 1):
            data = b"part %d of %d" % (part, number)
            labels[f"containerd.io/gc.ref.content.l.{part}"] = await _put(services, data, {})
        await _put(services, b"manifest %d" % number, labels)

    async def _image(self, services: Services, number: int) -> None:
        data = b"manifest %d" % number
        target = Descriptor("application/vnd.oci.image.manifest.v1+json", digests.of(data), len(data))
        labels = {"tenth": str(number % 10), f"one-{number}": "yes"}
        await services.images.create(Image(f"example.com/image:{number}", target, labels))

    async def _snapshots(self, services: Services, number: int) -> None:
        snapshotter = services.snapshotters[SNAPSHOTTER]
        await snapshotter.prepare(f"extract-{number}")
        await snapshotter.commit(f"layer-{number}", f"extract-{number}")
        await snapshotter.prepare(f"c-{number}", f"layer-{number}")

    async def _container(self, services: Services, number: int) -> None:
        labels = {"tenth": str(number % 10)}
        await services.containers.create(
            Container(
                f"c-{number}",
                RuntimeInfo("io.containerd.runc.v2"),
                SPEC,
                image=f"example.com/image:{number}",
                labels=labels,
                snapshotter=SNAPSHOTTER,
                snapshot_key=f"c-{number}",
            )
        )

    async def _lists(self, services: Services) -> None:
        snapshotter = services.snapshotters[SNAPSHOTTER]
        some = f"c-{self._images // 2}"
        manifest = digests.of(b"manifest 1")
        lists: dict[str, Callable[[], Awaitable[int]]] = {
            "list images": lambda: _length(services.images.list()),
            "list images, filter of a tenth": lambda: _length(services.images.list(["labels.tenth==3"])),
            "list images, filter of one": lambda: _length(services.images.list(['labels."one-7"==yes'])),
            "list images, regular expression": lambda: _length(services.images.list(["name~=/:1.$/"])),
            "list containers": lambda: _length(services.containers.list()),
            "list containers, filter of one": lambda: _length(services.containers.list([f"id=={some}"])),
            "list blobs": lambda: _count(services.content.walk()),
            "list blobs, filter of one": lambda: _count(services.content.walk([f"digest=={manifest}"])),
            "list snapshots": lambda: _count(snapshotter.walk()),
            "list snapshots, filter of one": lambda: _count(snapshotter.walk([f"name=={some}"])),
        }
        for name, call in lists.items():
            for _ in range(3):
                began = time.perf_counter()
                assert await call(), f"{name}: nothing found"
                self._note(name, "ms", (time.perf_counter() - began) * 1e3)
        self._memory("memory, after lists")
        for _ in range(5):
            for call in lists.values():
                await call()
        self._memory("memory, after six times as many")

    async def _lookups(self, services: Services) -> None:
        async with self._latencies("lookup", self._look_up), self._latencies("write", self._write):
            await asyncio.sleep(self._seconds)

    async def _collections(self, services: Services, lease: str) -> None:
        began = time.perf_counter()
        await services.leases.delete(lease, sync=True)
        self._note("collection that finds nothing", "ms", (time.perf_counter() - began) * 1e3)
        async with self._latencies("lookup during collections", self._look_up):
            async with self._latencies("write during collections", self._write):
                deadline = time.perf_counter() + self._seconds
                while time.perf_counter() < deadline:
                    began = time.perf_counter()
                    await self._collect(services)
                    self._note("collection under load", "ms", (time.perf_counter() - began) * 1e3)
        tenth = self._images // 10
        for number in range(tenth):
            await services.containers.delete(f"c-{number}")
            await services.images.delete(f"example.com/image:{number}")
        began = time.perf_counter()
        await self._collect(services)
        self._note("collection of a tenth of everything", "ms", (time.perf_counter() - began) * 1e3)

    async def _collect(self, services: Services) -> None:
        lease = await services.leases.create()
        await services.leases.delete(lease.id, sync=True)

    async def _look_up(self) -> None:
        # Without the conversion to our values: the daemon is what is measured.
        number = next(self._numbers) * 7919 % self._images
        await self._stub.Get(messages.GetContainerRequest(id=f"c-{number}"))

    async def _write(self) -> None:
        container = messages.Container(id=f"w-{next(self._numbers)}")
        container.runtime.name = "r"
        container.spec.type_url = "s"
        await self._stub.Create(messages.CreateContainerRequest(container=container))

    @asynccontextmanager
    async def _latencies(self, name: str, call: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """Make calls, a hundred in a second, while the block runs, and note how long they took."""
        took: list[float] = []

        async def calls() -> None:
            while True:
                began = time.perf_counter()
                await call()
                took.append((time.perf_counter() - began) * 1e3)
                await asyncio.sleep(max(0.0, 0.01 - (time.perf_counter() - began)))

        task = asyncio.create_task(calls())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        took.sort()
        for word, share in LATENCIES:
            self._note(f"{name}, {word}", "ms", took[int(len(took) * share)])

    async def _each(self, make: Callable[[int], Awaitable[None]]) -> None:
        """Make one for each image, by so many clients at once."""
        numbers = iter(range(self._images))

        async def client() -> None:
            for number in numbers:
                await make(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(client())

    async def _rate(self, name: str, count: int, work: Awaitable[None]) -> None:
        began = time.perf_counter()
        await work
        self._note(name, "1/s", count / (time.perf_counter() - began))

    def _memory(self, name: str) -> None:
        self._note(name, "MB", resident(self._daemon.pid))

    def _note(self, name: str, unit: str, value: float) -> None:
        self.measured.setdefault(name, (unit, []))[1].append(value)


@contextmanager
def in_memory(daemon: Daemon) -> Iterator[None]:
    """Have a daemon keep everything in memory while the block runs, and move it to the disk then."""
    with tempfile.TemporaryDirectory(prefix="ob", dir="/dev/shm") as memory:
        daemon.stop()
        shutil.rmtree(daemon.root)
        daemon.root.symlink_to(memory)
        daemon.start()
        yield
        daemon.stop()
        daemon.root.unlink()
        subprocess.run(["cp", "--archive", memory, str(daemon.root)], check=True)
    os.sync()
    daemon.start()


def settle(pid: int) -> None:
    """Wait until a daemon has nothing more to do of its own, such as the first collection after a start."""
    deadline = time.monotonic() + SETTLED
    before = processor(pid)
    while time.monotonic() < deadline:
        time.sleep(1.0)
        now = processor(pid)
        if now - before < IDLE:
            return
        before = now


def processor(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _put(services: Services, data: bytes, labels: dict[str, str]) -> str:
    digest = digests.of(data)
    writer = await services.content.writer(f"ref-{digest}", total=len(data))
    await writer.write(data)
    return await writer.commit(size=len(data), expected=digest, labels=labels)


async def _length(call: Awaitable[list[Any]]) -> int:
    return len(await call)


async def _count(items: AsyncIterator[Any]) -> int:
    return sum([1 async for _ in items])


def resident(pid: int) -> float:
    """Memory of a process (MB)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=0.02)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--side", choices=(OURS, THEIRS), help="measure one side only")
    parser.add_argument("--quick", action="store_true", help="make everything in memory")
    options = parser.parse_args()
    found: dict[str, Measured] = {}
    with both() as daemons:
        for side, daemon in daemons.items():
            if options.side in (None, side):
                measured = Side(daemon, options.scale, options.clients, options.seconds)
                with in_memory(daemon) if options.quick else nullcontext():
                    lease = asyncio.run(measured.fill())
                asyncio.run(measured.measure(lease))
                found[side] = measured.measured
    if options.side:
        alone(options.side, found[options.side])
    else:
        ours, theirs = found[OURS], found[THEIRS]
        figures = [
            Figure(name, unit, values, theirs[name][1], rate=unit == "1/s") for name, (unit, values) in ours.items()
        ]
        show(f"at scale {options.scale:g}", figures)


def alone(side: str, measured: Measured) -> None:
    """Print one side's figures."""
    print(f"\n{side}")
    for name, (unit, values) in measured.items():
        print(f"  {f'{name} ({unit})':<44}{_middle(values):>12.2f}")


def _middle(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


if __name__ == "__main__":
    main()
