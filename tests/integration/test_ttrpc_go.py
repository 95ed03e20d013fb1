# SPDX-License-Identifier: Apache-2.0
"""Our ttrpc ends against the Go ones: Debian's runc shim as server and as client, and containerd's event socket.

Needs root, runc, containerd and a static busybox.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyPb
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from orlop import context, errors
from orlop_sdk.api.events.task_pb2 import TaskExit, TaskOOM
from orlop_sdk.api.runtime.task.v2.shim_pb2 import (
    ConnectRequest,
    CreateTaskRequest,
    DeleteRequest,
    KillRequest,
    PidsRequest,
    ShutdownRequest,
    StartRequest,
    StateRequest,
    WaitRequest,
)
from orlop_sdk.api.services.events.v1.events_pb2 import SubscribeRequest
from orlop_sdk.api.services.ttrpc.events.v1.events_pb2 import ForwardRequest
from orlop_sdk.api.types.event_pb2 import Envelope
from orlop_sdk.api.types.task import task_pb2
from orlop_sdk.rpc.service import Service
from orlop_sdk.rpc.stub import Stub
from orlop_sdk.ttrpc.client import Client
from orlop_sdk.ttrpc.server import Server

SHIM = "containerd-shim-runc-v2"
TASK = "containerd.task.v2.Task"
EVENTS = "containerd.services.events.ttrpc.v1.Events"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, (SHIM, "runc", "containerd", "busybox"))),
    reason="needs root, runc, containerd and busybox-static",
)


class EventSink(Service):
    """What shims publish to, in place of a daemon."""

    service = EVENTS

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, Envelope]] = []
        self._arrived = asyncio.Condition()

    async def Forward(self, request: ForwardRequest) -> Empty:
        async with self._arrived:
            self.seen.append((context.namespace_or_none(), request.envelope))
            self._arrived.notify_all()
        return Empty()

    async def topics(self, last: str) -> list[str]:
        """The topics so far, once *last* is among them."""
        async with asyncio.timeout(20), self._arrived:
            await self._arrived.wait_for(lambda: last in [envelope.topic for _, envelope in self.seen])
        return [envelope.topic for _, envelope in self.seen]


@dataclass
class Shim:
    """A shim that was started for one container."""

    id: str
    namespace: str
    bundle: Path
    address: str
    events: EventSink = field(repr=False)


def write_bundle(bundle: Path, id: str, args: list[str]) -> None:
    """A bundle that runs busybox without namespaces that the host might lack."""
    (bundle / "rootfs" / "bin").mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), bundle / "rootfs" / "bin" / "busybox")
    subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True, timeout=30)
    config = bundle / "config.json"
    spec = json.loads(config.read_text())
    spec["process"] |= {"terminal": False, "args": args}
    spec["linux"]["cgroupsPath"] = f"/orlop-{id}"
    config.write_text(json.dumps(spec))


def start_shim(unique: str, bundle: Path, events: str) -> str:
    """Start a shim as a daemon would and return the address it answers at."""
    flags = ["-namespace", unique, "-address", "/nonexistent", "-publish-binary", "/bin/true", "-id", unique]
    done = subprocess.run(
        [SHIM, *flags, "start"],
        cwd=bundle,
        env=os.environ | {"TTRPC_ADDRESS": events, "GRPC_ADDRESS": "/nonexistent"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stdout.decode(errors="replace").strip()


def remove(unique: str, address: str, bundle: Path) -> None:
    """What is left of a container whose shim is gone."""
    subprocess.run(
        ["runc", "--root", f"/run/containerd/runc/{unique}", "delete", "--force", unique], check=True, timeout=60
    )
    shutil.rmtree(f"/run/containerd/runc/{unique}", ignore_errors=True)
    Path(address.removeprefix("unix://")).unlink(missing_ok=True)
    for group in Path("/sys/fs/cgroup").glob(f"*/orlop-{unique}"):
        group.rmdir()


@pytest.fixture
async def shim(short_tmp: Path) -> AsyncIterator[Shim]:
    unique = f"t{os.getpid()}{os.urandom(3).hex()}"
    bundle = short_tmp / "b"
    write_bundle(bundle, unique, ["/bin/busybox", "sh", "-c", "exit 7"])
    # The shim logs into this; open for both, so that neither side ever waits for the other.
    os.mkfifo(bundle / "log")
    log = os.open(bundle / "log", os.O_RDWR | os.O_NONBLOCK)
    events = EventSink()
    server = Server(dict(events.methods()), same_user=True)
    socket = str(short_tmp / "e")
    await server.listen(socket)
    address = await asyncio.to_thread(start_shim, unique, bundle, socket)
    try:
        yield Shim(unique, unique, bundle, address, events)
    finally:
        try:
            async with await Client.connect(address) as client:
                pid = (await Stub(client, TASK).Connect(ConnectRequest(id=unique), timeout=5)).shim_pid
                os.kill(pid, signal.SIGKILL)
        except errors.Unavailable:
            pass  # the test has shut it down
        await asyncio.to_thread(remove, unique, address, bundle)
        await server.close()
        os.close(log)


async def test_client_runs_a_container_in_a_go_shim(shim: Shim) -> None:
    async with await Client.connect(shim.address) as client:
        task = Stub(client, TASK)
        with context.scope(namespace=shim.namespace):
            create = CreateTaskRequest(id=shim.id, bundle=str(shim.bundle))
            created = await task.Create(create, timeout=30)
            assert (await task.State(StateRequest(id=shim.id))).status == task_pb2.CREATED
            assert [each.pid for each in (await task.Pids(PidsRequest(id=shim.id))).processes] == [created.pid]
            waiting = [asyncio.create_task(task.Wait(WaitRequest(id=shim.id))) for _ in range(20)]
            await task.Start(StartRequest(id=shim.id), timeout=30)
            exits = await asyncio.gather(*waiting)
            assert {each.exit_status for each in exits} == {7}
            assert (await task.State(StateRequest(id=shim.id))).status == task_pb2.STOPPED
            assert (await task.Delete(DeleteRequest(id=shim.id), timeout=30)).exit_status == 7


async def test_server_takes_events_of_a_go_shim(shim: Shim) -> None:
    async with await Client.connect(shim.address) as client:
        task = Stub(client, TASK)
        await task.Create(CreateTaskRequest(id=shim.id, bundle=str(shim.bundle)), timeout=30)
        await task.Start(StartRequest(id=shim.id), timeout=30)
        await task.Wait(WaitRequest(id=shim.id), timeout=30)
        await shim.events.topics("/tasks/exit")
        await task.Delete(DeleteRequest(id=shim.id), timeout=30)
        topics = await shim.events.topics("/tasks/delete")
    assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert {namespace for namespace, _ in shim.events.seen} == {shim.namespace}
    payload = shim.events.seen[2][1].event
    exit = TaskExit()
    assert payload.type_url == "containerd.events.TaskExit"
    exit.ParseFromString(payload.value)
    assert (exit.container_id, exit.exit_status) == (shim.id, 7)


async def test_errors_of_a_go_server_keep_their_class(shim: Shim) -> None:
    async with await Client.connect(shim.address) as client:
        task = Stub(client, TASK)
        with pytest.raises(errors.NotFound):
            await task.State(StateRequest(id="nobody"))
        with pytest.raises(errors.NotFound):
            await task.Kill(KillRequest(id="nobody", signal=9))
        with pytest.raises(errors.Unimplemented):
            await Stub(client, "containerd.task.v3.Task").State(StateRequest(id="nobody"))


async def test_end_of_a_go_server_ends_calls(shim: Shim) -> None:
    lost = asyncio.Event()
    client = await Client.connect(shim.address, on_close=lost.set)
    task = Stub(client, TASK)
    await task.Create(CreateTaskRequest(id=shim.id, bundle=str(shim.bundle)), timeout=30)
    waiting = asyncio.create_task(task.Wait(WaitRequest(id=shim.id)))
    pid = (await task.Connect(ConnectRequest(id=shim.id))).shim_pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(errors.Unavailable):
        await waiting
    await asyncio.wait_for(lost.wait(), 10)
    await client.close()


async def test_shim_shuts_down_when_asked(shim: Shim) -> None:
    lost = asyncio.Event()
    async with await Client.connect(shim.address, on_close=lost.set) as client:
        # The shim may be gone before its answer is.
        try:
            await Stub(client, TASK).Shutdown(ShutdownRequest(id=shim.id), timeout=10)
        except errors.Unavailable:
            pass
        await asyncio.wait_for(lost.wait(), 20)


@pytest.fixture
def containerd(short_tmp: Path) -> Iterator[Path]:
    """A private containerd; gives the path of its socket."""
    socket = short_tmp / "c.sock"
    config = short_tmp / "config.toml"
    config.write_text(
        "version = 2\n"
        f'root = "{short_tmp}/root"\nstate = "{short_tmp}/state"\n'
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n'
        f'[grpc]\naddress = "{socket}"\n[ttrpc]\naddress = "{socket}.ttrpc"\n'
    )
    with (short_tmp / "log").open("wb") as log:
        daemon = subprocess.Popen(["containerd", "--config", str(config)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not (socket.exists() and Path(f"{socket}.ttrpc").exists()):
            ended = daemon.poll() is not None or time.monotonic() > deadline
            assert not ended, (short_tmp / "log").read_text()
            time.sleep(0.02)
        yield socket
    finally:
        daemon.terminate()
        daemon.wait(30)


async def test_containerd_takes_events_of_ours(containerd: Path) -> None:
    async with (
        grpc.aio.insecure_channel(f"unix://{containerd}") as channel,
        await Client.connect(f"{containerd}.ttrpc") as client,
    ):
        subscription = Stub(channel, "containerd.services.events.v1.Events").Subscribe(SubscribeRequest())
        first = asyncio.create_task(anext(subscription))
        forward = Stub(client, EVENTS).Forward
        stamp = Timestamp()
        stamp.FromDatetime(datetime.now(UTC))
        event = AnyPb(type_url="containerd.events.TaskOOM", value=TaskOOM(container_id="c1").SerializeToString())
        envelope = Envelope(timestamp=stamp, namespace="n1", topic="/tasks/oom", event=event)
        async with asyncio.timeout(20):
            # Subscribing has no answer, so it takes an unknown number of tries until somebody listens.
            while not first.done():
                await forward(ForwardRequest(envelope=envelope), timeout=10)
                await asyncio.wait([first], timeout=0.05)
        assert (await first) == envelope
        await subscription.aclose()


async def test_containerd_refuses_what_is_wrong(containerd: Path) -> None:
    async with await Client.connect(f"{containerd}.ttrpc") as client:
        with pytest.raises(errors.InvalidArgument):
            await Stub(client, EVENTS).Forward(ForwardRequest(envelope=Envelope(namespace="n1", topic="no slash")))
        with pytest.raises(errors.Unimplemented, match=TASK):
            await Stub(client, TASK).State(StateRequest(id="c1"))
