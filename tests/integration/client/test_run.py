# SPDX-License-Identifier: Apache-2.0
"""Containers that run: streams, signals, further processes, limits, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path

import pytest

from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OrlopError
from orlop.values import TaskStatus
from orlop_sdk import oci
from orlop_sdk.client import Client, ContainerSettings, RunError
from orlop_sdk.client.stdio import capture, log, null, pipes


def fifo_folders() -> set[str]:
    places = ("/run", tempfile.gettempdir())
    return {name for place in places for name in os.listdir(place) if f"orlop-fifo-{os.getpid()}-" in name}


def readable_file(folder: Path, text: str) -> None:
    (folder / "file").write_text(text)
    folder.chmod(0o755)  # the container's user is not root


@pytest.fixture(autouse=True)
def no_fifo_stays() -> object:
    before = fifo_folders()
    yield
    assert fifo_folders() - before == set()


async def test_run(client: Client, busybox: str) -> None:
    result = await client.run(busybox, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (result.status, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    with pytest.raises(RunError, match="status 3: err"):
        result.check()
    assert await client.containers.list() == []
    assert [info.name async for info in client.snapshots().walk(["kind==active"])] == []


async def test_input(client: Client, busybox: str) -> None:
    data = os.urandom(3_000_000)
    result = (await client.run(busybox, "cat", streams=capture(input=data))).check()
    assert result.stdout == data


async def test_no_output_is_lost(client: Client, busybox: str) -> None:
    result = (await client.run(busybox, "sh", "-c", "seq 200000; seq 200000 >&2")).check()
    expected = b"".join(b"%d\n" % number for number in range(1, 200001))
    assert result.stdout == expected
    assert result.stderr == expected


async def test_capture_has_a_limit(client: Client, busybox: str) -> None:
    streams = capture(limit=10)
    await client.run(busybox, "seq", "1000", streams=streams)
    assert (streams.stdout, streams.truncated) == (b"1\n2\n3\n4\n5\n", True)


async def test_a_process_that_does_not_read_its_input(client: Client, busybox: str) -> None:
    result = await client.run(busybox, "true", streams=capture(input=bytes(1_000_000)))
    assert result.status == 0


async def test_no_streams(client: Client, busybox: str) -> None:
    assert (await client.run(busybox, "sh", "-c", "echo x", streams=null())).status == 0


async def test_log_file(client: Client, busybox: str, tmp_path: Path) -> None:
    file = tmp_path / "log"
    await client.run(busybox, "echo", "logged", streams=log(str(file)))
    assert file.read_text() == "logged\n"


async def test_terminal(client: Client, busybox: str) -> None:
    result = await client.run(busybox, "sh", "-c", "tty; echo err >&2", streams=capture(terminal=True))
    assert result.stdout == b"/dev/pts/0\r\nerr\r\n"


async def test_terminal_has_a_size(client: Client, busybox: str) -> None:
    streams = pipes(terminal=True)
    async with await client.create_container("tty", busybox, oci.with_tty(), args=["sh"]) as container:
        async with await container.create_task(streams) as task:
            await task.start()
            await streams.resize(101, 37)
            await streams.write(b"stty size; exit\n")
            await task.wait()
            await task.delete()
            assert b"37 101" in await streams.stdout.read()


async def test_streams_must_fit_the_specification(client: Client, busybox: str) -> None:
    async with await client.create_container("c", busybox, oci.with_tty()) as container:
        with pytest.raises(FailedPrecondition, match="terminal"):
            await container.create_task(capture())


async def test_pipes(client: Client, busybox: str) -> None:
    streams = pipes()
    async with await client.create_container("cat", busybox, args=["cat"]) as container:
        async with await container.create_task(streams) as task:
            await task.start()
            await streams.write(b"one\ntwo\n")
            assert await streams.stdout.readline() == b"one\n"
            assert await streams.stdout.readline() == b"two\n"
            await streams.write_eof()
            assert (await task.wait()).status == 0
            await task.delete()
            assert await streams.stdout.read() == b""


async def test_pipes_keep_what_nobody_has_read_yet(client: Client, busybox: str) -> None:
    streams = pipes()
    async with await client.create_container("seq", busybox, args=["seq", "300000"]) as container:
        async with await container.create_task(streams) as task:
            await task.start()
            lines = b""
            async for chunk in streams.stdout:
                lines += chunk
                if len(lines) > 100_000:
                    break
            rest = asyncio.create_task(streams.stdout.read())
            await task.wait()
            await task.delete()
            assert (lines + await rest).count(b"\n") == 300_000


async def test_attach(client: Client, busybox: str) -> None:
    first, second = pipes(), pipes()
    async with await client.create_container("cat", busybox, args=["cat"]) as container:
        async with await container.create_task(first) as task:
            await task.start()
            await first.write(b"one\n")
            assert await first.stdout.readline() == b"one\n"
            await task.detach()
        async with await container.task(second) as task:
            await second.write(b"two\n")
            assert await second.stdout.readline() == b"two\n"
            await second.write_eof()
            assert (await task.wait()).status == 0
            await task.delete()


async def test_attach_to_what_has_a_log(client: Client, busybox: str, tmp_path: Path) -> None:
    async with await client.create_container("c", busybox, args=["sleep", "9"]) as container:
        async with await container.create_task(log(str(tmp_path / "log"))) as task:
            await task.start()
            with pytest.raises(FailedPrecondition, match="no FIFO"):
                await container.task(pipes())


async def test_task_life(client: Client, busybox: str) -> None:
    async with await client.create_container("life", busybox, args=["sleep", "100"]) as container:
        async with await container.create_task() as task:
            assert (await task.state()).status is TaskStatus.CREATED
            assert await task.start() == task.pid > 0
            assert (await task.state()).status is TaskStatus.RUNNING
            with pytest.raises(FailedPrecondition):
                await task.delete()
            with pytest.raises(FailedPrecondition):
                await container.delete()
            with pytest.raises(AlreadyExists):
                await container.create_task()
            await task.pause()
            assert (await task.state()).status is TaskStatus.PAUSED
            await task.resume()
            assert task.pid in {process.pid for process in await task.pids()}
            metrics = await task.metrics()
            assert metrics is not None
            assert metrics.type_url.startswith("io.containerd.cgroups.")
            await task.update({"memory": {"limit": 64 << 20}})
            again = await container.task()
            assert again.pid == task.pid
            await task.kill(signal.SIGKILL)
            assert (await task.wait()).status == 137
            assert (await task.delete()).status == 137
            with pytest.raises(NotFound):
                await task.state()


async def test_further_processes(client: Client, busybox: str) -> None:
    async with await client.create_container("multi", busybox, args=["sleep", "100"]) as container:
        async with await container.create_task() as task:
            await task.start()
            streams = capture(input=b"hello")
            async with await container.exec("e1", "sh", "-c", "cat; echo err >&2; exit 4", streams=streams) as process:
                assert await process.start() > 0
                assert (await process.wait()).status == 4
                assert (await process.delete()).status == 4
            assert (streams.stdout, streams.stderr) == (b"hello", b"err\n")
            async with await task.exec("e2", container.process_of("sleep", "100")) as process:
                await process.start()
                await process.kill(signal.SIGTERM)
                assert (await process.wait()).status == 143
            assert (await task.state()).status is TaskStatus.RUNNING
            with pytest.raises(NotFound):
                await process.state()


async def test_a_command_that_is_not_there(client: Client, busybox: str) -> None:
    with pytest.raises(OrlopError, match="no-such-command"):
        await client.run(busybox, "no-such-command")
    assert await client.containers.list() == []


async def test_a_failed_creation_leaves_nothing(client: Client, busybox: str) -> None:
    def broken(spec: oci.Spec, context: oci.SpecContext) -> None:
        raise InvalidArgument("on purpose")

    with pytest.raises(InvalidArgument, match="on purpose"):
        await client.create_container("c", busybox, broken)
    with pytest.raises(NotFound):
        await client.snapshots().stat("c")
    with pytest.raises(NotFound):
        await client.create_container("c", "example.com/nothing:1")


async def test_streams_are_for_one_process(client: Client, busybox: str) -> None:
    streams = capture()
    await client.run(busybox, "true", streams=streams)
    with pytest.raises(FailedPrecondition, match="make new ones"):
        await client.run(busybox, "true", streams=streams)


async def test_options_reach_the_container(client: Client, busybox: str, tmp_path: Path) -> None:
    readable_file(tmp_path, "from outside\n")
    script = "id -u; id -g; pwd; hostname; echo $GREETING; cat /data/file; grep CapEff /proc/self/status; touch /x"
    result = await client.run(
        busybox,
        "sh",
        "-c",
        script,
        options=[
            oci.with_user("user"),
            oci.with_cwd("/tmp"),
            oci.with_hostname("box"),
            oci.with_env({"GREETING": "hi"}),
            oci.with_mounts(oci.bind(str(tmp_path), "/data", read_only=True)),
            oci.with_capabilities(drop=["ALL"]),
            oci.with_read_only_rootfs(),
            oci.with_memory_limit(64 << 20),
            oci.with_cpus(0.5),
            oci.with_pids_limit(50),
        ],
    )
    uid, gid, cwd, hostname, greeting, *rest = result.stdout.decode().splitlines()
    assert (uid, gid, cwd, hostname, greeting) == ("1000", "1000", "/tmp", "box", "hi")
    assert rest == ["from outside", "CapEff:\t0000000000000000"]
    assert b"Read-only file system" in result.stderr


async def test_unknown_user(client: Client, busybox: str) -> None:
    with pytest.raises(NotFound, match="nobody-like-that"):
        await client.run(busybox, "id", options=[oci.with_user("nobody-like-that")])


async def test_settings(client: Client, busybox: str) -> None:
    settings = ContainerSettings(labels={"mine": "yes"}, read_only_snapshot=True, snapshotter="native")
    async with await client.create_container("c", busybox, settings=settings) as container:
        assert container.record.labels["mine"] == "yes"
        assert container.record.labels["io.containerd.image.config.stop-signal"] == "SIGTERM"
        assert (await client.snapshots("native").stat("c")).kind.name == "VIEW"


async def test_task_events(client: Client, busybox: str) -> None:
    seen = []
    async with client.watch('topic~="^/tasks/"') as events:
        await client.run(busybox, "true")
        async with asyncio.timeout(20):
            async for event in events:
                seen.append(event.topic)
                if event.topic == "/tasks/delete":
                    break
    assert seen == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]


async def test_many_at_once(client: Client, busybox: str) -> None:
    results = await asyncio.gather(*(client.run(busybox, "echo", str(number)) for number in range(5)))
    assert [result.stdout for result in results] == [b"%d\n" % number for number in range(5)]
