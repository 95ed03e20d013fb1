# SPDX-License-Identifier: Apache-2.0
"""Containers run and calls are made while plugins that they do not need are changed at random: nobody notices."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        debug = f'[debug]\naddress = "{base}/debug.sock"\n'
        with Daemon(base, ORLOPD, top='imports = ["conf.d/*.toml"]\n', tables=debug) as daemon:
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
        self.operations: Counter[str] = Counter()

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

            async def act(method: str, request: Any) -> None:
                await getattr(admin, method)(request)
                self.operations[method] += 1

            for number in range(operations):
                uri = chance.choice(UNRELATED)
                match chance.randrange(6):
                    case 0 if not far:
                        table = f'type = "snapshot"\naddress = "{self.daemon.base}/far.sock"'
                        await act("Add", pb.AddRequest(proxy=FAR, config=table))
                        far = True
                    case 0:
                        await act("Remove", pb.RemoveRequest(uri=f"{P}snapshotter.v1.{FAR}"))
                        far = False
                    case 1 if uri not in off:
                        await act("Reload", pb.ReloadRequest(uri=uri))
                    case 2:
                        share = chance.choice((0.1, 0.2, 0.3))
                        file = self.daemon.base / "conf.d" / "a.toml"
                        file.write_text(f'version = 2\n[plugins."{SCHEDULER}"]\npause_threshold = {share}\n')
                        await act("ReloadConfig", pb.ReloadConfigRequest(dry_run=number % 3 == 0))
                    case _ if uri in off:
                        await act("Enable", pb.EnableRequest(uri=uri))
                        off.discard(uri)
                    case _:
                        await act("Disable", pb.DisableRequest(uri=uri))
                        off.add(uri)
            for uri in off:
                await act("Enable", pb.EnableRequest(uri=uri))
            if far:
                await act("Remove", pb.RemoveRequest(uri=f"{P}snapshotter.v1.{FAR}"))
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
                for seed in itertools.count(operations):
                    await self.change(operations, seed)
                    if time.monotonic() >= until:
                        break
            finally:
                self.stop = True


def resources(daemon: Daemon) -> dict[str, int]:
    """Descriptors, threads, asyncio tasks and resident KiB of a daemon."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    fields = {line.partition(":")[0]: line.split()[1] for line in status.splitlines() if len(line.split()) > 1}
    with socket.socket(socket.AF_UNIX) as debug:
        debug.settimeout(30)
        debug.connect(f"{daemon.base}/debug.sock")
        debug.sendall(b"GET /debug/vars HTTP/1.1\r\nHost: debug\r\nConnection: close\r\n\r\n")
        with debug.makefile("rb") as answer:
            _, _, body = answer.read().partition(b"\r\n\r\n")
    return {
        "descriptors": len(os.listdir(f"/proc/{daemon.pid}/fd")),
        "threads": int(fields["Threads"]),
        "tasks": int(json.loads(body)["tasks"]),
        "memory": int(fields["VmRSS"]),
    }


def check(daemon: Daemon, ctr: Ctr, operations: int, seconds: float) -> None:
    load = Load(daemon, ctr)
    # Once to fill every pool and cache; then nothing may grow any more.
    asyncio.run(load.work(operations // 4, seconds / 4))
    before = resources(daemon)
    load.operations.clear()
    asyncio.run(load.work(operations, seconds))
    after = resources(daemon)
    print(f"{load.runs} containers, {load.calls} calls, {dict(load.operations)}; {len(load.failures)} failed")
    print(f"before {before}, after {after}")
    assert load.failures == []
    assert load.runs > 2
    assert load.calls > 10
    assert load.operations.total() >= operations
    assert after["descriptors"] <= before["descriptors"] + 8, (before, after)
    # The pool for blocking calls grows to its 16 threads as they happen to come at once, and no further.
    assert after["threads"] <= before["threads"] + 16, (before, after)
    assert after["tasks"] <= before["tasks"] + 8, (before, after)
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
        pytest.skip("takes minutes; ask for it with make stress")
    check(daemon, ctr, operations=200, seconds=120)
