# SPDX-License-Identifier: Apache-2.0
"""One container's task: calls to its shim, and what becomes of them when the shim dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.empty_pb2 import Empty

from orlop.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError, Unknown
from orlop.interfaces.runtime import ShimLauncher, ShimRequest, Task
from orlop.values import EMPTY, AnyMessage, Exit, Labels, ProcessInfo, ProcessState, Stdio, TaskStatus, now
from orlop_runtime.bundle import Bundle
from orlop_runtime.shim import Message, Shim, ShimClosed
from orlop_sdk.api.runtime.task.v2 import shim_pb2 as pb
from orlop_sdk.convert.common import any_from_wire, any_to_wire, time_from_wire
from orlop_sdk.convert.tasks import process_info_from_wire, status_from_wire

R = TypeVar("R")
# What a container that its shim does not know counts as having ended with.
_UNKNOWN_EXIT: Final = 255


@dataclass(frozen=True, slots=True)
class Keep:
    """What a task consists of on this side: its bundle, who launched its shim, and how."""

    bundle: Bundle
    launcher: ShimLauncher
    request: ShimRequest


class ShimTask:
    """A task in a shim. See `orlop.interfaces.runtime.Task`.

    *removed* is awaited when the container was deleted in the shim: it removes what is left on this side. *moves* is
    called when another process is about to be moved into the container's control group.
    """

    def __init__(
        self,
        keep: Keep,
        shim: Shim,
        pid: int,
        removed: Callable[[ShimTask], Awaitable[None]],
        moves: Callable[[], None],
    ) -> None:
        self.keep: Final = keep
        self.shim: Final = shim
        #: How the container ended; known once the task is deleted, or its shim died and was cleaned up after.
        self.ended: Final[asyncio.Future[Exit]] = asyncio.get_running_loop().create_future()
        self._pid = pid
        self._removed = removed
        self._moves = moves
        self._waits: dict[str, asyncio.Task[Exit]] = {}

    @property
    def id(self) -> str:
        return self.keep.bundle.id

    @property
    def namespace(self) -> str:
        return self.keep.bundle.namespace

    @property
    def pid(self) -> int:
        return self._pid

    async def state(self, exec_id: str = "") -> ProcessState:
        answer = await self._call("State", pb.StateRequest(id=self.id, exec_id=exec_id), pb.StateResponse)
        return ProcessState(
            id=self.id,
            exec_id=exec_id,
            pid=answer.pid,
            status=status_from_wire(answer.status),
            stdio=Stdio(answer.stdin, answer.stdout, answer.stderr, answer.terminal),
            bundle=answer.bundle,
            exit_status=answer.exit_status,
            exited_at=time_from_wire(answer.exited_at),
        )

    async def start(self, exec_id: str = "") -> int:
        answer = await self._call("Start", pb.StartRequest(id=self.id, exec_id=exec_id), pb.StartResponse)
        if not exec_id:
            # A restored container has its pid only now.
            self._pid = answer.pid
        return answer.pid

    async def exec(self, exec_id: str, spec: AnyMessage, stdio: Stdio) -> None:
        if not exec_id:
            raise InvalidArgument(f'task "{self.id}": the exec id must not be empty')
        # It is usually started right after.
        self._moves()
        request = pb.ExecProcessRequest(
            id=self.id,
            exec_id=exec_id,
            terminal=stdio.terminal,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            spec=any_to_wire(spec),
        )
        await self._call("Exec", request, Empty)

    async def kill(self, signal: int, *, exec_id: str = "", everyone: bool = False) -> None:
        await self._call("Kill", pb.KillRequest(id=self.id, exec_id=exec_id, signal=signal, all=everyone), Empty)

    async def wait(self, exec_id: str = "") -> Exit:
        # One call for all who wait; a waiter that goes away leaves it to the others.
        waiting = self._waits.get(exec_id)
        if waiting is None:
            waiting = self._waits[exec_id] = asyncio.create_task(self._wait(exec_id))
            waiting.add_done_callback(lambda done: self._waited(exec_id, done))
        return await asyncio.shield(waiting)

    async def delete(self, exec_id: str = "") -> Exit:
        request = pb.DeleteRequest(id=self.id, exec_id=exec_id)
        try:
            answer = await self._call("Delete", request, pb.DeleteResponse)
        except ShimClosed:
            return await self._end()
        except NotFound:
            if not exec_id:
                self.finish(Exit(_UNKNOWN_EXIT, now()))
                await self._removed(self)
            raise
        except Unknown as error:
            # What shims say when the process still runs has no class of its own.
            if await self._runs(exec_id):
                what = f'process "{exec_id}" of task' if exec_id else "task"
                raise FailedPrecondition(f'{what} "{self.id}": still running; kill it first: {error}') from error
            raise
        ended = Exit(answer.exit_status, time_from_wire(answer.exited_at), answer.pid)
        if not exec_id:
            self.finish(ended)
            await self._removed(self)
        return ended

    async def pause(self) -> None:
        await self._call("Pause", pb.PauseRequest(id=self.id), Empty)

    async def resume(self) -> None:
        await self._call("Resume", pb.ResumeRequest(id=self.id), Empty)

    async def resize(self, width: int, height: int, *, exec_id: str = "") -> None:
        request = pb.ResizePtyRequest(id=self.id, exec_id=exec_id, width=width, height=height)
        await self._call("ResizePty", request, Empty)

    async def close_stdin(self, exec_id: str = "") -> None:
        if exec_id:
            await self.state(exec_id)  # some shims have no code for a process that is not there
        await self._call("CloseIO", pb.CloseIORequest(id=self.id, exec_id=exec_id, stdin=True), Empty)

    async def pids(self) -> list[ProcessInfo]:
        answer = await self._call("Pids", pb.PidsRequest(id=self.id), pb.PidsResponse)
        return [process_info_from_wire(process) for process in answer.processes]

    async def update(self, resources: AnyMessage | None, annotations: Labels = EMPTY) -> None:
        request = pb.UpdateTaskRequest(id=self.id, resources=any_to_wire(resources), annotations=dict(annotations))
        await self._call("Update", request, Empty)

    async def checkpoint(self, path: str, options: AnyMessage | None = None) -> None:
        request = pb.CheckpointTaskRequest(id=self.id, path=path, options=any_to_wire(options))
        await self._call("Checkpoint", request, Empty)

    async def stats(self) -> AnyMessage | None:
        answer = await self._call("Stats", pb.StatsRequest(id=self.id), pb.StatsResponse)
        return any_from_wire(answer.stats)

    def finish(self, ended: Exit) -> None:
        """Tell everybody who waits how the container ended. Later calls count for nothing."""
        if not self.ended.done():
            self.ended.set_result(ended)

    async def _call(self, method: str, request: Message, response: type[R]) -> R:
        return await self.shim.call(method, request, response)

    async def _wait(self, exec_id: str) -> Exit:
        try:
            answer = await self._call("Wait", pb.WaitRequest(id=self.id, exec_id=exec_id), pb.WaitResponse)
        except ShimClosed:
            return await self._end()
        return Exit(answer.exit_status, time_from_wire(answer.exited_at), 0 if exec_id else self._pid)

    def _waited(self, exec_id: str, done: asyncio.Task[Exit]) -> None:
        self._waits.pop(exec_id, None)
        # All who waited may be gone; then nobody else asks for the error.
        if not done.cancelled():
            done.exception()

    async def _end(self) -> Exit:
        """How the container ended when its shim took the answer along."""
        return await asyncio.shield(self.ended)

    async def _runs(self, exec_id: str) -> bool:
        try:
            return (await self.state(exec_id)).status in (TaskStatus.RUNNING, TaskStatus.PAUSED, TaskStatus.PAUSING)
        except OrlopError:
            return False


_: type[Task] = ShimTask
