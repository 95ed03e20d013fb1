# SPDX-License-Identifier: Apache-2.0
"""The runtime options (``containerd.runc.v1.Options``) that our shim is given, one by one, and what each has it do."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support import oci
from tests.support.runtime import PATIENCE, RUNC, World, cgroup_files, world

from orlop.errors import OrlopError
from orlop.interfaces.runtime import Task, TaskRequest
from orlop.values import AnyMessage, Stdio, TaskStatus
from orlop_sdk.api.types.runc.options.oci_pb2 import CheckpointOptions, Options

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("runc", "busybox"))), reason="needs root, runc and busybox-static"
)
TELLING = """\
#!/bin/sh
echo "$*" >>{said}
stat -L -c "owner %u:%g" /dev/fd/4 /dev/fd/5 4>&1 5>&2 >>{said}
exec {runc} "$@"
"""
LOGGER = """\
#!/bin/sh
exec >"$2"
exec 5>&-
cat <&3
"""
_PR_SCHED_CORE = 62


@pytest_asyncio.fixture
async def w(short_tmp: Path) -> AsyncIterator[World]:
    async with world(short_tmp, own=True) as made:
        yield made


async def create(
    w: World, *args: str, id: str = "c1", stdio: Stdio | None = None, checkpoint: str = "", **options: Any
) -> Task:
    """A container whose runtime has these options."""
    message = AnyMessage("containerd.runc.v1.Options", Options(**options).SerializeToString())
    spec = oci.spec_message(oci.spec(w.namespace, id, args))
    request = TaskRequest(RUNC, spec, w.tree, stdio or Stdio(), options=message, checkpoint=checkpoint)
    return await w.runtime.create(id, request)


async def output(w: World, *args: str, **options: Any) -> list[str]:
    """What a container prints that has these options."""
    file = w.base / "output"
    task = await create(w, *args, stdio=Stdio(stdout=f"file://{file}"), **options)
    await task.start()
    await task.wait()
    await task.delete()
    return file.read_text().splitlines()


def telling_runtime(w: World) -> str:
    """A runc that tells how it is called."""
    path = w.base / "runc-telling"
    path.write_text(TELLING.format(said=w.base / "said", runc=shutil.which("runc")))
    path.chmod(0o755)
    return str(path)


async def test_shim_cgroup(w: World) -> None:
    group = f"{w.namespace}-shims"
    try:
        task = await create(w, "sleep", "1000", shim_cgroup=f"/{group}")
        await task.start()
        (shim,) = w.shims()
        inside = [path for path in cgroup_files(group, "cgroup.procs") if str(shim) in path.read_text().split()]
        assert inside, "the shim is in the group"
        assert not any(str(task.pid) in path.read_text().split() for path in inside), "and the container is not"
        metrics = await task.stats()
        assert metrics is not None
        await w.remove("c1")
        assert await w.settled() == []
    finally:
        for path in cgroup_files(group, ""):
            with suppress(OSError):
                path.rmdir()
    assert cgroup_files(group, "") == []


def cookie(pid: int) -> int:
    """What a process may share a processor core with. Raises OSError where the kernel cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    value = ctypes.c_uint64()
    if libc.prctl(_PR_SCHED_CORE, 0, ctypes.c_ulong(pid), ctypes.c_ulong(0), ctypes.byref(value)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return value.value


@pytest.mark.parametrize("wanted", [True, False])
async def test_core_scheduling(short_tmp: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    """The variable that containerd gives its shims keeps a container from sharing a core, where that can be done."""
    if wanted:
        monkeypatch.setenv("SCHED_CORE", "1")
    async with world(short_tmp, own=True) as w:
        task = await w.run("c1", ["sleep", "1000"])
        (shim,) = w.shims()
        try:
            cookies = [cookie(pid) for pid in (os.getpid(), shim, task.pid)]
        except OSError as error:
            # That the container runs all the same was worth seeing.
            pytest.skip(f"core scheduling: {error.strerror}; it takes a kernel with CONFIG_SCHED_CORE and SMT")
        ours, shims, containers = cookies
        assert shims == containers
        assert (shims != ours) is wanted


async def test_owner_of_pipes(w: World) -> None:
    """Root of a user namespace can open /dev/stdout only if the pipe is its own before the runtime gets it."""
    program = w.base / "logger"
    program.write_text(LOGGER)
    program.chmod(0o755)
    out, err = (f"binary://{program}?to={w.base / name}" for name in ("out", "err"))
    stdio = Stdio(stdout=out, stderr=err)
    await create(w, "sleep", "1000", stdio=stdio, binary_name=telling_runtime(w), io_uid=1234, io_gid=4321)
    said = (w.base / "said").read_text().splitlines()
    (created,) = [number for number, line in enumerate(said) if " create " in line]
    assert said[created + 1 : created + 3] == ["owner 1234:4321"] * 2
    await w.remove("c1")


async def test_no_pivot_root(w: World) -> None:
    lines = await output(w, "ls", "/", binary_name=telling_runtime(w), no_pivot_root=True)
    assert "bin" in lines
    (call,) = [line for line in (w.base / "said").read_text().splitlines() if " create " in line]
    assert "--no-pivot" in call.split()


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.skipif(not Path("/proc/keys").exists(), reason="the kernel has no keyrings")
async def test_no_new_keyring(w: World, wanted: bool) -> None:
    # The kernel shows keyrings of other containers of the host as well.
    id = w.namespace
    keys = await output(w, "cat", "/proc/keys", id=id, no_new_keyring=wanted)
    assert any(f"_ses.{id}" in line for line in keys) is not wanted


async def test_root_and_binary(w: World) -> None:
    root = w.base / "elsewhere"
    task = await create(w, "sleep", "1000", root=str(root), binary_name=telling_runtime(w))
    await task.start()
    assert (root / w.namespace / "c1" / "state.json").exists()
    assert json.loads((w.bundle("c1") / "options.json").read_text())["root"] == str(root)
    await w.remove("c1")
    assert not (root / w.namespace / "c1").exists()
    assert " delete " in (w.base / "said").read_text()


async def test_an_update_that_the_runtime_refuses(w: World) -> None:
    """The error has its reason, and the container runs on with the limits that it had."""
    task = await create(w, "sleep", "1000")
    await task.start()
    before = [path.read_text() for path in cgroup_files(w.namespace, "c1/pids.max")]
    url = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
    with pytest.raises(OrlopError, match=r"12345.*cpuset"):
        await task.update(AnyMessage(url, b'{"pids": {"limit": 7}, "cpu": {"cpus": "12345"}}'))
    assert (await task.state()).status is TaskStatus.RUNNING
    await task.update(AnyMessage(url, b'{"pids": {"limit": 17}}'))
    after = [path.read_text() for path in cgroup_files(w.namespace, "c1/pids.max")]
    assert before != after == ["17\n"] * len(before)
    await w.remove("c1")
    assert await w.settled() == []


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="systemd runs here, and takes the container")
async def test_systemd_cgroups(w: World) -> None:
    """It is asked of the runtime, which refuses without a systemd."""
    with pytest.raises(OrlopError, match="systemd"):
        await create(w, "true", systemd_cgroup=True)
    assert await w.settled() == []


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def criu_works() -> bool:
    criu = shutil.which("criu")
    return criu is not None and subprocess.run([criu, "check"], capture_output=True, check=False).returncode == 0


def skip_where_criu_works() -> None:
    if criu_works():
        pytest.skip("criu works here: these tests are of what is said where it does not")


async def test_a_checkpoint_goes_on_where_it_was_made(w: World) -> None:
    """A shell that counts is written to disk, ended, and counts on in a new container."""
    if not criu_works():
        pytest.skip("criu is not installed, or does not work with this kernel (criu check)")
    counter = w.base / "tree/tmp/count"
    script = "n=0; while :; do n=$((n + 1)); echo $n >/tmp/count; sleep 0.1; done"
    task = await create(w, "sh", "-c", script)
    await task.start()
    await counts_beyond(counter, 3)
    exit = CheckpointOptions(exit=True).SerializeToString()
    await task.checkpoint(str(w.base / "image"), AnyMessage("containerd.runc.v1.CheckpointOptions", exit))
    async with asyncio.timeout(PATIENCE):
        await task.wait()
    await task.delete()
    before = int(counter.read_text())
    counter.write_text("0\n")
    task = await create(w, "sh", "-c", script, checkpoint=str(w.base / "image"))
    await task.start()
    assert (await task.state()).status is TaskStatus.RUNNING
    await counts_beyond(counter, before)
    await w.remove("c1")
    assert await w.settled() == []


async def counts_beyond(counter: Path, number: int) -> None:
    """Return when a greater number is in the file."""
    async with asyncio.timeout(PATIENCE):
        while not reached(counter, number):  # noqa: ASYNC110  # a stranger writes it
            await asyncio.sleep(0.05)


def reached(counter: Path, number: int) -> bool:
    """Whether there is a greater number by now; the file may be empty for a moment."""
    return counter.exists() and int(counter.read_text() or 0) > number


async def test_a_checkpoint_that_cannot_be_made(w: World) -> None:
    """The error has the runtime's reason and the place of criu's log; the container runs on."""
    skip_where_criu_works()
    task = await create(w, "sleep", "1000")
    await task.start()
    work = w.base / "criu-work"
    for options, place in ((CheckpointOptions(work_path=str(work)), work), (CheckpointOptions(), "criu-work")):
        message = AnyMessage("containerd.runc.v1.CheckpointOptions", options.SerializeToString())
        with pytest.raises(OrlopError, match=rf"OCI runtime checkpoint failed: .*criu.*{place}/dump\.log"):
            await task.checkpoint(str(w.base / "image"), message)
    assert (await task.state()).status is TaskStatus.RUNNING
    await w.remove("c1")
    assert await w.settled() == []


async def test_a_checkpoint_that_cannot_be_restored(w: World) -> None:
    """The start fails with the runtime's reason, as often as it is tried, and the container can be deleted."""
    (w.base / "image").mkdir()
    said = w.base / "said"
    work = w.base / "work-of-criu"
    task = await create(
        w, "sleep", "1", checkpoint=str(w.base / "image"), binary_name=telling_runtime(w), criu_work_path=str(work)
    )
    assert (await task.state()).status is TaskStatus.CREATED
    for _ in range(2):
        with pytest.raises(OrlopError, match=r"OCI runtime restore failed: .+"):
            await task.start()
        assert (await task.state()).status is TaskStatus.CREATED
    call = next(line for line in said.read_text().splitlines() if " restore " in line).split()
    assert call[call.index("--image-path") + 1] == str(w.base / "image")
    assert call[call.index("--work-path") + 1] == str(work)
    await task.delete()
    assert await w.settled() == []
