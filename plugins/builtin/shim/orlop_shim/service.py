# SPDX-License-Identifier: Apache-2.0
"""The task API, versions 2 and 3: what a daemon asks of a shim."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from signal import SIGKILL

from orlop.errors import AlreadyExists, FailedPrecondition, NotFound, OrlopError
from orlop_sdk.hints import Final
from orlop_shim import messages as pb
from orlop_shim.bag import Bag
from orlop_shim.container import Container, Surroundings
from orlop_shim.process import Process
from orlop_shim.rpc import Handler, Method
from orlop_shim.wire import Schema, Values

_SERVICES: Final = ("containerd.task.v2.Task", "containerd.task.v3.Task")


class TaskService:
    """The containers of one shim. *leave* is called when it is told to go and holds none any more."""

    def __init__(self, around: Surroundings, leave: Callable[[], None]) -> None:
        self._around = around
        self._leave = leave
        self._containers: dict[str, Container | None] = {}
        #: Whether a sandbox is here, which keeps the shim without containers too.
        self.kept = False
        #: Whether no more containers are taken: the sandbox was stopped.
        self.closed = False
        self._leaves = False

    @property
    def idle(self) -> bool:
        """Whether it holds neither containers nor a sandbox."""
        return not self._containers and not self.kept

    @property
    def ids(self) -> list[str]:
        """The ids of its containers."""
        return list(self._containers)

    def living(self) -> set[str]:
        """The containers that have not ended, those being created included."""
        return {id for id, container in self._containers.items() if container is None or container.init.lives}

    async def signal(self, id: str, number: int) -> bool:
        """Send a signal to a container, to all of its processes if it kills. False for one that is being created."""
        container = self._containers.get(id)
        if container is None:
            return False
        # It may have ended.
        with suppress(OrlopError, ProcessLookupError):
            await container.kill(container.init, number, number == SIGKILL)
        return True

    @property
    def rests(self) -> bool:
        """Whether all that its containers have to do is wait."""
        return all(container is not None and container.rests for container in self._containers.values())

    def save(self, bag: Bag) -> Values:
        """What `restore` takes."""
        return {
            "containers": [container.save(bag) for container in self._containers.values() if container is not None],
            "kept": self.kept,
            "closed": self.closed,
            "leaves": self._leaves,
        }

    def restore(self, saved: Values, bag: Bag) -> None:
        """Go on where another worker left."""
        self.kept, self.closed, self._leaves = saved["kept"], saved["closed"], saved["leaves"]
        for item in saved["containers"]:
            container = Container(self._around, item["request"])
            self._containers[container.id] = container
            container.restore(item, bag)

    def leave_when_idle(self) -> None:
        """Go now, or as soon as the last container is deleted."""
        self._leaves = True
        if self.idle:
            self._leave()

    def methods(self) -> dict[str, Method]:
        """The methods, for `orlop_shim.rpc.Server`."""
        table: dict[str, tuple[Schema, Schema, Handler]] = {
            "Create": (pb.CREATE, pb.PID, self.create),
            "Start": (pb.PROCESS, pb.PID, self.start),
            "Delete": (pb.PROCESS, pb.DELETED, self.delete),
            "Exec": (pb.EXEC, pb.EMPTY, self.exec),
            "State": (pb.PROCESS, pb.STATE, self.state),
            "Wait": (pb.PROCESS, pb.WAITED, self.wait),
            "Kill": (pb.KILL, pb.EMPTY, self.kill),
            "Pids": (pb.PROCESS, pb.PIDS, self.pids),
            "Pause": (pb.PROCESS, pb.EMPTY, self.pause),
            "Resume": (pb.PROCESS, pb.EMPTY, self.resume),
            "Checkpoint": (pb.CHECKPOINT, pb.EMPTY, self.checkpoint),
            "ResizePty": (pb.RESIZE, pb.EMPTY, self.resize),
            "CloseIO": (pb.CLOSE_IO, pb.EMPTY, self.close_io),
            "Update": (pb.UPDATE, pb.EMPTY, self.update),
            "Stats": (pb.PROCESS, pb.STATS, self.stats),
            "Connect": (pb.PROCESS, pb.CONNECTED, self.connect),
            "Shutdown": (pb.SHUTDOWN, pb.EMPTY, self.shutdown),
        }
        return {f"{service}/{name}": Method(*parts) for service in _SERVICES for name, parts in table.items()}

    async def create(self, request: Values) -> Values:
        id = request["id"]
        if id in self._containers:
            raise AlreadyExists(f'container "{id}": already exists')
        if self.closed:
            raise FailedPrecondition(f'container "{id}": its sandbox has been stopped')
        self._containers[id] = None
        try:
            container = Container(self._around, request)
            await container.create()
        except BaseException:
            del self._containers[id]
            raise
        self._containers[id] = container
        return {"pid": container.init.pid}

    async def start(self, request: Values) -> Values:
        container, process = self._process(request)
        if process is container.init:
            await container.start()
        else:
            await container.start_exec(process)
        return {"pid": process.pid}

    async def delete(self, request: Values) -> Values:
        container, process = self._process(request)
        if process is container.init:
            await container.delete()
            self._containers.pop(container.id, None)
            self._around.publisher.publish(
                "/tasks/delete", container_id=container.id, pid=process.pid, **process.outcome()
            )
            if self._leaves and self.idle:
                self._leave()
        else:
            await container.delete_exec(process)
        return {"pid": process.pid, **process.outcome()}

    async def exec(self, request: Values) -> Values:
        container = self._container(request)
        container.add(request)
        self._around.publisher.publish("/tasks/exec-added", container_id=container.id, exec_id=request["exec_id"])
        return {}

    async def state(self, request: Values) -> Values:
        container, process = self._process(request)
        wanted = process.request
        return {
            "id": process.id,
            "bundle": container.bundle,
            "pid": process.pid,
            "status": process.status,
            "stdin": wanted.stdin,
            "stdout": wanted.stdout,
            "stderr": wanted.stderr,
            "terminal": wanted.terminal,
            "exec_id": process.exec_id,
            **process.outcome(),
        }

    async def wait(self, request: Values) -> Values:
        _, process = self._process(request)
        await self._around.loop.rest(process.exited)
        return process.outcome()

    async def kill(self, request: Values) -> Values:
        container, process = self._process(request)
        await container.kill(process, request["signal"], request["all"])
        return {}

    async def pids(self, request: Values) -> Values:
        container = self._container(request)
        execs = {process.pid: process.exec_id for process in container.execs.values() if process.lives}
        found = []
        for pid in await container.pids():
            info = None
            if pid in execs:
                info = pb.any_of("containerd.runc.v1.ProcessDetails", pb.PROCESS_DETAILS.encode(exec_id=execs[pid]))
            found.append({"pid": pid, "info": info})
        return {"processes": found}

    async def pause(self, request: Values) -> Values:
        await self._container(request).pause()
        return {}

    async def resume(self, request: Values) -> Values:
        await self._container(request).resume()
        return {}

    async def checkpoint(self, request: Values) -> Values:
        await self._container(request).checkpoint(request["path"], request["options"])
        return {}

    async def resize(self, request: Values) -> Values:
        container, process = self._process(request)
        container.check_resizable(process)
        process.streams.resize(request["width"], request["height"])
        return {}

    async def close_io(self, request: Values) -> Values:
        _, process = self._process(request)
        if request["stdin"]:
            process.streams.close_input()
        return {}

    async def update(self, request: Values) -> Values:
        resources = request["resources"]
        await self._container(request).update(resources["value"] if resources else b"{}")
        return {}

    async def stats(self, request: Values) -> Values:
        from orlop_shim.stats import measure

        container = self._container(request)
        if container.cgroup is None or not container.cgroup.own:
            raise NotFound(f'container "{container.id}": has no control group of its own')
        return {"stats": measure(container.cgroup)}

    async def connect(self, request: Values) -> Values:
        container = self._containers.get(request["id"])
        return {"shim_pid": self._around.pid, "task_pid": container.init.pid if container else 0, "version": ""}

    async def shutdown(self, request: Values) -> Values:
        if self.idle:
            self._leave()
        return {}

    def _container(self, request: Values) -> Container:
        container = self._containers.get(request["id"])
        if container is None:
            if request["id"] in self._containers:
                raise FailedPrecondition(f'container "{request["id"]}": is still being created')
            raise NotFound(f'container "{request["id"]}": not found; it was never created here, or has been deleted')
        return container

    def _process(self, request: Values) -> tuple[Container, Process]:
        container = self._container(request)
        return container, container.find(request["exec_id"])
