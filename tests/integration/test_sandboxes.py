# SPDX-License-Identifier: Apache-2.0
"""Sandboxes on a real daemon: with Orlop's own shim, through the death of either, and with a controller elsewhere."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.integration.sdk.test_serve import PROXY, serving
from tests.support import oci
from tests.support.cli import PROGRAM
from tests.support.ctr import eventually
from tests.support.daemon import ORLOPD, Daemon
from tests.support.place import short_directory
from tests.support.runtime import cgroup_files, forget_namespace
from tests.support.sandboxes import PATIENCE, RUNNING, Clients, Topics, clients, spec

from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from orlop.interfaces.sandbox import SandboxRequest
from orlop.interfaces.task import TaskOptions
from orlop.values import AnyMessage, Container, Mount, RuntimeInfo, Sandbox, Stdio
from orlop_sdk.api.events.sandbox_pb2 import SandboxExit

OWN = "io.containerd.orlop.v1"


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture(scope="module")
def daemon(base: Path) -> Iterator[Daemon]:
    (base / "d").mkdir()
    with Daemon(base / "d", ORLOPD) as running:
        yield running


@pytest.fixture(scope="module")
def tree(base: Path) -> list[Mount]:
    return oci.busybox_tree(base / "tree")


@pytest.fixture
def namespace(daemon: Daemon) -> Iterator[str]:
    name = f"sb-{uuid.uuid4().hex[:12]}"
    daemon.ctr(name)
    yield name
    forget_namespace(name)


def record(id: str, **fields: object) -> Sandbox:
    return Sandbox(id, RuntimeInfo(OWN), sandboxer="shim", **fields)  # type: ignore[arg-type]


async def run(
    to: Clients,
    namespace: str,
    id: str,
    sandbox: str,
    tree: list[Mount],
    args: Sequence[str] = ("sleep", "1000"),
    cgroup: str = "",
) -> None:
    """A container in a sandbox, running."""
    container = Container(id, RuntimeInfo(OWN), spec(namespace, id, args, cgroup), sandbox=sandbox)
    await to.containers.create(container)
    task = await to.tasks.create(id, TaskOptions(rootfs=tree, stdio=Stdio()))
    await task.start()


async def end(to: Clients, *ids: str) -> None:
    for id in ids:
        await (await to.tasks.get(id)).delete()
        await to.containers.delete(id)


async def test_containers_live_in_the_shim_of_their_sandbox(daemon: Daemon, namespace: str, tree: list[Mount]) -> None:
    async with clients(daemon.address, namespace) as to, Topics(to, namespace) as topics:
        await to.store.create(record("pod"))
        await to.controller.create(record("pod"), SandboxRequest(netns_path="/run/netns/x", annotations={"a": "b"}))
        assert (await to.controller.status("pod")).state == "SANDBOX_NOTREADY"
        started = await to.controller.start("pod")
        assert started.pid in daemon.shims()
        assert (started.version, started.address.partition("+")[0]) == (3, "ttrpc")
        await run(to, namespace, "c1", "pod", tree)
        await run(to, namespace, "c2", "pod", tree)
        assert list(daemon.shims()) == [started.pid], "one shim holds the sandbox and all its containers"
        status = await to.controller.status("pod", verbose=True)
        assert (status.state, status.pid, status.address) == ("SANDBOX_READY", started.pid, started.address)
        assert json.loads(status.info["containers"]) == ["c1", "c2"]
        assert (status.info["netns"], json.loads(status.info["annotations"])) == ("/run/netns/x", {"a": "b"})
        assert (await to.controller.platform("pod")).os == "linux"

        await killed(to, "c1")
        assert (await to.controller.status("pod")).state == "SANDBOX_READY", "a container's end is not the sandbox's"
        await ends_with_its_containers(to, "c2")
        eventually(lambda: not daemon.shims(), "the shim went with the sandbox")
        await topics.until("/sandboxes/create", "/sandboxes/start", "/sandboxes/exit")
        payload = SandboxExit.FromString(topics.events[-1].payload.value)
        assert (payload.sandbox_id, payload.exit_status) == ("pod", 0)


async def killed(to: Clients, id: str) -> None:
    task = await to.tasks.get(id)
    await task.kill(signal.SIGKILL)
    await task.wait()
    await end(to, id)


async def ends_with_its_containers(to: Clients, container: str) -> None:
    """Stop and shut down the sandbox ``pod``, in which one container runs."""
    waiting = asyncio.create_task(to.controller.wait("pod"))
    await to.controller.stop("pod", timeout=0)
    async with asyncio.timeout(PATIENCE):
        ended = await waiting
    assert ended.status == 0
    assert (await (await to.tasks.get(container)).wait()).status == 128 + signal.SIGKILL
    after = await to.controller.status("pod")
    assert (after.state, after.exited_at) == ("SANDBOX_NOTREADY", ended.exited_at)
    await end(to, container)
    await to.controller.shutdown("pod")
    await to.controller.shutdown("pod")
    with pytest.raises(NotFound):
        await to.controller.status("pod")
    await to.store.delete("pod")


async def test_containers_get_the_time_that_a_stop_gives_them(
    daemon: Daemon, namespace: str, tree: list[Mount]
) -> None:
    async with clients(daemon.address, namespace) as to:
        await to.store.create(record("pod"))
        await to.controller.create(record("pod"), SandboxRequest())
        await to.controller.start("pod")
        ready = Path(tree[0].source, "tmp", namespace)
        heeds = f"trap 'exit 7' TERM; echo > /tmp/{namespace}; while :; do sleep 0.1; done"
        await run(to, namespace, "heeds", "pod", tree, ["sh", "-c", heeds])
        await run(to, namespace, "deaf", "pod", tree, ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])
        eventually(ready.exists, "the trap is set")
        await to.controller.stop("pod", timeout=2)
        assert (await (await to.tasks.get("heeds")).wait()).status == 7
        assert (await (await to.tasks.get("deaf")).wait()).status == 128 + signal.SIGKILL
        await to.containers.create(
            Container("late", RuntimeInfo(OWN), spec(namespace, "late", ["true"]), sandbox="pod")
        )
        with pytest.raises(FailedPrecondition, match="does not run"):
            await to.tasks.create("late", TaskOptions(rootfs=tree))
        await end(to, "heeds", "deaf")
        await to.controller.shutdown("pod")
    eventually(lambda: not daemon.shims(), "no shim is left")


async def test_what_sandboxes_need_is_not_switched_off(daemon: Daemon, namespace: str) -> None:
    async with clients(daemon.address, namespace) as to:
        await to.controller.create(record("pod"), SandboxRequest())
        for uri in ("io.containerd.sandbox.controller.v1.shim", "io.containerd.shim.v1.orlop"):
            refused = orlop(daemon, "plugins", "disable", uri)
            assert refused.returncode != 0
            assert f'sandbox "{namespace}/pod"' in refused.stderr
        await to.controller.shutdown("pod")


def orlop(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, "--address", str(daemon.address), *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


async def test_a_sandbox_outlives_the_daemon(daemon: Daemon, namespace: str, tree: list[Mount]) -> None:
    """Killed or stopped, the next daemon has the sandbox and the containers again, and tells of its end."""
    async with clients(daemon.address, namespace) as to:
        await to.store.create(record("pod"))
        await to.controller.create(record("pod"), SandboxRequest())
        started = await to.controller.start("pod")
        await run(to, namespace, "c1", "pod", tree)
    daemon.kill()
    daemon.start()
    async with clients(daemon.address, namespace) as to, Topics(to, namespace) as topics:
        assert (await to.controller.status("pod")).pid == started.pid
        assert (await (await to.tasks.get("c1")).state()).status is RUNNING
        await run(to, namespace, "c2", "pod", tree)
        assert list(daemon.shims()) == [started.pid]
        for id in ("c1", "c2"):
            await killed(to, id)
        assert list(daemon.shims()) == [started.pid], "the sandbox keeps its shim after a restart, too"
        await to.controller.shutdown("pod")
        await topics.until("/sandboxes/exit")
        await to.store.delete("pod")
    eventually(lambda: not daemon.shims(), "the shim went with the sandbox")


async def test_a_dead_shim_is_an_ended_sandbox(daemon: Daemon, namespace: str, tree: list[Mount]) -> None:
    async with clients(daemon.address, namespace) as to, Topics(to, namespace) as topics:
        await to.store.create(record("pod"))
        await to.controller.create(record("pod"), SandboxRequest())
        started = await to.controller.start("pod")
        await run(to, namespace, "c1", "pod", tree)
        waiting = asyncio.create_task(to.controller.wait("pod"))
        await asyncio.sleep(0.1)
        os.kill(started.pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            assert (await waiting).status != 0
        status = await to.controller.status("pod")
        assert (status.state, status.pid) == ("SANDBOX_NOTREADY", 0)
        await topics.until("/sandboxes/create", "/sandboxes/start", "/sandboxes/exit")
        eventually(lambda: daemon.ctr(namespace).run("tasks", "ps", "c1").code != 0, "the task went with the shim")
        await to.containers.create(Container("c2", RuntimeInfo(OWN), spec(namespace, "c2", ["true"]), sandbox="pod"))
        with pytest.raises(FailedPrecondition, match="does not run"):
            await to.tasks.create("c2", TaskOptions(rootfs=tree))
        await to.controller.shutdown("pod")
        with pytest.raises(NotFound):
            await to.controller.wait("pod")
        # The id is free again.
        await to.controller.create(record("pod"), SandboxRequest())
        await to.controller.shutdown("pod")
    eventually(lambda: not daemon.shims(), "no shim is left")


async def test_a_sandbox_that_died_with_the_daemon_away(daemon: Daemon, namespace: str) -> None:
    async with clients(daemon.address, namespace) as to:
        await to.store.create(record("pod"))
        await to.controller.create(record("pod"), SandboxRequest())
        started = await to.controller.start("pod")
    daemon.kill()
    os.kill(started.pid, signal.SIGKILL)
    daemon.start()
    async with clients(daemon.address, namespace) as to:
        assert (await to.controller.status("pod")).state == "SANDBOX_NOTREADY"
        assert (await to.controller.wait("pod")).status != 0
        await to.controller.shutdown("pod")
    assert left_of(daemon, namespace, started.address) == []


def left_of(daemon: Daemon, namespace: str, address: str) -> list[Path]:
    bundles = daemon.state / "io.containerd.sandbox.controller.v1.shim" / namespace
    return [*bundles.iterdir(), *(path for path in (Path(address.removeprefix("ttrpc+unix://")),) if path.exists())]


async def test_figures_are_those_of_the_control_group_in_the_spec(
    daemon: Daemon, namespace: str, tree: list[Mount]
) -> None:
    group = f"/{namespace}/pod"
    document = oci.spec(namespace, "pod", ["true"])
    document["linux"]["cgroupsPath"] = group
    whole = AnyMessage(oci.SPEC_URL, json.dumps(document).encode())
    async with clients(daemon.address, namespace) as to:
        await to.store.create(record("pod", spec=whole))
        await to.controller.create(record("pod", spec=whole), SandboxRequest())
        await to.controller.start("pod")
        with pytest.raises(NotFound, match="has no control group"):
            await to.controller.metrics("pod")
        await run(to, namespace, "c1", "pod", tree, cgroup=f"{group}/c1")
        metric = await to.controller.metrics("pod")
        assert metric.id == "pod"
        assert metric.data is not None
        assert metric.data.type_url.startswith("io.containerd.cgroups.v")
        assert metric.data.value
        await to.controller.stop("pod")
        await end(to, "c1")
        await to.controller.shutdown("pod")
    for place in cgroup_files(namespace, "pod"):
        place.rmdir()


async def test_refusals(daemon: Daemon, namespace: str, tree: list[Mount]) -> None:
    async with clients(daemon.address, namespace) as to:
        await to.controller.create(record("pod"), SandboxRequest())
        with pytest.raises(AlreadyExists):
            await to.controller.create(record("pod"), SandboxRequest())
        with pytest.raises(InvalidArgument):
            await to.controller.create(record("no/id"), SandboxRequest())
        with pytest.raises(Unimplemented):
            await to.controller.update("pod", record("pod"), ["labels"])
        await to.controller.start("pod")
        with pytest.raises(FailedPrecondition, match="started before"):
            await to.controller.start("pod")
        # As in containerd, a start that fails takes the sandbox along.
        with pytest.raises(NotFound):
            await to.controller.status("pod")
        with pytest.raises(NotFound):
            await to.controller.stop("pod")
        with pytest.raises(InvalidArgument, match="not a runtime name"):
            await to.controller.create(Sandbox("other", RuntimeInfo("")), SandboxRequest())
        with pytest.raises(NotFound):
            await to.controller.create(Sandbox("other", RuntimeInfo("io.containerd.nosuch.v1")), SandboxRequest())
        await to.containers.create(Container("c1", RuntimeInfo(OWN), spec(namespace, "c1", ["true"]), sandbox="nosuch"))
        with pytest.raises(NotFound, match='its sandbox "nosuch" does not exist'):
            await to.tasks.create("c1", TaskOptions(rootfs=tree))
    for name, error in (("", InvalidArgument), ("nosuch", NotFound)):
        async with clients(daemon.address, namespace, name) as to:
            with pytest.raises(error):
                await to.controller.status("pod")
    eventually(lambda: not daemon.shims(), "no shim is left")


async def test_a_shim_without_the_sandbox_api_is_told_from_others(daemon: Daemon, namespace: str) -> None:
    """Debian's runc shim has none; nothing of it is left."""
    async with clients(daemon.address, namespace) as to:
        debian = Sandbox("pod", RuntimeInfo("/usr/bin/containerd-shim-runc-v2"), spec(namespace, "pod", ["true"]))
        with pytest.raises(Unimplemented, match="has no sandbox API"):
            await to.controller.create(debian, SandboxRequest())
        with pytest.raises(NotFound):
            await to.controller.status("pod")
    eventually(lambda: not daemon.shims(), "no shim is left")


async def test_a_client_puts_a_task_into_a_shim_by_address(daemon: Daemon, namespace: str, tree: list[Mount]) -> None:
    async with clients(daemon.address, namespace) as to:
        await to.controller.create(record("pod"), SandboxRequest())
        started = await to.controller.start("pod")
        await to.containers.create(Container("c1", RuntimeInfo(OWN), spec(namespace, "c1", ["sleep", "100"])))
        options = TaskOptions(rootfs=tree, address=started.address, version=started.version)
        task = await to.tasks.create("c1", options)
        assert list(daemon.shims()) == [started.pid]
        await task.delete()
        assert (await to.controller.status("pod")).state == "SANDBOX_READY"
        with pytest.raises(InvalidArgument, match="PROTOCOL"):
            await to.tasks.create("c1", TaskOptions(rootfs=tree, address="unix:///x"))
        await to.controller.shutdown("pod")


async def test_a_controller_behind_a_socket(base: Path, namespace: str) -> None:
    """`orlop-sdk serve sandbox` on the one side, ``[proxy_plugins]`` on the other: all nine calls, and the events."""
    socket = base / "rooms.sock"
    (base / "p").mkdir()
    tables = PROXY.format(name="far", kind="sandbox", socket=socket)
    arguments = ("sandbox", "tests.support.sandboxes:rooms", "--socket", str(socket), "--root", str(base / "kept"))
    with serving(*arguments, cwd=Path.cwd()), Daemon(base / "p", ORLOPD, tables=tables) as daemon:
        async with clients(daemon.address, namespace, "far") as to, Topics(to, namespace) as topics:
            options = AnyMessage("example.Options", b"o")
            sandbox = Sandbox("pod", RuntimeInfo("any"), options, labels={"name": "first"}, sandboxer="far")
            await to.controller.create(sandbox, SandboxRequest(options=options, netns_path="/run/netns/y"))
            with pytest.raises(AlreadyExists):
                await to.controller.create(sandbox, SandboxRequest())
            started = await to.controller.start("pod")
            assert (started.pid, started.labels, started.version, started.spec) == (7, {"made": "here"}, 3, options)
            assert str(await to.controller.platform("pod")) == "linux/riscv64/v1"
            status = await to.controller.status("pod", verbose=True)
            assert (status.state, status.extra) == ("SANDBOX_READY", options)
            assert status.info == {"netns": "/run/netns/y", "name": "first"}
            await to.controller.update("pod", Sandbox("pod", RuntimeInfo("any"), labels={"name": "other"}), ["labels"])
            assert (await to.controller.status("pod", verbose=True)).info["name"] == "other"
            assert (await to.controller.metrics("pod")).data == AnyMessage("example.Figures", b"42")
            waiting = asyncio.create_task(to.controller.wait("pod"))
            await to.controller.stop("pod", timeout=3)
            async with asyncio.timeout(PATIENCE):
                assert (await waiting).status == 3
            await topics.until("/sandboxes/create", "/sandboxes/start", "/sandboxes/exit")
            await to.controller.shutdown("pod")
            with pytest.raises(NotFound):
                await to.controller.status("pod")
