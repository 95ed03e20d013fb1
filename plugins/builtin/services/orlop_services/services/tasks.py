# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.tasks.v1.Tasks`` over the task service of this process."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty

from orlop.interfaces.runtime import Task
from orlop.interfaces.task import TaskOptions, Tasks
from orlop.values import Exit, Stdio
from orlop_sdk.api.services.tasks.v1 import tasks_pb2 as pb
from orlop_sdk.convert.common import (
    any_from_wire,
    descriptor_from_wire,
    descriptor_to_wire,
    mounts_from_wire,
    payload_from_wire,
    time_to_wire,
)
from orlop_sdk.convert.tasks import metric_to_wire, process_info_to_wire, process_to_wire
from orlop_sdk.rpc.service import Service


class TasksService(Service):
    """Tasks and their processes."""

    service = "containerd.services.tasks.v1.Tasks"

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def Create(self, request: pb.CreateTaskRequest) -> pb.CreateTaskResponse:
        options = TaskOptions(
            rootfs=mounts_from_wire(request.rootfs),
            stdio=_stdio(request),
            options=any_from_wire(request.options),
            runtime_path=request.runtime_path,
            checkpoint=descriptor_from_wire(request.checkpoint) if request.HasField("checkpoint") else None,
            address=request.task_api_address,
            version=request.task_api_version,
        )
        task = await self._tasks.create(request.container_id, options)
        return pb.CreateTaskResponse(container_id=request.container_id, pid=task.pid)

    async def Start(self, request: pb.StartRequest) -> pb.StartResponse:
        return pb.StartResponse(pid=await (await self._get(request.container_id)).start(request.exec_id))

    async def Delete(self, request: pb.DeleteTaskRequest) -> pb.DeleteResponse:
        return _deleted("", await (await self._get(request.container_id)).delete())

    async def DeleteProcess(self, request: pb.DeleteProcessRequest) -> pb.DeleteResponse:
        return _deleted(request.exec_id, await (await self._get(request.container_id)).delete(request.exec_id))

    async def Get(self, request: pb.GetRequest) -> pb.GetResponse:
        state = await (await self._get(request.container_id)).state(request.exec_id)
        return pb.GetResponse(process=process_to_wire(state))

    async def List(self, request: pb.ListTasksRequest) -> pb.ListTasksResponse:
        states = await self._tasks.states([request.filter] if request.filter else [])
        return pb.ListTasksResponse(tasks=[process_to_wire(state) for state in states])

    async def Kill(self, request: pb.KillRequest) -> Empty:
        task = await self._get(request.container_id)
        await task.kill(request.signal, exec_id=request.exec_id, everyone=request.all)
        return Empty()

    async def Exec(self, request: pb.ExecProcessRequest) -> Empty:
        spec = payload_from_wire(request.spec)
        await self._tasks.exec(request.container_id, request.exec_id, spec, _stdio(request))
        return Empty()

    async def ResizePty(self, request: pb.ResizePtyRequest) -> Empty:
        task = await self._get(request.container_id)
        await task.resize(request.width, request.height, exec_id=request.exec_id)
        return Empty()

    async def CloseIO(self, request: pb.CloseIORequest) -> Empty:
        task = await self._get(request.container_id)
        if request.stdin:
            await task.close_stdin(request.exec_id)
        return Empty()

    async def Pause(self, request: pb.PauseTaskRequest) -> Empty:
        await (await self._get(request.container_id)).pause()
        return Empty()

    async def Resume(self, request: pb.ResumeTaskRequest) -> Empty:
        await (await self._get(request.container_id)).resume()
        return Empty()

    async def ListPids(self, request: pb.ListPidsRequest) -> pb.ListPidsResponse:
        found = await (await self._get(request.container_id)).pids()
        return pb.ListPidsResponse(processes=[process_info_to_wire(info) for info in found])

    async def Checkpoint(self, request: pb.CheckpointTaskRequest) -> pb.CheckpointTaskResponse:
        stored = await self._tasks.checkpoint(request.container_id, any_from_wire(request.options))
        return pb.CheckpointTaskResponse(descriptors=[descriptor_to_wire(descriptor) for descriptor in stored])

    async def Update(self, request: pb.UpdateTaskRequest) -> Empty:
        task = await self._get(request.container_id)
        await task.update(any_from_wire(request.resources), dict(request.annotations))
        return Empty()

    async def Metrics(self, request: pb.MetricsRequest) -> pb.MetricsResponse:
        found = await self._tasks.metrics(list(request.filters))
        return pb.MetricsResponse(metrics=[metric_to_wire(metric) for metric in found])

    async def Wait(self, request: pb.WaitRequest) -> pb.WaitResponse:
        ended = await (await self._get(request.container_id)).wait(request.exec_id)
        return pb.WaitResponse(exit_status=ended.status, exited_at=time_to_wire(ended.exited_at))

    async def _get(self, container: str) -> Task:
        return await self._tasks.get(container)


def _stdio(request: pb.CreateTaskRequest | pb.ExecProcessRequest) -> Stdio:
    return Stdio(request.stdin, request.stdout, request.stderr, request.terminal)


def _deleted(id: str, ended: Exit) -> pb.DeleteResponse:
    return pb.DeleteResponse(id=id, pid=ended.pid, exit_status=ended.status, exited_at=time_to_wire(ended.exited_at))
