# SPDX-License-Identifier: Apache-2.0
"""Containers that run: a record, a snapshot, a specification, and processes with their streams.

::

    container = await client.create_container("web", "docker.io/library/busybox:latest", args=["httpd", "-f"])
    async with container:                              # deleted with its snapshot at the end
        async with await container.create_task(capture()) as task:
            await task.start()
            await task.kill()
            print((await task.wait()).status)
"""

from __future__ import annotations

import asyncio
import signal as signals
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

from orlop import values
from orlop.errors import FailedPrecondition, NotFound, OrlopError, Unavailable, Unknown
from orlop.interfaces import runtime
from orlop.interfaces.task import TaskOptions
from orlop.values import EMPTY, AnyMessage, Exit, Labels, ProcessInfo, ProcessState, TaskStatus
from orlop_sdk import oci
from orlop_sdk.client.stdio import Streams, null
from orlop_sdk.linux.idmap import IdRange

if TYPE_CHECKING:
    from orlop_sdk.client.client import Client

DEFAULT_RUNTIME: Final = "io.containerd.runc.v2"
#: Seconds to wait for the last output of a process that was deleted.
DRAIN: Final = 10.0
#: Seconds that a process has to end after it was killed for good.
_DEATH: Final = 30.0


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """What is seldom set about a container."""

    snapshotter: str = ""
    """Empty for the client's."""
    runtime: str = ""
    """Name or path of the shim; empty for the namespace's default, which usually is runc."""
    runtime_options: AnyMessage | None = None
    labels: Labels = EMPTY
    snapshot_labels: Labels = EMPTY
    read_only_snapshot: bool = False
    """A view instead of a snapshot that can be written to."""
    sandbox: str = ""
    extensions: Mapping[str, AnyMessage] = field(default_factory=dict)
    platform: str = ""
    """Which variant of the image; empty for this host's."""
    uids: Sequence[IdRange] = ()
    """For a user namespace: which users of the container are which of the host's. Its files get owners to match."""
    gids: Sequence[IdRange] = ()
    """The same for groups. Both or neither."""
    remap_labels: bool = False
    """With these: have the snapshotter map the owners, even if it does not say that it can."""


class Process:
    """One process in a container. Delete it when it has ended; ``async with`` kills and deletes it."""

    def __init__(self, task: runtime.Task, client: Client, streams: Streams, exec_id: str = "") -> None:
        self._task = task
        self._client = client
        self.streams = streams
        self.exec_id = exec_id
        self.pid = 0 if exec_id else task.pid
        self._waiter: asyncio.Task[Exit] | None = None
        self._deleted = False

    def __repr__(self) -> str:
        inner = f' process "{self.exec_id}"' if self.exec_id else ""
        return f'container "{self._task.id}"{inner}'

    @property
    def container_id(self) -> str:
        """The container it is in."""
        return self._task.id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._deleted:
            await self.delete(kill=True)

    async def start(self) -> int:
        """Run it, and return its pid on the daemon's host."""
        with self._client.scope():
            # Asked for before, so that whatever happens next the exit is not missed.
            self._waiter = self._waiter or asyncio.create_task(self._task.wait(self.exec_id))
            self.pid = await self._task.start(self.exec_id)
        await self.streams.started(self.close_stdin, self.resize)
        return self.pid

    async def wait(self) -> Exit:
        """Return when it has ended. Output may still be under way until `delete`."""
        if self._waiter is None:
            with self._client.scope():
                self._waiter = asyncio.create_task(self._task.wait(self.exec_id))
        return await asyncio.shield(self._waiter)

    async def kill(self, signal: int = signals.SIGTERM, *, everyone: bool = False) -> None:
        """Send a signal, to all processes of the container if *everyone*. Raises `NotFound` when it has ended."""
        with self._client.scope():
            await self._task.kill(int(signal), exec_id=self.exec_id, everyone=everyone)

    async def delete(self, *, kill: bool = False) -> Exit:
        """Forget the process, once its last output has been passed on. With *kill* it is killed first if it runs.

        Raises `FailedPrecondition` when it runs.
        """
        with self._client.scope():
            if kill:
                await self._make_sure_it_ended()
            try:
                ended = await self._task.delete(self.exec_id)
            except NotFound:
                await self._free(0)
                raise
            except (Unknown, FailedPrecondition) as error:
                # Shims tell in their own words that it still runs, and older daemons pass these on as they are.
                if (await self._task.state(self.exec_id)).status is TaskStatus.STOPPED:
                    raise
                raise FailedPrecondition(f"{self!r}: still runs; kill it first, or delete it with kill=True") from error
        # Only now has the shim closed its ends of the streams, so only now can what is in them be all.
        await self._free(DRAIN)
        return ended

    async def _make_sure_it_ended(self) -> None:
        try:
            status = (await self._task.state(self.exec_id)).status
        except (NotFound, Unavailable):
            return
        if status in {TaskStatus.CREATED, TaskStatus.STOPPED} and (self.exec_id or status is TaskStatus.STOPPED):
            return
        with suppress(NotFound, FailedPrecondition):
            if status in {TaskStatus.PAUSED, TaskStatus.PAUSING}:
                await self._task.resume()
            await self._task.kill(signals.SIGKILL, exec_id=self.exec_id, everyone=not self.exec_id)
        with suppress(NotFound):
            async with asyncio.timeout(_DEATH):
                await self._task.wait(self.exec_id)

    async def _free(self, patience: float) -> None:
        self._deleted = True
        await self.streams.drain(patience)
        await self.streams.close()
        if self._waiter is not None:
            self._waiter.cancel()
            await asyncio.gather(self._waiter, return_exceptions=True)

    async def detach(self) -> None:
        """Let go of its streams and leave it running; `Container.task` attaches to it again."""
        self._deleted = True
        await self.streams.release()
        if self._waiter is not None:
            self._waiter.cancel()
            await asyncio.gather(self._waiter, return_exceptions=True)

    async def state(self) -> ProcessState:
        """How it is."""
        with self._client.scope():
            return await self._task.state(self.exec_id)

    async def resize(self, width: int, height: int) -> None:
        """Size of its terminal, in characters."""
        with self._client.scope():
            await self._task.resize(width, height, exec_id=self.exec_id)

    async def close_stdin(self) -> None:
        """Its input ends."""
        with self._client.scope():
            await self._task.close_stdin(self.exec_id)


class Task(Process):
    """The first process of a container, and what can be done to all of them."""

    async def exec(self, exec_id: str, process: Mapping[str, Any], streams: Streams | None = None) -> Process:
        """Create (not start) another process. *process* is that of a specification, such as `process_of` makes."""
        streams = streams or null()
        stdio = await streams.open(f"{self.container_id}-{exec_id}")
        spec = dict(process) | {"terminal": streams.terminal}
        if any(streams.size):
            # From the first moment on; `Process.resize` is for what comes after.
            spec["consoleSize"] = dict(zip(("width", "height"), streams.size, strict=True))
        try:
            with self._client.scope():
                await self._task.exec(exec_id, oci.encode(spec, oci.PROCESS_URL), stdio)
        except BaseException:
            await streams.close()
            raise
        return Process(self._task, self._client, streams, exec_id)

    async def pause(self) -> None:
        """Freeze all processes."""
        with self._client.scope():
            await self._task.pause()

    async def resume(self) -> None:
        """Thaw them."""
        with self._client.scope():
            await self._task.resume()

    async def pids(self) -> list[ProcessInfo]:
        """All processes inside."""
        with self._client.scope():
            return await self._task.pids()

    async def update(self, resources: Mapping[str, Any], annotations: Labels = EMPTY) -> None:
        """New limits: ``linux.resources`` of a specification."""
        with self._client.scope():
            await self._task.update(oci.encode(resources, oci.RESOURCES_URL), annotations)

    async def metrics(self) -> AnyMessage | None:
        """Resource use, as its runtime encodes it."""
        with self._client.scope():
            return await self._task.stats()

    async def checkpoint(self, path: str, options: AnyMessage | None = None) -> None:
        """Write a checkpoint into a directory of the daemon's host."""
        with self._client.scope():
            await self._task.checkpoint(path, options)


class Container:
    """A container of a daemon. ``async with`` deletes it, its task and its snapshot at the end."""

    def __init__(self, client: Client, record: values.Container) -> None:
        self._client = client
        self.record = record

    @property
    def id(self) -> str:
        """Its id."""
        return self.record.id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(NotFound):
            await (await self.task()).delete(kill=True)
        with suppress(NotFound):
            await self.delete()

    async def refresh(self) -> values.Container:
        """Read its record anew."""
        with self._client.scope():
            self.record = await self._client.containers.get(self.id)
        return self.record

    def spec(self) -> oci.Spec:
        """Its specification."""
        return oci.decode(self.record.spec)

    async def update(self, record: values.Container, fieldpaths: Sequence[str] = ()) -> values.Container:
        """Change its record, as `orlop.interfaces.metadata.ContainerStore.update` does."""
        with self._client.scope():
            self.record = await self._client.containers.update(record, fieldpaths)
        return self.record

    async def set_labels(self, labels: Labels) -> values.Container:
        """Set these labels and leave others; an empty value removes a label."""
        changed = replace(self.record, labels=labels)
        return await self.update(changed, [f"labels.{key}" for key in labels])

    async def create_task(self, streams: Streams | None = None, options: TaskOptions | None = None) -> Task:
        """Create (not start) its first process. On failure nothing is left behind."""
        streams = streams or null()
        options = options or TaskOptions()
        wants_terminal = bool(self.spec().get("process", {}).get("terminal"))
        if wants_terminal != streams.terminal and type(streams) is not Streams:
            raise FailedPrecondition(
                f'container "{self.id}": its specification and its streams must both have a terminal, or both none'
            )
        with self._client.scope():
            rootfs = options.rootfs or await self._rootfs()
            stdio = await streams.open(self.id)
            stdio = replace(stdio, terminal=wants_terminal)
            try:
                task = await self._client.tasks.create(self.id, replace(options, rootfs=rootfs, stdio=stdio))
            except BaseException:
                await streams.close()
                raise
        return Task(task, self._client, streams)

    async def _rootfs(self) -> Sequence[values.Mount]:
        if not self.record.snapshot_key:
            return ()
        return await self._client.snapshots(self.record.snapshotter).mounts(self.record.snapshot_key)

    async def task(self, streams: Streams | None = None) -> Task:
        """Its task, whoever created it. Raises `NotFound`.

        Given *streams*, they are attached to it: its creator, who is gone, reads and writes it no more.
        """
        with self._client.scope():
            found = await self._client.tasks.get(self.id)
            task = Task(found, self._client, streams or null())
            if streams is None:
                return task
            stdio = (await found.state()).stdio
        try:
            await streams.attach(self.id, stdio)
            await streams.started(task.close_stdin, task.resize)
        except BaseException:
            await streams.release()
            raise
        return task

    async def exec(self, exec_id: str, *args: str, streams: Streams | None = None) -> Process:
        """Create (not start) another process that is like its first one but for the command."""
        return await (await self.task()).exec(exec_id, self.process_of(*args), streams)

    def process_of(self, *args: str) -> dict[str, Any]:
        """The first process's description with another command, to change further and hand to `Task.exec`."""
        process: dict[str, Any] = dict(self.spec().get("process", {}))
        process.pop("consoleSize", None)
        return process | {"args": list(args), "terminal": False}

    async def delete(self, *, snapshot: bool = True) -> None:
        """Delete the record, and its snapshot too. Raises `FailedPrecondition` while it has a task."""
        with self._client.scope():
            try:
                state = await (await self._client.tasks.get(self.id)).state()
            except NotFound:
                state = None
            if state is not None:
                raise FailedPrecondition(f'container "{self.id}": has a task ({state.status}); delete it first')
            if snapshot and self.record.snapshot_key:
                with suppress(NotFound):
                    await self._client.snapshots(self.record.snapshotter).remove(self.record.snapshot_key)
            await self._client.containers.delete(self.id)


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a container ended, and what it wrote."""

    status: int
    stdout: bytes = b""
    stderr: bytes = b""

    def check(self) -> Self:
        """Itself, if the status is 0. Raises `RunError` with the last of what it wrote otherwise."""
        if self.status:
            raise RunError(self)
        return self


class RunError(OrlopError):
    """A container that was to succeed ended with another status than 0. ``result`` has its output."""

    def __init__(self, result: RunResult) -> None:
        last = (result.stderr or result.stdout)[-500:].decode(errors="replace").strip()
        super().__init__(f"container: ended with status {result.status}: {last}")
        self.result = result
