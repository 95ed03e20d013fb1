# SPDX-License-Identifier: Apache-2.0
"""Containers run and calls are made while plugins that they do not need are changed at random: nobody notices."""

from __future__ import annotations

import asyncio
import os
import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.ctr import Ctr, environment
from tests.support.daemon import ORLOPD, Daemon
from tests.support.image import Image, write_archive
from tests.support.place import short_directory

from orlop_sdk.api.orlop.plugins.v1 import plugins_pb2 as pb
from orlop_sdk.client import Client
from orlop_sdk.client.connection import GrpcConnection
from orlop_sdk.rpc.stub import Stub

P = "io.containerd."
IMAGE = "example.com/busy:1"
#: What neither `ctr run` on overlayfs nor the calls below need.
UNRELATED = [
    f"{P}snapshotter.v1.native",
    f"{P}grpc.v1.sandboxes",
    f"{P}grpc.v1.diff",
    f"{P}grpc.v1.healthcheck",
    f"{P}gc.v1.scheduler",
    f"{P}internal.v1.opt",
    "io.orlop.log.v1.file",
    "io.orlop.proxy.v1.content",
]
FAR = "far"
SCHEDULER = f"{P}gc.v1.scheduler"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with short_directory() as base:
        (base / "conf.d").mkdir()
        with Daemon(base, ORLOPD, top='imports = ["conf.d/*.toml"]\n') as daemon:
            yield daemon


@pytest.fixture
def ctr(daemon: Daemon) -> Ctr:
    ctr = daemon.ctr(f"load-{uuid.uuid4().hex}")
    ctr.ok("images", "import", str(write_archive(daemon.base / "busy.tar", {IMAGE: Image()})))
    return ctr


class Load:
    """Work that goes on until `stop`, and what went wrong."""

    def __init__(self, daemon: Daemon, ctr: Ctr) -> None:
        self.daemon = daemon
        self.ctr = ctr
        self.stop = False
        self.failures: list[str] = []
        self.runs = self.calls = 0

    async def run_containers(self, name: str) -> None:
        while not self.stop:
            # The status comes through the daemon; what a container says goes past it, from shim to `ctr`: both count.
            told = f"{name}-{self.runs}"
            words = self.ctr.command("run", "--rm", IMAGE, told, "sh", "-c", f"echo heard {told}; exit 7")
            process = await asyncio.create_subprocess_exec(
                *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment()
            )
            said, _ = await process.communicate()
            self.runs += 1
            if (process.returncode, said) != (7, f"heard {told}\n".encode()):
                self.failures.append(f"run {told}: {process.returncode}: {said.decode(errors='replace')!r}")

    async def make_calls(self) -> None:
        async with Client(str(self.daemon.address), self.ctr.namespace) as client:
            while not self.stop:
                try:
                    assert [image.name for image in await client.images.list()] == [IMAGE]
                    await client.containers.list()
                    await client.namespaces.list()
                    await client.introspection.plugins()
                    await client.introspection.version()
                except Exception as error:  # noqa: BLE001  # each of them is a finding
                    self.failures.append(f"call: {error!r}")
                self.calls += 5
                await asyncio.sleep(0.01)

    async def change(self, operations: int, seed: int) -> None:
        chance, off, far = random.Random(seed), set[str](), False
        connection = GrpcConnection(str(self.daemon.address))
        try:
            admin = Stub(await connection.open(), "orlop.plugins.v1.Plugins")
            for number in range(operations):
                uri = chance.choice(UNRELATED)
                match chance.randrange(6):
                    case 0 if not far:
                        table = f'type = "snapshot"\naddress = "{self.daemon.base}/far.sock"'
                        await admin.Add(pb.AddRequest(proxy=FAR, config=table))
                        far = True
                    case 0:
                        await admin.Remove(pb.RemoveRequest(uri=f"{P}snapshotter.v1.{FAR}"))
                        far = False
                    case 1 if uri not in off:
                        await admin.Reload(pb.ReloadRequest(uri=uri))
                    case 2:
                        share = chance.choice((0.1, 0.2, 0.3))
                        file = self.daemon.base / "conf.d" / "a.toml"
                        file.write_text(f'version = 2\n[plugins."{SCHEDULER}"]\npause_threshold = {share}\n')
                        await admin.ReloadConfig(pb.ReloadConfigRequest(dry_run=number % 3 == 0))
                    case _ if uri in off:
                        await admin.Enable(pb.EnableRequest(uri=uri))
                        off.discard(uri)
                    case _:
                        await admin.Disable(pb.DisableRequest(uri=uri))
                        off.add(uri)
            for uri in off:
                await admin.Enable(pb.EnableRequest(uri=uri))
            if far:
                await admin.Remove(pb.RemoveRequest(uri=f"{P}snapshotter.v1.{FAR}"))
        finally:
            await connection.close()

    async def work(self, operations: int, seconds: float) -> None:
        """Make that many changes under load, and go on for that long at least."""
        self.stop = False
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for name in ("a", "b"):
                group.create_task(self.run_containers(f"{name}{uuid.uuid4().hex[:6]}"))
            group.create_task(self.make_calls())
            try:
                while True:
                    await self.change(operations, seed=operations)
                    if time.monotonic() >= until:
                        break
            finally:
                self.stop = True


def resources(pid: int) -> dict[str, int]:
    """Descriptors, threads and resident KiB of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = {line.partition(":")[0]: line.split()[1] for line in status.splitlines() if len(line.split()) > 1}
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": int(fields["Threads"]),
        "memory": int(fields["VmRSS"]),
    }


def check(daemon: Daemon, ctr: Ctr, operations: int, seconds: float) -> None:
    load = Load(daemon, ctr)
    # Once to fill every pool and cache; then nothing may grow any more.
    asyncio.run(load.work(operations // 4, seconds / 4))
    before = resources(daemon.pid)
    asyncio.run(load.work(operations, seconds))
    after = resources(daemon.pid)
    print(f"{load.runs} containers, {load.calls} calls; before {before}, after {after}; {len(load.failures)} failed")
    assert load.failures == []
    assert load.runs > 2
    assert load.calls > 10
    assert after["descriptors"] <= before["descriptors"] + 8, (before, after)
    # The pool for blocking calls grows to its 16 threads as they happen to come at once, and no further.
    assert after["threads"] <= before["threads"] + 16, (before, after)
    assert after["memory"] <= before["memory"] + 24 * 1024, (before, after)
    assert ctr.ok("tasks", "ls", "-q") == ""
    assert ctr.ok("containers", "ls", "-q") == ""
    assert " level=error " not in daemon.log.read_text()


def test_nobody_notices_a_few_changes(daemon: Daemon, ctr: Ctr) -> None:
    check(daemon, ctr, operations=24, seconds=3)


@pytest.mark.stress
@pytest.mark.timeout(400)
def test_nobody_notices_many_changes(request: pytest.FixtureRequest, daemon: Daemon, ctr: Ctr) -> None:
    if "stress" not in str(request.config.option.markexpr):
        pytest.skip("takes minutes; ask for it with ARGS='-m stress'")
    check(daemon, ctr, operations=200, seconds=120)
