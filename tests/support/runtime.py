# SPDX-License-Identifier: Apache-2.0
"""A runtime with real shims and no daemon: what a test needs around `TaskRuntime`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from tests.conftest import mount_points
from tests.support import oci

from orlop import context
from orlop.errors import NotFound, OrlopError
from orlop.interfaces.runtime import ShimLauncher, Task, TaskRequest
from orlop.values import AnyMessage, Event, Mount, Stdio, now
from orlop_runtime.launcher import LauncherSettings, ShimManager
from orlop_runtime.recovery import restore
from orlop_runtime.runtime import TaskRuntime, Timeouts
from orlop_sdk.api.services.ttrpc.events.v1.events_pb2 import ForwardRequest
from orlop_sdk.convert.events import event_from_wire
from orlop_sdk.rpc import descriptors
from orlop_sdk.rpc.service import Service
from orlop_sdk.ttrpc.server import Server
from orlop_shim.launcher import LauncherSettings as OwnSettings
from orlop_shim.launcher import OrlopLauncher

RUNC = "io.containerd.runc.v2"
PATIENCE = 30.0


class Recorder:
    """An event exchange that keeps everything, for `orlop.interfaces.event.EventExchange`."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._arrived = asyncio.Condition()

    async def publish(self, topic: str, payload: AnyMessage) -> None:
        await self.forward(Event(topic, payload, context.namespace(), now()))

    async def forward(self, event: Event) -> None:
        async with self._arrived:
            self.events.append(event)
            self._arrived.notify_all()

    @asynccontextmanager
    async def subscribe(self, filters: Sequence[str] = ()) -> AsyncIterator[AsyncIterator[Event]]:
        async def stream() -> AsyncIterator[Event]:
            for event in list(self.events):
                yield event

        yield stream()

    def topics(self, container: str) -> list[str]:
        """The topics of a container's events so far."""
        return [event.topic for event in self.events if fields(event).container_id == container]

    async def wait(self, container: str, topic: str) -> Any:
        """The message of the first event with that topic, once it is there."""

        def found() -> list[Event]:
            return [event for event in self.events if event.topic == topic and fields(event).container_id == container]

        async with asyncio.timeout(PATIENCE), self._arrived:
            await self._arrived.wait_for(found)
        return fields(found()[0])


def fields(event: Event) -> Any:
    """An event's message."""
    return descriptors.message(event.payload.type_url).FromString(event.payload.value)


class Forwarding(Service):
    """What shims send their events to."""

    service = "containerd.services.events.ttrpc.v1.Events"

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def Forward(self, request: ForwardRequest) -> Empty:
        await self._recorder.forward(event_from_wire(request.envelope))
        return Empty()


@dataclass
class World:
    """One runtime in directories of its own, under a namespace of its own."""

    base: Path
    namespace: str
    events: Recorder
    launcher: ShimManager | OrlopLauncher
    runtime: TaskRuntime
    server: Server
    timeouts: Timeouts
    own: bool = False

    @property
    def tree(self) -> list[Mount]:
        """The mounts of a root file system with busybox."""
        return [Mount("bind", str(self.base / "tree"), options=("rbind", "rw"))]

    def bundle(self, id: str) -> Path:
        """Where a container's bundle is."""
        return self.base / "state" / self.namespace / id

    async def create(
        self, id: str, args: Sequence[str], stdio: Stdio | None = None, *, runtime: str = RUNC, **annotations: str
    ) -> Task:
        """Create a container that runs busybox."""
        stdio = stdio or Stdio()
        spec = oci.spec(self.namespace, id, args, terminal=stdio.terminal, **annotations)
        return await self.runtime.create(id, TaskRequest(runtime, oci.spec_message(spec), self.tree, stdio))

    async def run(self, id: str, args: Sequence[str], stdio: Stdio | None = None, **annotations: str) -> Task:
        """Create and start one."""
        task = await self.create(id, args, stdio, **annotations)
        await task.start()
        return task

    async def restart(self) -> None:
        """What a stop and a start of the daemon do to the runtime."""
        await self.stop()
        await self.begin()

    async def stop(self) -> None:
        """What a stop of the daemon does."""
        await self.runtime.close()
        await self.launcher.close()

    async def begin(self) -> None:
        """What a start of the daemon does."""
        self.launcher = make_launcher(self.base, own=self.own)
        self.runtime = make_runtime(self.base, self.launcher, self.events, self.timeouts)
        await restore(self.runtime, nobody)

    async def remove(self, id: str) -> None:
        """Kill and delete a container."""
        task = await self.runtime.get(id)
        with suppress(OrlopError):
            await task.kill(signal.SIGKILL, everyone=True)
        async with asyncio.timeout(PATIENCE):
            await task.wait()
            await task.delete()

    def leftovers(self) -> list[str]:
        """Everything on the host that containers of this namespace left."""
        found = [f"mount {point}" for point in mount_points(self.base)]
        found += [f"process {pid}" for pid in self.shims()]
        for place in (self.base / "state" / self.namespace, self.base / "root" / self.namespace):
            found += [str(path) for path in place.glob("*")] if place.exists() else []
        place = Path("/run/containerd/runc", self.namespace)
        return found + ([str(path) for path in place.iterdir()] if place.exists() else [])

    def shims(self) -> list[int]:
        """The pids of this namespace's shims, without those of their workers."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    arguments = (entry / "cmdline").read_bytes().split(b"\0")
                    is_shim = b"containerd-shim" in arguments[0] and not arguments[0].endswith(b"-worker")
                    if is_shim and self.namespace.encode() in arguments:
                        found.append(int(entry.name))
        return found

    async def settled(self) -> list[str]:
        """What is left after some patience: shims end by themselves, and nobody tells when."""
        for _ in range(int(PATIENCE / 0.05)):
            if not self.leftovers():
                break
            await asyncio.sleep(0.05)
        return self.leftovers()


async def nobody(id: str) -> str:
    """No container has a record."""
    raise NotFound(f'container "{id}": not found')


def make_launcher(base: Path, *, own: bool) -> ShimManager | OrlopLauncher:
    """A launcher whose shims send events to this place: of Orlop's shim (*own*), or of containerd's."""
    events, daemon = f"unix://{base}/t.sock", f"{base}/g.sock"
    if own:
        return OrlopLauncher(OwnSettings(runtimes=(RUNC,), ttrpc_address=events, grpc_address=daemon))
    return ShimManager(LauncherSettings(ttrpc_address=events, grpc_address=daemon, publish_binary="/usr/bin/true"))


async def listen(base: Path, events: Recorder) -> Server:
    """Take the events of shims."""
    server = Server(Forwarding(events).methods())
    await server.listen(f"{base}/t.sock")
    return server


def make_runtime(
    base: Path, launcher: ShimManager | OrlopLauncher, events: Recorder, timeouts: Timeouts
) -> TaskRuntime:
    """A runtime over that place."""
    launchers: dict[str, ShimLauncher] = {"manager": launcher}
    if isinstance(launcher, OrlopLauncher):
        launchers = {"orlop": launcher, "manager": make_launcher(base, own=False)}
    return TaskRuntime(base / "state", base / "root", launchers, events, timeouts)


@asynccontextmanager
async def world(base: Path, *, own: bool = False) -> AsyncIterator[World]:
    """A fresh world; at the end its containers are removed, and nothing of them may be left on the host.

    Its shims are Orlop's with *own*, and containerd's without.
    """
    oci.busybox_tree(base / "tree")
    events = Recorder()
    server = await listen(base, events)
    timeouts = Timeouts()
    launcher = make_launcher(base, own=own)
    made = World(
        base,
        f"orlop-test-{uuid.uuid4().hex[:12]}",
        events,
        launcher,
        make_runtime(base, launcher, events, timeouts),
        server,
        timeouts,
        own,
    )
    with context.scope(namespace=made.namespace):
        try:
            yield made
        finally:
            for task in await made.runtime.list():
                await made.remove(task.id)
            await made.stop()
            left = await made.settled()
            await made.server.close()
            forget_namespace(made.namespace)
    assert left == []


def cgroup_files(namespace: str, name: str) -> list[Path]:
    """Files of a namespace's cgroups, in the hierarchy of version 2 or in those of version 1 that have them."""
    top = Path("/sys/fs/cgroup")
    return [*top.glob(f"{namespace}/{name}"), *top.glob(f"*/{namespace}/{name}")]


def forget_namespace(namespace: str) -> None:
    """Remove the empty directories that runc leaves of a namespace."""
    for path in (Path("/run/containerd/runc", namespace), *cgroup_files(namespace, "")):
        with suppress(OSError):
            path.rmdir()


class Output:
    """Reads a FIFO until its writers are gone."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._data = b""
        self._ended = asyncio.Event()
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    async def text(self) -> str:
        """All of it, once the writers are gone."""
        async with asyncio.timeout(PATIENCE):
            await self._ended.wait()
        return self._data.decode()

    def _read(self) -> None:
        data = os.read(self._fd, 1 << 16)
        self._data += data
        if not data:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._ended.set()


def pids_of(text: str) -> list[int]:
    """The processes whose command line contains *text* as a word of its own."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if re.search(rf"\0{re.escape(text)}\0", (entry / "cmdline").read_text()):
                    found.append(int(entry.name))
    return found
