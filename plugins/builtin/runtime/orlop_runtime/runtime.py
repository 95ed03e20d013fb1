# SPDX-License-Identifier: Apache-2.0
"""The task runtime: bundles, shims, and the tasks in them.

**When to choose it**: always; it drives every shim that a launcher can start. **Host needs**: at least one shim.
**On disk**: see `orlop_runtime.bundle`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError

from orlop import context
from orlop.blocking import Pool
from orlop.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    OrlopError,
    Unavailable,
    Unimplemented,
)
from orlop.interfaces.event import EventExchange
from orlop.interfaces.introspection import PluginInformer
from orlop.interfaces.runtime import (
    Runtime,
    RuntimeInformer,
    ShimAddress,
    ShimKeeper,
    ShimLauncher,
    ShimRequest,
    Task,
    TaskRequest,
)
from orlop.values import AnyMessage, Exit, now
from orlop_runtime.bundle import FULL, Bundle
from orlop_runtime.mounts import RootMounts
from orlop_runtime.moves import Moves
from orlop_runtime.shim import Announce, Key, Shim, ShimClosed, Shims, remove_dead_socket, unannounced
from orlop_runtime.task import Keep, ShimTask
from orlop_sdk.api.events.task_pb2 import TaskDelete, TaskExit
from orlop_sdk.api.runtime.task.v2 import shim_pb2 as pb
from orlop_sdk.api.types.introspection_pb2 import RuntimeInfo, RuntimeRequest
from orlop_sdk.convert.common import any_from_wire, any_to_wire, mounts_to_wire, time_to_wire

log = logging.getLogger("orlop.runtime")

#: Id of the launcher that takes every runtime, and is asked last.
GENERAL: Final = "manager"
_THREADS: Final = 16
# What a container that nobody can ask about any more counts as having ended with.
_UNKNOWN_EXIT: Final = 255
# How often to launch when the shim that was found went away before we could use it.
_LAUNCHES: Final = 3
# Seconds between the deletion of a task and the end of its shim, unless somebody waits for that.
_REMOVE_AFTER: Final = 0.02
# Seconds for a task to be taken away again after its creator left.
_ABANDON_TIMEOUT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for shims, in seconds; 0 means for ever."""

    load: float = 5.0
    """For a shim from before a restart to answer."""
    cleanup: float = 5.0
    """For the clean-up after a dead shim."""
    shutdown: float = 3.0
    """For a shim to go when its last container is deleted."""


@dataclass(frozen=True, slots=True)
class _Removal:
    """What is left to do for a task that was deleted: *wanted* says that somebody waits for it."""

    work: asyncio.Task[None]
    wanted: asyncio.Event


class TaskRuntime:
    """All tasks, by namespace and id. See `orlop.interfaces.runtime.Runtime`.

    *state* and *root* hold the bundles and their work directories; *launchers* is a live view; *announce* is
    told of calls to shims.
    """

    def __init__(
        self,
        state: Path,
        root: Path,
        launchers: Mapping[str, ShimLauncher],
        events: EventExchange,
        timeouts: Timeouts | None = None,
        mounts: RootMounts | None = None,
        announce: Announce = unannounced,
    ) -> None:
        self.state: Final = state
        self.root: Final = root
        self.timeouts: Final = timeouts or Timeouts()
        self.pool: Final = Pool("orlop-runtime", _THREADS)
        self.moves: Final = Moves(self.pool, events)
        self.shims: Final = Shims(self._shim_lost, self.timeouts.shutdown, announce)
        self._launchers = launchers
        self._mounts = mounts or RootMounts({})
        self._events = events
        self._tasks: dict[Key, ShimTask] = {}
        self._creating: set[Key] = set()
        self._removing: dict[Key, _Removal] = {}
        self._work: set[asyncio.Task[Any]] = set()

    async def create(self, id: str, request: TaskRequest) -> Task:
        key = (context.namespace(), id)
        context.check_identifier(id, "container")
        if key in self._tasks or key in self._creating:
            raise AlreadyExists(f'task "{id}": already exists')
        launcher = self.launcher(request.runtime)
        self._creating.add(key)
        making = self._spawn(self._create(key, request, launcher))
        making.add_done_callback(lambda _: self._creating.discard(key))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            # Nobody waits for it any more, and half of it cannot be left: let it come, then take it away.
            _ = self._spawn(self._abandon(making))
            raise

    async def get(self, id: str) -> Task:
        task = self._tasks.get((context.namespace(), id))
        if task is None:
            raise NotFound(f'task "{id}": not found')
        return task

    async def list(self) -> list[Task]:
        namespace = context.namespace()
        return [task for key, task in sorted(self._tasks.items()) if key[0] == namespace]

    def tasks(self) -> tuple[ShimTask, ...]:
        """Those of all namespaces whose container is there."""
        return tuple(task for task in self._tasks.values() if not task.ended.done())

    async def info(self, runtime: str, options: AnyMessage | None = None) -> bytes:
        """What a runtime says about itself. See `orlop.interfaces.runtime.RuntimeInformer`."""
        launcher = self.launcher(runtime)
        if not isinstance(launcher, RuntimeInformer):
            raise Unimplemented(f'runtime "{runtime}": its launcher cannot be asked about it')
        return await launcher.info(runtime, options)

    async def plugin_info(self, options: AnyMessage | None) -> AnyMessage | None:
        """Answer ``containerd.types.RuntimeRequest`` with ``RuntimeInfo``. See `PluginInformer`."""
        kind = "" if options is None else options.type_url.rpartition("/")[2]
        if options is None or kind != RuntimeRequest.DESCRIPTOR.full_name:
            raise InvalidArgument(f'runtime info: asked with "{kind}"; send a {RuntimeRequest.DESCRIPTOR.full_name}')
        try:
            request = RuntimeRequest.FromString(options.value)
        except DecodeError as error:
            raise InvalidArgument(f"runtime info: not a {kind}") from error
        info = await self.info(request.runtime_path, any_from_wire(request.options))
        return AnyMessage(RuntimeInfo.DESCRIPTOR.full_name, info)

    async def close(self) -> None:
        """Finish what is in progress and let go of the shims, which live on. May be called twice."""
        await self.moves.close()
        for removal in self._removing.values():
            removal.wanted.set()
        while self._work:
            await asyncio.gather(*self._work, return_exceptions=True)
        await self.shims.close()
        for task in self._tasks.values():
            if not task.ended.done():
                task.ended.set_exception(Unavailable(f'task "{task.id}": the daemon is stopping; ask again later'))
                task.ended.exception()
        self._tasks.clear()
        self.pool.close()

    def launcher(self, runtime: str) -> ShimLauncher:
        """Who starts the shims of a runtime. Raises `InvalidArgument` when nobody does."""
        return find_launcher(self._launchers, runtime)

    # How tasks come.

    async def _create(self, key: Key, request: TaskRequest, launcher: ShimLauncher) -> ShimTask:
        while (removal := self._removing.get(key)) is not None:
            removal.wanted.set()
            await asyncio.shield(removal.work)
        self.moves.expect()
        bundle = Bundle.at(self.state, self.root, *key)
        await self.pool.run(bundle.create, request.spec.value)
        keep = Keep(
            bundle,
            launcher,
            ShimRequest(key[1], key[0], request.runtime, bundle.path, request.options),
        )
        shim: Shim | None = None
        try:
            request = replace(request, rootfs=await self._mounts.prepare(keep, request.rootfs))
            shim, address = await self._find_shim(keep, key, request)
            whose = request.sandbox or ("-" if request.shim is not None else "")
            saving = self._spawn(self.pool.run(bundle.save, address, request.runtime, whose))
            try:
                answer = await shim.call("Create", _create_request(bundle, request), pb.CreateTaskResponse)
            finally:
                await saving
            if not shim.is_open:
                raise ShimClosed(f'task "{key[1]}": its shim ended right after it was created')
        except BaseException as error:
            await self._undo(keep, key, shim)
            if isinstance(error, OSError) and error.errno in FULL:
                raise bundle.full(error) from error
            raise
        return self.add(keep, shim, answer.pid)

    async def _find_shim(self, keep: Keep, key: Key, request: TaskRequest) -> tuple[Shim, ShimAddress]:
        if request.shim is None:
            return await self._start_shim(keep, key)
        try:
            return await self.shims.acquire(request.shim, key, kept=True), request.shim
        except Unavailable as error:
            whose = (
                f'the shim of its sandbox "{request.sandbox}"' if request.sandbox else "the shim it was to be put in"
            )
            raise Unavailable(f'task "{key[1]}": {whose} is not there: {error}') from error

    async def _start_shim(self, keep: Keep, key: Key) -> tuple[Shim, ShimAddress]:
        for _ in range(_LAUNCHES - 1):
            address = await keep.launcher.launch(keep.request)
            leaving = self.shims.closing(address)
            if leaving is None:
                with suppress(Unavailable):
                    return await self.shims.acquire(address, key), address
            else:
                await leaving.gone.wait()
            # The last other container of its group was deleted meanwhile, and took the shim along. Start another.
        address = await keep.launcher.launch(keep.request)
        return await self.shims.acquire(address, key), address

    def add(self, keep: Keep, shim: Shim, pid: int) -> ShimTask:
        """Take a task in."""
        task = ShimTask(keep, shim, pid, self._deleted, self.moves.expect)
        self._tasks[keep.bundle.namespace, keep.bundle.id] = task
        return task

    async def _undo(self, keep: Keep, key: Key, shim: Shim | None) -> None:
        """Leave no trace of a task that could not be created."""
        if shim is not None:
            with suppress(OrlopError):
                await shim.call(
                    "Delete", pb.DeleteRequest(id=key[1]), pb.DeleteResponse, timeout=self.timeouts.cleanup or None
                )
            await self.shims.release(shim, key)
        # Shims complain when there is nothing to clean up, and often there is not.
        await self.clean(keep, level=logging.DEBUG)
        if shim is not None:
            await self.pool.run(remove_dead_socket, shim.address)
        await self.discard(keep)

    async def _abandon(self, making: asyncio.Task[ShimTask]) -> None:
        with suppress(OrlopError, OSError, TimeoutError):
            task = await making
            async with asyncio.timeout(_ABANDON_TIMEOUT):
                with suppress(OrlopError):
                    await task.kill(signal.SIGKILL, everyone=True)
                    await task.wait()
                await task.delete()

    # How they go.

    async def _deleted(self, task: ShimTask) -> None:
        key = (task.namespace, task.id)
        if self._tasks.pop(key, None) is None:
            return
        # The id is free when the caller hears of it. The shim may take its time to go: only who creates a task of the
        # same id has to wait, since its shim would have the same socket.
        wanted = asyncio.Event()
        await self.pool.run(task.keep.bundle.set_aside)
        work = self._spawn(self._remove(task, key, wanted))
        self._removing[key] = _Removal(work, wanted)
        work.add_done_callback(lambda _: self._removing.pop(key, None))

    async def _remove(self, task: ShimTask, key: Key, wanted: asyncio.Event) -> None:
        # Whoever deletes a task usually goes on to remove its container, and is served first.
        with suppress(TimeoutError):
            async with asyncio.timeout(_REMOVE_AFTER):
                await wanted.wait()
        # The shim first: it removes its socket by a file in the bundle.
        await self.shims.release(task.shim, key)
        await self.discard(task.keep)

    def _shim_lost(self, shim: Shim) -> None:
        for key in shim.users:
            task = self._tasks.get(key)
            if task is not None and task.shim is shim:
                log.warning('task "%s" in namespace "%s": its shim is gone', task.id, task.namespace)
                _ = self._spawn(self._bury(task))

    async def _bury(self, task: ShimTask) -> None:
        task.finish(await self.bury(task.keep, task.shim.address, task.pid))

    async def bury(self, keep: Keep, address: ShimAddress, pid: int = 0) -> Exit:
        """Clean up after a dead shim, and publish the events that it cannot publish any more."""
        bundle = keep.bundle
        ended = await self.clean(keep) or Exit(_UNKNOWN_EXIT, now(), pid)
        await self.pool.run(remove_dead_socket, address)
        with context.scope(namespace=bundle.namespace):
            exited_at = time_to_wire(ended.exited_at)
            await self._publish(
                "/tasks/exit",
                TaskExit(
                    container_id=bundle.id,
                    id=bundle.id,
                    pid=ended.pid or pid,
                    exit_status=ended.status,
                    exited_at=exited_at,
                ),
            )
            await self.discard(keep)
            self._tasks.pop((bundle.namespace, bundle.id), None)
            await self._publish(
                "/tasks/delete",
                TaskDelete(container_id=bundle.id, pid=ended.pid or pid, exit_status=ended.status, exited_at=exited_at),
            )
        return ended

    async def clean(self, keep: Keep, *, level: int = logging.WARNING) -> Exit | None:
        """Have the launcher clean up; None, and a log line of this level, when it could not."""
        try:
            async with asyncio.timeout(self.timeouts.cleanup or None):
                return await keep.launcher.clean(keep.request)
        except (OrlopError, TimeoutError) as error:
            log.log(level, 'task "%s": clean-up after its shim failed: %s', keep.bundle.id, error or "took too long")
            return None

    async def discard(self, keep: Keep) -> None:
        """Remove a bundle, what its launcher keeps for it, and what was mounted for its root file system."""
        if isinstance(keep.launcher, ShimKeeper):
            await keep.launcher.release(keep.request)
        try:
            await self.pool.run(keep.bundle.remove)
        except (OrlopError, OSError) as error:
            # The id is usable again all the same; the next start of the daemon tries once more.
            log.error('task "%s": its bundle cannot be removed: %s', keep.bundle.id, error)
        await self._mounts.release(keep)

    async def _publish(self, topic: str, event: TaskExit | TaskDelete) -> None:
        await self._events.publish(topic, AnyMessage(event.DESCRIPTOR.full_name, event.SerializeToString()))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            # Whoever waits for it gets the error; where nobody does, it was logged.
            task.exception()


def find_launcher(launchers: Mapping[str, ShimLauncher], runtime: str, general: str = GENERAL) -> ShimLauncher:
    """Who starts the shims of a runtime; *general* is asked last. Raises `InvalidArgument` when nobody does."""
    for id in sorted(launchers, key=lambda id: (id == general, id)):
        launcher = launchers[id]
        if launcher.claims(runtime):
            return launcher
    raise InvalidArgument(
        f'runtime "{runtime}": no launcher takes it (there are: {", ".join(sorted(launchers)) or "none"}); '
        "install the distribution of its shim"
    )


def _create_request(bundle: Bundle, request: TaskRequest) -> pb.CreateTaskRequest:
    return pb.CreateTaskRequest(
        id=bundle.id,
        bundle=str(bundle.path),
        rootfs=mounts_to_wire(request.rootfs),
        terminal=request.stdio.terminal,
        stdin=request.stdio.stdin,
        stdout=request.stdio.stdout,
        stderr=request.stdio.stderr,
        checkpoint=request.checkpoint,
        options=any_to_wire(request.options),
    )


_: type[Runtime] = TaskRuntime
_informer: type[RuntimeInformer] = TaskRuntime
_plugin_informer: type[PluginInformer] = TaskRuntime
