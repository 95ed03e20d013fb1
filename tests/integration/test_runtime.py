# SPDX-License-Identifier: Apache-2.0
"""Tasks in real shims: Debian's ``containerd-shim-runc-v2`` with runc. Needs root."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio
from tests.conftest import mount_points
from tests.support import oci
from tests.support.runtime import PATIENCE, RUNC, Output, World, cgroup_files, pids_of, world

from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OrlopError, Unavailable
from orlop.interfaces.runtime import Task, TaskRequest
from orlop.values import AnyMessage, Mount, Stdio, TaskStatus
from orlop_runtime.bundle import Bundle
from orlop_sdk.api.types.introspection_pb2 import RuntimeInfo, RuntimeRequest
from orlop_sdk.api.types.runc.options.oci_pb2 import Options
from orlop_sdk.linux.mount import mount_all

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("containerd-shim-runc-v2", "runc", "busybox"))),
    reason="needs root, containerd's runc shim, runc and busybox-static",
)


@pytest_asyncio.fixture(params=["containerd", "own"])
async def w(short_tmp: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with world(short_tmp, own=request.param == "own") as made:
        yield made


async def test_a_container_from_create_to_delete(w: World) -> None:
    task = await w.create("c1", ["sh", "-c", "exit 7"])
    assert (await task.state()).status is TaskStatus.CREATED
    assert (await task.state()).pid == task.pid > 0
    waiting = [asyncio.create_task(task.wait()) for _ in range(3)]
    assert await task.start() == task.pid
    ends = await asyncio.gather(*waiting)
    assert {ended.status for ended in ends} == {7}
    assert (await task.wait()).status == 7
    state = await task.state()
    assert (state.status, state.exit_status) == (TaskStatus.STOPPED, 7)
    ended = await task.delete()
    assert (ended.status, ended.pid, ended.exited_at) == (7, task.pid, ends[0].exited_at)
    assert not w.bundle("c1").exists()
    with pytest.raises(NotFound):
        await w.runtime.get("c1")
    await w.events.wait("c1", "/tasks/delete")
    assert w.events.topics("c1") == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert await w.settled() == []


async def test_the_bundle_is_laid_out_as_shims_expect(w: World) -> None:
    await w.create("c1", ["true"])
    bundle = w.bundle("c1")
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o700
    assert stat.S_IMODE(bundle.parent.stat().st_mode) == 0o711
    assert (bundle / "work").resolve() == w.base / "root" / w.namespace / "c1"
    assert stat.S_ISFIFO((bundle / "log").stat().st_mode)
    name = "containerd-shim-orlop-v1" if w.own else "containerd-shim-runc-v2"
    path = Path((bundle / "shim-binary-path").read_text())
    assert path.name == name
    assert os.access(path, os.X_OK)
    assert stat.S_IMODE((bundle / "shim-binary-path").stat().st_mode) == 0o600
    assert stat.S_IMODE((bundle / "bootstrap.json").stat().st_mode) == 0o644
    assert mount_points(bundle) == [str(bundle / "rootfs")]


async def test_the_bundle_belongs_to_a_remapped_root(w: World) -> None:
    spec = oci.spec(w.namespace, "c1", ["true"])
    mapping = [{"containerID": 0, "hostID": 54321, "size": 1000}]
    spec["linux"] |= {"gidMappings": mapping, "uidMappings": mapping}
    request = TaskRequest(RUNC, oci.spec_message(spec), [Mount("bind", "/nonexistent", options=("bind",))])
    made = await asyncio.to_thread(_stat_while_created, w, request)
    assert made == (0o710, 54321)


def _stat_while_created(w: World, request: TaskRequest) -> tuple[int, int]:
    bundle = Bundle.at(w.base / "state", w.base / "root", w.namespace, "c1")
    bundle.create(request.spec.value)
    found = bundle.path.stat()
    bundle.remove()
    return stat.S_IMODE(found.st_mode), found.st_gid


async def test_output_and_input_pass_through_pipes(w: World) -> None:
    out, err = Output(w.base / "out"), Output(w.base / "err")
    stdin = w.base / "in"
    os.mkfifo(stdin)
    keep = os.open(stdin, os.O_RDWR | os.O_NONBLOCK)
    task = await w.run("c1", ["sh", "-c", "echo oops >&2; cat"], Stdio(str(stdin), str(out.path), str(err.path)))
    os.write(keep, b"hello\n")
    os.close(keep)
    await task.close_stdin()
    await task.close_stdin()
    async with asyncio.timeout(PATIENCE):
        assert (await task.wait()).status == 0
    await task.delete()
    assert await out.text() == "hello\n"
    assert await err.text() == "oops\n"


async def test_a_terminal_has_the_size_it_is_given(w: World) -> None:
    out = Output(w.base / "out")
    stdin = w.base / "in"
    os.mkfifo(stdin)
    keep = os.open(stdin, os.O_RDWR | os.O_NONBLOCK)
    try:
        stdio = Stdio(str(stdin), str(out.path), terminal=True)
        task = await w.create("c1", ["sh", "-c", "read line; stty size"], stdio)
        await task.start()
        await task.resize(101, 43)
        os.write(keep, b"go\n")
        async with asyncio.timeout(PATIENCE):
            await task.wait()
        await task.delete()
    finally:
        os.close(keep)
    assert "43 101" in await out.text()


async def test_more_processes_in_a_container(w: World) -> None:
    task = await w.run("c1", ["sleep", "1000"])
    out, err = Output(w.base / "out"), Output(w.base / "err")
    spec = oci.process_message(oci.process(["sh", "-c", "echo $WORD; exit 3"], env=["WORD=inside"]))
    await task.exec("e1", spec, Stdio("", str(out.path), str(err.path)))
    assert (await task.state("e1")).status is TaskStatus.CREATED
    with pytest.raises(AlreadyExists):
        await task.exec("e1", spec, Stdio())
    with pytest.raises(InvalidArgument):
        await task.exec("", spec, Stdio())
    pid = await task.start("e1")
    ended = await task.wait("e1")
    assert ended.status == 3
    gone = await task.delete("e1")
    assert (gone.status, gone.pid) == (3, pid)
    assert await out.text() == "inside\n"
    with pytest.raises(NotFound):
        await task.state("e1")
    assert (await task.state()).status is TaskStatus.RUNNING
    topics = w.events.topics("c1")
    assert topics[2:4] == ["/tasks/exec-added", "/tasks/exec-started"]


async def test_signals(w: World) -> None:
    task = await w.create("c1", ["sh", "-c", "trap 'exit 9' USR1; while :; do sleep 0.05; done"])
    await task.start()
    await asyncio.sleep(0.2)
    await task.kill(signal.SIGUSR1)
    async with asyncio.timeout(PATIENCE):
        assert (await task.wait()).status == 9
    with pytest.raises(NotFound):
        await task.kill(signal.SIGKILL)


async def test_pause_and_resume(w: World) -> None:
    task = await w.run("c1", ["sleep", "1000"])
    await task.pause()
    assert (await task.state()).status is TaskStatus.PAUSED
    await task.resume()
    assert (await task.state()).status is TaskStatus.RUNNING


async def test_what_is_inside_and_what_it_uses(w: World) -> None:
    task = await w.run("c1", ["sleep", "1000"])
    assert [process.pid for process in await task.pids()] == [task.pid]
    stats = await task.stats()
    assert stats is not None
    assert stats.type_url.endswith(".Metrics")
    assert stats.value


async def test_limits_can_change(w: World) -> None:
    task = await w.run("c1", ["sleep", "1000"])
    url = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
    await task.update(AnyMessage(url, b'{"pids": {"limit": 17}}'))
    assert {path.read_text().strip() for path in cgroup_files(w.namespace, "c1/pids.max")} == {"17"}


async def test_a_running_task_cannot_be_deleted(w: World) -> None:
    task = await w.run("c1", ["sleep", "1000"])
    with pytest.raises(FailedPrecondition, match="still running"):
        await task.delete()
    assert (await task.state()).status is TaskStatus.RUNNING


async def test_one_id_has_one_task(w: World) -> None:
    results = await asyncio.gather(*(w.create("c1", ["true"]) for _ in range(3)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["AlreadyExists", "AlreadyExists", "ShimTask"]
    with pytest.raises(AlreadyExists):
        await w.create("c1", ["true"])


async def test_an_id_is_free_at_once_after_delete(w: World) -> None:
    for _ in range(3):
        task = await w.run("c1", ["true"])
        await task.wait()
        await task.delete()
    assert await w.settled() == []


async def test_a_create_that_fails_in_the_runtime_leaves_nothing(w: World) -> None:
    with pytest.raises(OrlopError, match="nonexistent"):
        await w.create("c1", ["nonexistent"])
    with pytest.raises(NotFound):
        await w.runtime.get("c1")
    assert await w.settled() == []
    assert w.events.topics("c1") == []
    await w.create("c1", ["true"])


async def test_a_create_without_a_root_leaves_nothing(w: World) -> None:
    spec = oci.spec_message(oci.spec(w.namespace, "c1", ["true"]))
    with pytest.raises(OrlopError):
        await w.runtime.create("c1", TaskRequest(RUNC, spec, [Mount("bind", "/nonexistent", options=("bind",))]))
    assert await w.settled() == []


async def test_a_shim_that_does_not_start_leaves_nothing(w: World) -> None:
    shim = w.base / "containerd-shim-broken-v1"
    shim.write_text("#!/bin/sh\necho no luck today\nexit 3\n")
    shim.chmod(0o755)
    with pytest.raises(Unavailable, match=r"no luck today .*status 3"):
        await w.create("c1", ["true"], runtime=str(shim))
    assert await w.settled() == []
    with pytest.raises(NotFound, match="containerd-shim-nowhere-v3"):
        await w.create("c1", ["true"], runtime="io.containerd.nowhere.v3")
    with pytest.raises(InvalidArgument):
        await w.create("c1", ["true"], runtime="some/where")
    assert await w.settled() == []


async def test_a_create_that_is_given_up_leaves_nothing(w: World) -> None:
    creating = asyncio.create_task(w.create("c1", ["sleep", "1000"]))
    await asyncio.sleep(0.01)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert await w.settled() == []


async def test_options_reach_shim_and_runtime(w: World) -> None:
    wrapper = w.base / "my-runc"
    wrapper.write_text(f'#!/bin/sh\necho "$*" >> {w.base}/calls\nexec {shutil.which("runc")} "$@"\n')
    wrapper.chmod(0o755)
    options = AnyMessage("containerd.runc.v1.Options", Options(binary_name=str(wrapper)).SerializeToString())
    spec = oci.spec_message(oci.spec(w.namespace, "c1", ["true"]))
    task = await w.runtime.create("c1", TaskRequest(RUNC, spec, w.tree, options=options))
    await task.start()
    await task.wait()
    await task.delete()
    assert " create " in (w.base / "calls").read_text()


async def test_a_group_shares_a_shim(w: World) -> None:
    first = await w.run("c1", ["sleep", "1000"], io_containerd_runc_v2_group="g")
    second = await w.run("c2", ["sleep", "1000"], io_containerd_runc_v2_group="g")
    assert len(w.shims()) == 1
    await w.remove("c1")
    await asyncio.sleep(0.2)
    assert (await second.state()).status is TaskStatus.RUNNING
    third = await w.run("c3", ["sleep", "1000"], io_containerd_runc_v2_group="g")
    assert len(w.shims()) == 1
    for task in (second, third):
        await w.remove(task.id)
    assert first.id == "c1"
    assert await w.settled() == []


async def test_the_last_of_a_group_goes_while_another_comes(w: World) -> None:
    for number in range(3):
        task = await w.run("old", ["sleep", "1000"], io_containerd_runc_v2_group="g")
        await task.kill(signal.SIGKILL)
        await task.wait()
        await asyncio.gather(task.delete(), w.run(f"new{number}", ["true"], io_containerd_runc_v2_group="g"))
        await w.remove(f"new{number}")
    assert await w.settled() == []


async def test_a_shim_that_is_killed(w: World) -> None:
    task = await w.run("c1", ["sleep", "98765"])
    await w.events.wait("c1", "/tasks/start")
    waiting = asyncio.create_task(task.wait())
    await asyncio.sleep(0)
    (shim,) = w.shims()
    os.kill(shim, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        ended = await waiting
    assert ended.status == 137
    exited = await w.events.wait("c1", "/tasks/exit")
    assert (exited.exit_status, exited.pid, exited.id) == (137, task.pid, "c1")
    await w.events.wait("c1", "/tasks/delete")
    assert w.events.topics("c1") == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    with pytest.raises(NotFound):
        await w.runtime.get("c1")
    assert (await task.delete()).status == 137
    assert pids_of("98765") == []
    assert await w.settled() == []


STUCK = """\
#!/bin/sh
case "$*" in
    *" create "*) touch {stuck}; exec sleep 98767;;
    *) exec {runc} "$@";;
esac
"""


async def test_a_shim_that_is_killed_in_the_middle_of_a_create(w: World) -> None:
    program = w.base / "runc-stuck"
    program.write_text(STUCK.format(stuck=w.base / "stuck", runc=shutil.which("runc")))
    program.chmod(0o755)
    options = AnyMessage("containerd.runc.v1.Options", Options(binary_name=str(program)).SerializeToString())
    spec = oci.spec_message(oci.spec(w.namespace, "c1", ["true"]))
    creating = asyncio.create_task(w.runtime.create("c1", TaskRequest(RUNC, spec, w.tree, options=options)))
    async with asyncio.timeout(PATIENCE):
        # Nobody tells when a stranger's process is there.
        while not ((w.base / "stuck").exists() and w.shims()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    # Not before: a shim comes to be by another process of its name.
    (shim,) = w.shims()
    os.kill(shim, signal.SIGKILL)
    with pytest.raises(OrlopError):
        await creating
    with pytest.raises(NotFound):
        await w.runtime.get("c1")
    assert await w.settled() == []
    assert pids_of("98767") == []
    await w.create("c1", ["true"])


async def test_a_shim_that_is_killed_before_its_container_started(w: World) -> None:
    task = await w.create("c1", ["sleep", "98766"])
    await dies_with_its_shim(w, task, *w.shims())


async def test_a_shim_that_is_killed_while_its_container_is_frozen(w: World) -> None:
    task = await w.run("c1", ["sleep", "98766"])
    await task.pause()
    await dies_with_its_shim(w, task, *w.shims())


async def test_a_shim_that_is_killed_while_a_process_is_started(w: World) -> None:
    """Whoever waits for a process, or for its start, hears of the end."""
    task = await w.run("c1", ["sleep", "98766"])
    # Before it has children that look like it.
    (shim,) = w.shims()
    spec = oci.process_message(oci.process(["sleep", "98766"]))
    await task.exec("e1", spec, Stdio())
    await task.start("e1")
    await task.exec("e2", spec, Stdio())
    waiting = asyncio.create_task(task.wait("e1"))
    starting = asyncio.create_task(task.start("e2"))
    await asyncio.sleep(0)
    await dies_with_its_shim(w, task, shim)
    async with asyncio.timeout(PATIENCE):
        for each in (waiting, starting):
            with suppress(OrlopError):
                await each


async def dies_with_its_shim(w: World, task: Task, shim: int) -> None:
    """Kill the shim: the container ends, its end is told with the status that it has, and nothing is left of it."""
    os.kill(shim, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        assert (await task.wait()).status == 137
    exited = await w.events.wait("c1", "/tasks/exit")
    assert (exited.exit_status, exited.pid, exited.id) == (137, task.pid, "c1")
    await w.events.wait("c1", "/tasks/delete")
    with pytest.raises(NotFound):
        await w.runtime.get("c1")
    assert await w.settled() == []
    assert pids_of("98766") == []


async def test_a_killed_shim_takes_its_whole_group(w: World) -> None:
    for id in ("c1", "c2"):
        await w.run(id, ["sleep", "98764"], io_containerd_runc_v2_group="g")
    (shim,) = w.shims()
    os.kill(shim, signal.SIGKILL)
    for id in ("c1", "c2"):
        await w.events.wait(id, "/tasks/delete")
    assert pids_of("98764") == []
    assert await w.settled() == []


async def test_removing_a_bundle_never_touches_what_is_mounted_there(w: World) -> None:
    bundle = Bundle.at(w.base / "state", w.base / "root", w.namespace, "c1")
    bundle.create(b"{}")
    precious = w.base / "precious"
    (precious / "inner").mkdir(parents=True)
    (precious / "data").write_text("keep me")
    mount_all([Mount("bind", str(precious), options=("rbind", "rw"))], bundle.path / "rootfs")
    mount_all([Mount("bind", str(precious), options=("rbind", "rw"))], bundle.path / "rootfs" / "inner")
    (bundle.path / "other").mkdir()
    mount_all([Mount("bind", str(precious), options=("rbind", "rw"))], bundle.path / "other")
    bundle.remove()
    assert await w.settled() == []
    assert (precious / "data").read_text() == "keep me"


async def test_tasks_are_listed_in_order_of_id(w: World) -> None:
    for id in ("b", "a", "c"):
        await w.create(id, ["true"])
    assert [task.id for task in await w.runtime.list()] == ["a", "b", "c"]


async def test_a_shim_says_what_it_is_or_that_it_cannot(w: World) -> None:
    if w.own:
        assert RuntimeInfo.FromString(await w.runtime.info(RUNC)).name == "io.containerd.orlop.v1"
        return
    with pytest.raises(Unavailable, match="-info"):
        await w.runtime.info(RUNC)


async def test_clients_ask_runtimes_for_info(w: World) -> None:
    shim = w.base / "shim"
    shim.write_text("#!/bin/sh\nprintf '\\012\\004demo'\n")
    shim.chmod(0o755)
    request = RuntimeRequest(runtime_path=str(shim)).SerializeToString()
    answer = await w.runtime.plugin_info(AnyMessage("containerd.types.RuntimeRequest", request))
    assert answer is not None
    assert answer.type_url == "containerd.types.RuntimeInfo"
    assert RuntimeInfo.FromString(answer.value).name == "demo"
    with pytest.raises(InvalidArgument, match=r"containerd\.types\.RuntimeRequest"):
        await w.runtime.plugin_info(None)
