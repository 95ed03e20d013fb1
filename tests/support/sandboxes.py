# SPDX-License-Identifier: Apache-2.0
"""A client of sandboxes, and a sandbox controller that needs neither shim nor runtime."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from tests.support import oci

from orlop import context
from orlop.errors import AlreadyExists, FailedPrecondition, NotFound
from orlop.interfaces.sandbox import (
    SandboxController,
    SandboxInstance,
    SandboxRequest,
    SandboxStatus,
    sandbox_controller,
)
from orlop.plugin import InitContext, PluginConfig
from orlop.values import EPOCH, AnyMessage, Event, Exit, Metric, Platform, Sandbox, TaskStatus, now
from orlop_sdk.client.connection import open_channel
from orlop_sdk.client.events import RemoteEvents
from orlop_sdk.client.records import RemoteContainerStore, RemoteSandboxStore
from orlop_sdk.client.sandboxes import RemoteSandboxController
from orlop_sdk.client.tasks import RemoteTasks

PATIENCE: Final = 60.0


class Clients:
    """The daemon's parts that sandboxes need."""

    def __init__(self, channel: Any, namespace: str, sandboxer: str) -> None:
        self.channel = channel
        self.controller = RemoteSandboxController(channel, sandboxer)
        self.store = RemoteSandboxStore(channel)
        self.containers = RemoteContainerStore(channel)
        self.tasks = RemoteTasks(channel, namespace)
        self.events = RemoteEvents(channel)


@asynccontextmanager
async def clients(address: Path, namespace: str, sandboxer: str = "shim") -> AsyncIterator[Clients]:
    """Clients of a daemon, in a namespace."""
    channel = open_channel(str(address))
    try:
        with context.scope(namespace=namespace):
            yield Clients(channel, namespace, sandboxer)
    finally:
        await channel.close()


class Topics:
    """Collects the events of a namespace's sandboxes while the body runs."""

    def __init__(self, clients: Clients, namespace: str) -> None:
        self._clients = clients
        self._namespace = namespace
        self.events: list[Event] = []
        self._task: asyncio.Task[None] | None = None
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> Topics:
        started = asyncio.Event()
        self._task = asyncio.create_task(self._collect(started))
        await started.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, *topics: str) -> None:
        """Return once exactly these have come."""
        async with asyncio.timeout(PATIENCE), self._arrived:
            await self._arrived.wait_for(lambda: [event.topic for event in self.events] == list(topics))

    async def _collect(self, started: asyncio.Event) -> None:
        filters = [f'namespace=={self._namespace},topic~="^/sandboxes/"']
        async with self._clients.events.subscribe(filters) as stream:
            started.set()
            async for event in stream:
                async with self._arrived:
                    self.events.append(event)
                    self._arrived.notify_all()


def spec(namespace: str, id: str, args: Sequence[str], cgroup: str = "") -> AnyMessage:
    """The spec of a container that runs on busybox in a directory."""
    document = oci.spec(namespace, id, args)
    if cgroup:
        document["linux"]["cgroupsPath"] = cgroup
    return AnyMessage(oci.SPEC_URL, json.dumps(document).encode())


class Rooms:
    """A sandbox controller whose sandboxes are nothing but entries in a table: what it is told, it can tell again."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, str], _Room] = {}

    async def create(self, sandbox: Sandbox, request: SandboxRequest) -> None:
        key = (context.namespace(), sandbox.id)
        if key in self._rooms:
            raise AlreadyExists(f'sandbox "{sandbox.id}": already exists')
        self._rooms[key] = _Room(sandbox, request)

    async def start(self, id: str) -> SandboxInstance:
        room = self._find(id)
        if room.started != EPOCH:
            raise FailedPrecondition(f'sandbox "{id}": was started before')
        room.started = now()
        return SandboxInstance(id, 7, room.started, {"made": "here"}, "", 3, room.sandbox.spec)

    async def platform(self, id: str) -> Platform:
        self._find(id)
        return Platform("linux", "riscv64", "v1")

    async def stop(self, id: str, *, timeout: float = 0) -> None:
        room = self._find(id)
        if not room.ended.done():
            room.ended.set_result(Exit(int(timeout), now()))

    async def wait(self, id: str) -> Exit:
        return await asyncio.shield(self._find(id).ended)

    async def status(self, id: str, *, verbose: bool = False) -> SandboxStatus:
        room = self._find(id)
        told = {"netns": room.request.netns_path, "name": room.sandbox.labels.get("name", "")} if verbose else {}
        ended = room.ended.done()
        return SandboxStatus(
            id,
            7,
            "SANDBOX_NOTREADY" if ended else "SANDBOX_READY",
            told,
            room.started,
            room.ended.result().exited_at if ended else EPOCH,
            room.request.options,
        )

    async def shutdown(self, id: str) -> None:
        if (context.namespace(), id) in self._rooms:
            await self.stop(id)
            del self._rooms[context.namespace(), id]

    async def metrics(self, id: str) -> Metric:
        self._find(id)
        return Metric(id, now(), AnyMessage("example.Figures", b"42"))

    async def update(self, id: str, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> None:
        room = self._find(id)
        assert list(fieldpaths) == ["labels"]
        room.sandbox = sandbox

    def _find(self, id: str) -> _Room:
        try:
            return self._rooms[context.namespace(), id]
        except KeyError as error:
            raise NotFound(f'sandbox "{id}": not found') from error


class _Room:
    def __init__(self, sandbox: Sandbox, request: SandboxRequest) -> None:
        self.sandbox = sandbox
        self.request = request
        self.started = EPOCH
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()


@sandbox_controller("rooms")
async def rooms(_ctx: InitContext[PluginConfig]) -> SandboxController:
    """The controller above as a plugin."""
    return Rooms()


_: type[SandboxController] = Rooms
RUNNING: Final = TaskStatus.RUNNING
