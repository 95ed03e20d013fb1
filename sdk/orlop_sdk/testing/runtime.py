# SPDX-License-Identifier: Apache-2.0
"""The conformance suite for shims: any ``containerd-shim-*`` binary, through its whole life.

Subclass it in a test file, and say where yours is::

    class TestDemo(ShimSuite):
        binary = "/usr/bin/containerd-shim-demo-v1"

It needs root and a static busybox. Class variables say what yours cannot do. Shims get no container that they share
with anybody, and a namespace of their own in each test.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import pytest_asyncio

from orlop.blocking import run_blocking
from orlop.errors import AlreadyExists, FailedPrecondition, NotFound, OrlopError, Unavailable
from orlop_sdk.api.runtime.task.v2.shim_pb2 import DeleteResponse
from orlop_sdk.api.types.introspection_pb2 import RuntimeInfo
from orlop_sdk.api.types.task.task_pb2 import Status
from orlop_sdk.testing.shims import PATIENCE, ShimBench, shim_bench

GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")


class ShimSuite:
    """What every shim does."""

    binary: ClassVar[str] = ""
    """The shim: a path, or a name on PATH."""
    environment: ClassVar[Mapping[str, str]] = {}
    """More environment variables for it."""
    tells_info: ClassVar[bool] = True
    """It answers ``-info`` (containerd 2)."""
    groups: ClassVar[bool] = False
    """Containers with the same ``io.containerd.runc.v2.group`` or ``io.kubernetes.cri.sandbox-id`` share a shim."""
    pauses: ClassVar[bool] = True
    """It can freeze containers."""

    @pytest.fixture
    def found(self) -> str:
        """The binary's absolute path."""
        path = shutil.which(self.binary)
        if path is None:
            pytest.skip(f"there is no {self.binary or 'binary'}; set `binary`, or install the shim")
        return path

    @pytest_asyncio.fixture
    async def bench(self, found: str) -> AsyncIterator[ShimBench]:
        """A place for containers. The test fails if a process or a mount of a shim is left at its end."""
        # Sockets need short paths.
        with tempfile.TemporaryDirectory(prefix="shim", dir="/tmp") as base:
            async with shim_bench(found, Path(base), self.environment) as bench:
                yield bench

    # ---- the binary -------------------------------------------------------------------------------------------------

    def test_its_name_says_its_runtime(self, found: str) -> None:
        assert re.fullmatch(r"containerd-shim-[A-Za-z0-9_]+-v[0-9]+", os.path.basename(found))

    def test_it_tells_about_itself(self, found: str) -> None:
        if not self.tells_info:
            pytest.skip("does not know -info")
        done = subprocess.run([found, "-info"], input=b"", capture_output=True, timeout=PATIENCE, check=True)
        assert RuntimeInfo.FromString(done.stdout).name

    async def test_it_can_be_started_and_stopped_without_a_container(self, bench: ShimBench) -> None:
        shim = await bench.launch("c1", "true")
        assert await shim.pid() in bench.processes()
        with pytest.raises(NotFound):
            await shim.state()
        await shim.shutdown()
        assert await bench.settled() == []
        with pytest.raises(Unavailable):
            await bench.connect("c1", shim.bundle, shim.address, shim.version)

    async def test_a_start_that_fails_says_why(self, bench: ShimBench) -> None:
        bundle = bench.bundle("c1", ["true"])
        (bundle / "config.json").unlink()
        done = await bench.call("c1", "start", bundle)
        if done.returncode == 0:
            pytest.skip("reads the bundle later")
        assert done.stdout.strip()

    # ---- a container's life -----------------------------------------------------------------------------------------

    async def test_a_whole_life(self, bench: ShimBench) -> None:
        shim = await bench.launch("c1", "sh", "-c", "echo out; echo err >&2; exit 3")
        pid = await shim.create(root=bench.root)
        assert (await shim.state()).status == Status.CREATED
        assert (await shim.state()).pid == pid > 0
        assert await shim.start() == pid
        assert await shim.wait() == 3
        state = await shim.state()
        assert (state.status, state.exit_status, state.id) == (Status.STOPPED, 3, "c1")
        assert await shim.fifos["stdout"].read() == b"out\n"
        assert await shim.fifos["stderr"].read() == b"err\n"
        deleted = await shim.delete()
        assert (deleted.exit_status, deleted.pid) == (3, pid)
        assert deleted.exited_at.seconds > 0
        await bench.events.wait("c1", "delete")
        assert bench.events.topics("c1") == ["create", "start", "exit", "delete"]
        with pytest.raises(NotFound):
            await shim.state()
        await shim.shutdown()
        assert await bench.settled() == []

    async def test_events_say_what_happened(self, bench: ShimBench) -> None:
        shim = await bench.run("c1", "sleep", "100")
        pid = (await shim.state()).pid
        await shim.kill(signal.SIGKILL)
        assert await shim.wait() == 137
        await shim.delete()
        (created,) = await bench.events.wait("c1", "create")
        assert (created.bundle, created.pid, len(created.rootfs)) == (str(shim.bundle), pid, 1)
        assert created.io.stdout == shim.fifos["stdout"].path
        (started,) = await bench.events.wait("c1", "start")
        assert started.pid == pid
        (exited,) = await bench.events.wait("c1", "exit")
        assert (exited.id, exited.pid, exited.exit_status) == ("c1", pid, 137)
        (deleted,) = await bench.events.wait("c1", "delete")
        assert (deleted.pid, deleted.exit_status) == (pid, 137)

    async def test_all_waiters_hear_of_the_end(self, bench: ShimBench) -> None:
        shim = await bench.run("c1", "sleep", "100")
        waiters = [asyncio.create_task(shim.wait()) for _ in range(20)]
        await asyncio.sleep(0.1)
        assert not any(waiter.done() for waiter in waiters)
        await shim.kill(signal.SIGTERM)
        await shim.kill(signal.SIGKILL)
        assert len({*await asyncio.gather(*waiters), await shim.wait()}) == 1

    async def test_what_is_refused(self, bench: ShimBench) -> None:
        shim = await bench.run("c1", "sleep", "100")
        with pytest.raises(OrlopError):
            await shim.delete()
        assert (await shim.state()).status == Status.RUNNING
        for call in (shim.start, shim.state, shim.wait, shim.delete):
            with pytest.raises(NotFound):
                await call("nobody")
        await shim.kill()
        await shim.wait()
        with pytest.raises(NotFound):
            await shim.kill()

    async def test_a_program_that_does_not_exist(self, bench: ShimBench) -> None:
        shim = await bench.launch("c1", "/no/such/program")
        with pytest.raises(OrlopError, match="no/such/program"):
            await shim.create_and_start(bench.root)
        await shim.shutdown()

    # ---- stdio ------------------------------------------------------------------------------------------------------

    async def test_input_goes_in_and_ends(self, bench: ShimBench) -> None:
        shim = await bench.run("c1", "sh", "-c", "cat; echo end")
        shim.fifos["stdin"].write(b"hello\n")
        assert await shim.fifos["stdout"].read(b"hello\n") == b"hello\n"
        for _ in range(2):
            await shim.task.CloseIO(shim.pb.CloseIORequest(id="c1", stdin=True), timeout=PATIENCE)
        shim.fifos["stdin"].close()
        assert await shim.fifos["stdout"].read(b"end\n") == b"end\n"
        assert await shim.wait() == 0

    async def test_much_output_comes_whole(self, bench: ShimBench) -> None:
        shim = await bench.run("c1", "seq", "1", "100000")
        wanted = "".join(f"{number}\n" for number in range(1, 100_001)).encode()
        data = b""
        while len(data) < len(wanted):
            data += await shim.fifos["stdout"].read()
        assert data == wanted
        assert await shim.wait() == 0

    async def test_terminals_have_a_size(self, bench: ShimBench) -> None:
        shim = await bench.run("c1", "sh", "-c", "read line; stty size", terminal=True)
        assert (await shim.state()).terminal
        await shim.task.ResizePty(shim.pb.ResizePtyRequest(id="c1", width=97, height=31), timeout=PATIENCE)
        shim.fifos["stdin"].write(b"go\n")
        assert b"31 97" in await shim.fifos["stdout"].read(b"97")
        assert await shim.wait() == 0

    # ---- more processes ---------------------------------------------------------------------------------------------

    async def test_more_processes_in_a_container(self, bench: ShimBench) -> None:
        shim = await bench.run("c1", "sleep", "100")
        await shim.exec("e1", "sh", "-c", "exit 5")
        with pytest.raises(AlreadyExists):
            await shim.exec("e1", "true")
        with pytest.raises(FailedPrecondition):
            await shim.kill(exec_id="e1")
        pid = await shim.start("e1")
        assert await shim.wait("e1") == 5
        assert (await shim.state("e1")).status == Status.STOPPED
        assert (await shim.delete("e1")).exit_status == 5
        with pytest.raises(NotFound):
            await shim.state("e1")
        (exited,) = await bench.events.wait("c1", "exit")
        assert (exited.id, exited.pid, exited.exit_status) == ("e1", pid, 5)
        assert bench.events.topics("c1") == ["create", "start", "exec-added", "exec-started", "exit"]
        assert (await shim.state()).status == Status.RUNNING

    async def test_the_containers_end_ends_all_of_it(self, bench: ShimBench) -> None:
        shim = await bench.run("c1", "sleep", "100")
        await shim.exec("e1", "sleep", "100")
        await shim.start("e1")
        await shim.kill()
        assert await shim.wait() == 137
        assert await shim.wait("e1") == 137
        exits = await bench.events.wait("c1", "exit", 2)
        assert sorted(each.id for each in exits) == ["c1", "e1"]
        with pytest.raises(OrlopError):
            await shim.exec_and_start("e2", "true")

    async def test_it_knows_what_runs_and_what_that_uses(self, bench: ShimBench) -> None:
        shim = await bench.run("c1", "sleep", "100")
        await shim.exec("e1", "sleep", "100")
        pids = {(await shim.state()).pid, await shim.start("e1")}
        listed = await shim.task.Pids(shim.pb.PidsRequest(id="c1"), timeout=PATIENCE)
        assert {each.pid for each in listed.processes} == pids
        stats = (await shim.task.Stats(shim.pb.StatsRequest(id="c1"), timeout=PATIENCE)).stats
        assert stats.type_url
        connected = await shim.task.Connect(shim.pb.ConnectRequest(id="c1"), timeout=PATIENCE)
        assert connected.task_pid == (await shim.state()).pid

    async def test_freezing(self, bench: ShimBench) -> None:
        if not self.pauses:
            pytest.skip("does not freeze containers")
        shim = await bench.run("c1", "sleep", "100")
        await shim.task.Pause(shim.pb.PauseRequest(id="c1"), timeout=PATIENCE)
        assert (await shim.state()).status == Status.PAUSED
        with pytest.raises(OrlopError):
            await shim.exec_and_start("e1", "true")
        await shim.task.Resume(shim.pb.ResumeRequest(id="c1"), timeout=PATIENCE)
        assert (await shim.state()).status == Status.RUNNING
        await bench.events.wait("c1", "resumed")
        assert [topic for topic in bench.events.topics("c1") if topic in ("paused", "resumed")] == ["paused", "resumed"]

    # ---- shims ------------------------------------------------------------------------------------------------------

    async def test_containers_do_not_share_a_shim_unasked(self, bench: ShimBench) -> None:
        one, two = await bench.run("c1", "sleep", "100"), await bench.run("c2", "sleep", "100")
        assert one.address != two.address
        os.kill(await one.pid(), signal.SIGKILL)
        assert (await two.state()).status == Status.RUNNING
        await self._clean_up(bench, "c1", one.bundle)

    @pytest.mark.parametrize("annotation", GROUPS)
    async def test_containers_of_a_group_share_one(self, bench: ShimBench, annotation: str) -> None:
        if not self.groups:
            pytest.skip("knows no groups")
        annotations = {annotation: "together"}
        one = await bench.run("together", "sleep", "100", annotations=annotations)
        two = await bench.run("c2", "sleep", "100", annotations=annotations)
        assert await one.pid() == await two.pid()
        await one.kill()
        await one.wait()
        await one.delete()
        await one.shutdown()
        assert (await two.state()).status == Status.RUNNING, "a shim goes on for the containers it still has"

    async def test_what_a_dead_shim_left_can_be_cleaned_up(self, bench: ShimBench) -> None:
        shim = await bench.run("c1", "sleep", "100")
        pid = (await shim.state()).pid
        os.kill(await shim.pid(), signal.SIGKILL)
        answer = await self._clean_up(bench, "c1", shim.bundle)
        assert answer.exit_status == 137
        assert answer.exited_at.seconds > 0
        for _ in range(int(PATIENCE / 0.05)):
            if not os.path.exists(f"/proc/{pid}"):  # noqa: ASYNC240  # one look
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("the container still runs")
        assert await bench.settled() == []

    async def _clean_up(self, bench: ShimBench, id: str, bundle: Path) -> DeleteResponse:
        done = await bench.call(id, "delete", bundle)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return await run_blocking(DeleteResponse.FromString, done.stdout)
