# SPDX-License-Identifier: Apache-2.0
"""A daemon's tasks over a channel: the plain calls, without any handling of streams.

`orlop_sdk.client.container` builds on these; use them directly when FIFOs or log URIs are your own affair::

    tasks = RemoteTasks(channel)
    task = await tasks.create("web", TaskOptions(rootfs=mounts))
    await task.start()
    print((await task.wait()).status)
"""

from __future__ import annotations

from collections.abc import Sequence

from orlop import context
from orlop.interfaces.runtime import Task
from orlop.interfaces.task import TaskOptions, Tasks
from orlop.values import EMPTY, AnyMessage, Descriptor, Exit, Labels, Metric, ProcessInfo, ProcessState, Stdio
from orlop_sdk.api.services.tasks.v1 import tasks_pb2
from orlop_sdk.convert.common import (
    any_to_wire,
    descriptor_from_wire,
    descriptor_to_wire,
    mounts_to_wire,
    time_from_wire,
)
from orlop_sdk.convert.tasks import metric_from_wire, process_from_wire, process_info_from_wire
from orlop_sdk.rpc.channel import Channel
from orlop_sdk.rpc.stub import Stub


class RemoteTask:
    """The task of one container of a daemon."""

    def __init__(self, stub: Stub, id: str, namespace: str, pid: int = 0) -> None:
        self._stub = stub
        self._id = id
        self._namespace = namespace
        self._pid = pid

    @property
    def id(self) -> str:
        return self._id

    @property
    def namespace(self) -> str:
        return self._namespace

    @property
    def pid(self) -> int:
        return self._pid

    async def state(self, exec_id: str = "") -> ProcessState:
        answer = await self._stub.Get(tasks_pb2.GetRequest(container_id=self._id, exec_id=exec_id))
        return process_from_wire(answer.process, self._id)

    async def start(self, exec_id: str = "") -> int:
        answer = await self._stub.Start(tasks_pb2.StartRequest(container_id=self._id, exec_id=exec_id))
        return int(answer.pid)

    async def exec(self, exec_id: str, spec: AnyMessage, stdio: Stdio) -> None:
        await self._stub.Exec(
            tasks_pb2.ExecProcessRequest(
                container_id=self._id,
                exec_id=exec_id,
                spec=any_to_wire(spec),
                stdin=stdio.stdin,
                stdout=stdio.stdout,
                stderr=stdio.stderr,
                terminal=stdio.terminal,
            )
        )

    async def kill(self, signal: int, *, exec_id: str = "", everyone: bool = False) -> None:
        await self._stub.Kill(
            tasks_pb2.KillRequest(container_id=self._id, exec_id=exec_id, signal=signal, all=everyone)
        )

    async def wait(self, exec_id: str = "") -> Exit:
        answer = await self._stub.Wait(tasks_pb2.WaitRequest(container_id=self._id, exec_id=exec_id))
        return Exit(answer.exit_status, time_from_wire(answer.exited_at))

    async def delete(self, exec_id: str = "") -> Exit:
        if exec_id:
            request = tasks_pb2.DeleteProcessRequest(container_id=self._id, exec_id=exec_id)
            answer = await self._stub.DeleteProcess(request)
        else:
            answer = await self._stub.Delete(tasks_pb2.DeleteTaskRequest(container_id=self._id))
        return Exit(answer.exit_status, time_from_wire(answer.exited_at), answer.pid)

    async def pause(self) -> None:
        await self._stub.Pause(tasks_pb2.PauseTaskRequest(container_id=self._id))

    async def resume(self) -> None:
        await self._stub.Resume(tasks_pb2.ResumeTaskRequest(container_id=self._id))

    async def resize(self, width: int, height: int, *, exec_id: str = "") -> None:
        await self._stub.ResizePty(
            tasks_pb2.ResizePtyRequest(container_id=self._id, exec_id=exec_id, width=width, height=height)
        )

    async def close_stdin(self, exec_id: str = "") -> None:
        await self._stub.CloseIO(tasks_pb2.CloseIORequest(container_id=self._id, exec_id=exec_id, stdin=True))

    async def pids(self) -> list[ProcessInfo]:
        answer = await self._stub.ListPids(tasks_pb2.ListPidsRequest(container_id=self._id))
        return [process_info_from_wire(each) for each in answer.processes]

    async def update(self, resources: AnyMessage | None, annotations: Labels = EMPTY) -> None:
        request = tasks_pb2.UpdateTaskRequest(
            container_id=self._id, resources=any_to_wire(resources), annotations=dict(annotations)
        )
        await self._stub.Update(request)

    async def checkpoint(self, path: str, options: AnyMessage | None = None) -> None:
        # Over the wire the path travels in the runtime's own options.
        from orlop_sdk.api.types.runc.options import oci_pb2

        if options is None:
            message = oci_pb2.CheckpointOptions(image_path=path)
            options = AnyMessage("containerd.runc.v1.CheckpointOptions", message.SerializeToString())
        request = tasks_pb2.CheckpointTaskRequest(container_id=self._id, options=any_to_wire(options))
        await self._stub.Checkpoint(request)

    async def stats(self) -> AnyMessage | None:
        answer = await self._stub.Metrics(tasks_pb2.MetricsRequest(filters=[f"id=={self._id}"]))
        return next((metric_from_wire(each).data for each in answer.metrics if each.id == self._id), None)


class RemoteTasks:
    """The tasks of a daemon, in the namespace of the call."""

    def __init__(self, channel: Channel, namespace: str = "") -> None:
        self._stub = Stub(channel, "containerd.services.tasks.v1.Tasks")
        self._namespace = namespace

    async def create(self, container: str, options: TaskOptions) -> RemoteTask:
        request = tasks_pb2.CreateTaskRequest(
            container_id=container,
            rootfs=mounts_to_wire(options.rootfs),
            stdin=options.stdio.stdin,
            stdout=options.stdio.stdout,
            stderr=options.stdio.stderr,
            terminal=options.stdio.terminal,
            checkpoint=descriptor_to_wire(options.checkpoint) if options.checkpoint else None,
            options=any_to_wire(options.options),
            runtime_path=options.runtime_path,
            task_api_address=options.address,
            task_api_version=options.version,
        )
        answer = await self._stub.Create(request)
        return self._task(container, answer.pid)

    async def get(self, container: str) -> RemoteTask:
        answer = await self._stub.Get(tasks_pb2.GetRequest(container_id=container))
        return self._task(container, answer.process.pid)

    async def states(self, filters: Sequence[str] = ()) -> list[ProcessState]:
        # The wire has room for one filter, and daemons ignore even that.
        answer = await self._stub.List(tasks_pb2.ListTasksRequest(filter=filters[0] if filters else ""))
        return [process_from_wire(each) for each in answer.tasks]

    async def metrics(self, filters: Sequence[str] = ()) -> list[Metric]:
        answer = await self._stub.Metrics(tasks_pb2.MetricsRequest(filters=filters))
        return [metric_from_wire(each) for each in answer.metrics]

    async def exec(self, container: str, exec_id: str, spec: AnyMessage, stdio: Stdio) -> None:
        await self._task(container).exec(exec_id, spec, stdio)

    async def checkpoint(self, container: str, options: AnyMessage | None = None) -> list[Descriptor]:
        request = tasks_pb2.CheckpointTaskRequest(container_id=container, options=any_to_wire(options))
        answer = await self._stub.Checkpoint(request)
        return [descriptor_from_wire(each) for each in answer.descriptors]

    def _task(self, container: str, pid: int = 0) -> RemoteTask:
        return RemoteTask(self._stub, container, self._namespace or context.namespace_or_none() or "", pid)


_task: type[Task] = RemoteTask
_tasks: type[Tasks] = RemoteTasks
