# SPDX-License-Identifier: Apache-2.0
"""What the task and diff services make of requests. What their back ends do is tested with these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as Any_

from orlop.interfaces.runtime import Task
from orlop.interfaces.task import TaskOptions
from orlop.values import (
    EMPTY,
    EPOCH,
    AnyMessage,
    Descriptor,
    Exit,
    Labels,
    Metric,
    Mount,
    ProcessInfo,
    ProcessState,
    Stdio,
    TaskStatus,
)
from orlop_sdk.api.services.diff.v1 import diff_pb2 as diff
from orlop_sdk.api.services.tasks.v1 import tasks_pb2 as pb
from orlop_sdk.rpc.local import LocalChannel
from orlop_sdk.rpc.stub import Stub
from orlop_sdk.serving.diff import DiffService
from orlop_services.services.tasks import TasksService

THEN = datetime(2024, 1, 1, tzinfo=UTC)
ENDED = Exit(137, THEN, 42)
LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar", "sha256:" + "c" * 64, 9)
Calls = list[tuple[Any, ...]]


class OneTask:
    """A task that notes down what it is told."""

    def __init__(self, id: str, calls: Calls) -> None:
        self.id, self.namespace, self.pid, self._calls = id, "test", 42, calls

    def _note(self, *call: Any) -> None:
        self._calls.append((self.id, *call))

    async def state(self, exec_id: str = "") -> ProcessState:
        return ProcessState(self.id, exec_id, self.pid, TaskStatus.PAUSED, Stdio("i", "o", "e", terminal=True))

    async def start(self, exec_id: str = "") -> int:
        self._note("start", exec_id)
        return 43

    async def exec(self, exec_id: str, spec: AnyMessage, stdio: Stdio) -> None:
        self._note("exec", exec_id, spec, stdio)

    async def kill(self, signal: int, *, exec_id: str = "", everyone: bool = False) -> None:
        self._note("kill", signal, exec_id, everyone)

    async def wait(self, exec_id: str = "") -> Exit:
        self._note("wait", exec_id)
        return ENDED

    async def delete(self, exec_id: str = "") -> Exit:
        self._note("delete", exec_id)
        return ENDED

    async def pause(self) -> None:
        self._note("pause")

    async def resume(self) -> None:
        self._note("resume")

    async def resize(self, width: int, height: int, *, exec_id: str = "") -> None:
        self._note("resize", width, height, exec_id)

    async def close_stdin(self, exec_id: str = "") -> None:
        self._note("close_stdin", exec_id)

    async def pids(self) -> list[ProcessInfo]:
        return [ProcessInfo(42), ProcessInfo(43, AnyMessage("t", b"v"))]

    async def update(self, resources: AnyMessage | None, annotations: Labels = EMPTY) -> None:
        self._note("update", resources, dict(annotations))

    async def checkpoint(self, path: str, options: AnyMessage | None = None) -> None:
        self._note("checkpoint", path, options)

    async def stats(self) -> AnyMessage | None:
        return None


class AllTasks:
    """Tasks for every container."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def create(self, container: str, options: TaskOptions) -> Task:
        self._calls.append((container, "create", options))
        return OneTask(container, self._calls)

    async def get(self, container: str) -> Task:
        return OneTask(container, self._calls)

    async def states(self, filters: Sequence[str] = ()) -> list[ProcessState]:
        self._calls.append(("states", list(filters)))
        return [await OneTask("a", self._calls).state()]

    async def metrics(self, filters: Sequence[str] = ()) -> list[Metric]:
        self._calls.append(("metrics", list(filters)))
        return [Metric("a", THEN, AnyMessage("t", b"v"))]

    async def exec(self, container: str, exec_id: str, spec: AnyMessage, stdio: Stdio) -> None:
        await OneTask(container, self._calls).exec(exec_id, spec, stdio)

    async def checkpoint(self, container: str, options: AnyMessage | None = None) -> list[Descriptor]:
        self._calls.append((container, "checkpoint", options))
        return [LAYER]


@pytest.fixture
def calls() -> Calls:
    return []


@pytest.fixture
def tasks(calls: Calls) -> Stub:
    return Stub(LocalChannel(TasksService(AllTasks(calls)).methods()), "containerd.services.tasks.v1.Tasks")


async def test_create_passes_everything_on(tasks: Stub, calls: Calls) -> None:
    request = pb.CreateTaskRequest(
        container_id="c",
        rootfs=[{"type": "bind", "source": "/x", "options": ["ro"]}],
        stdin="i",
        terminal=True,
        options={"type_url": "t", "value": b"v"},
        runtime_path="/shim",
        checkpoint={"digest": LAYER.digest, "media_type": LAYER.media_type, "size": 9},
    )
    answer = await tasks.Create(request)
    assert (answer.container_id, answer.pid) == ("c", 42)
    await tasks.Create(pb.CreateTaskRequest(container_id="d"))
    rootfs, stdio = [Mount("bind", "/x", "", ("ro",))], Stdio("i", terminal=True)
    assert calls == [
        ("c", "create", TaskOptions(rootfs, stdio, AnyMessage("t", b"v"), "/shim", LAYER)),
        ("d", "create", TaskOptions(rootfs=[])),
    ]


async def test_a_task_can_go_into_a_shim_that_runs(tasks: Stub, calls: Calls) -> None:
    await tasks.Create(pb.CreateTaskRequest(container_id="c", task_api_address="ttrpc+unix:///x", task_api_version=3))
    assert calls == [("c", "create", TaskOptions(rootfs=[], address="ttrpc+unix:///x", version=3))]


CALLS = {
    "Kill": (pb.KillRequest(container_id="c", exec_id="e", signal=9, all=True), ("kill", 9, "e", True)),
    "Pause": (pb.PauseTaskRequest(container_id="c"), ("pause",)),
    "Resume": (pb.ResumeTaskRequest(container_id="c"), ("resume",)),
    "ResizePty": (pb.ResizePtyRequest(container_id="c", exec_id="e", width=80, height=24), ("resize", 80, 24, "e")),
    "CloseIO": (pb.CloseIORequest(container_id="c", exec_id="e", stdin=True), ("close_stdin", "e")),
    "Update": (
        pb.UpdateTaskRequest(container_id="c", resources={"type_url": "t"}, annotations={"a": "b"}),
        ("update", AnyMessage("t"), {"a": "b"}),
    ),
    "Exec": (
        pb.ExecProcessRequest(container_id="c", exec_id="e", stdout="o", spec={"type_url": "t", "value": b"v"}),
        ("exec", "e", AnyMessage("t", b"v"), Stdio(stdout="o")),
    ),
}


@pytest.mark.parametrize(("method", "request_", "call"), [(name, *case) for name, case in CALLS.items()], ids=CALLS)
async def test_calls_reach_the_task(
    tasks: Stub, calls: Calls, method: str, request_: Any, call: tuple[Any, ...]
) -> None:
    await getattr(tasks, method)(request_)
    assert calls == [("c", *call)]


async def test_closing_no_stream_closes_none(tasks: Stub, calls: Calls) -> None:
    await tasks.CloseIO(pb.CloseIORequest(container_id="c"))
    assert calls == []


async def test_ends_are_told(tasks: Stub) -> None:
    deleted = await tasks.Delete(pb.DeleteTaskRequest(container_id="c"))
    assert (deleted.id, deleted.pid, deleted.exit_status, deleted.exited_at.seconds) == ("", 42, 137, THEN.timestamp())
    assert (await tasks.DeleteProcess(pb.DeleteProcessRequest(container_id="c", exec_id="e"))).id == "e"
    waited = await tasks.Wait(pb.WaitRequest(container_id="c"))
    assert (waited.exit_status, waited.exited_at) == (137, deleted.exited_at)


async def test_states_and_figures_are_told(tasks: Stub, calls: Calls) -> None:
    assert (await tasks.Start(pb.StartRequest(container_id="c"))).pid == 43
    process = (await tasks.Get(pb.GetRequest(container_id="c", exec_id="e"))).process
    assert (process.id, process.pid, process.stderr, process.terminal) == ("e", 42, "e", True)
    assert [task.id for task in (await tasks.List(pb.ListTasksRequest(filter="id==a"))).tasks] == ["a"]
    pids = (await tasks.ListPids(pb.ListPidsRequest(container_id="c"))).processes
    assert [(each.pid, each.info.value) for each in pids] == [(42, b""), (43, b"v")]
    metrics = (await tasks.Metrics(pb.MetricsRequest(filters=["id==a"]))).metrics
    assert [(each.id, each.data.value) for each in metrics] == [("a", b"v")]
    stored = await tasks.Checkpoint(pb.CheckpointTaskRequest(container_id="c"))
    assert [each.digest for each in stored.descriptors] == [LAYER.digest]
    assert calls[1:] == [("states", ["id==a"]), ("metrics", ["id==a"]), ("c", "checkpoint", None)]


class NotingDiffer:
    """A differ that notes down what it is asked."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def apply(
        self,
        descriptor: Descriptor,
        mounts: Sequence[Mount],
        *,
        payloads: Mapping[str, AnyMessage] = EMPTY,  # type: ignore[assignment]  # an empty mapping fits any values
        sync: bool = False,
    ) -> Descriptor:
        self._calls.append((descriptor, list(mounts), dict(payloads), sync))
        return LAYER

    async def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        *,
        media_type: str = "",
        ref: str = "",
        labels: Labels = EMPTY,
        source_date_epoch: datetime | None = None,
    ) -> Descriptor:
        self._calls.append((list(lower), list(upper), media_type, ref, dict(labels), source_date_epoch))
        return LAYER


async def test_the_differ_gets_everything(calls: Calls) -> None:
    stub = Stub(LocalChannel(DiffService(NotingDiffer(calls)).methods()), "containerd.services.diff.v1.Diff")
    mount, below = {"type": "bind", "source": "/x"}, {"type": "bind", "source": "/y"}
    apply = diff.ApplyRequest(
        diff={"digest": LAYER.digest}, mounts=[mount], payloads={"p": Any_(type_url="t", value=b"v")}, sync_fs=True
    )
    assert (await stub.Apply(apply)).applied.digest == LAYER.digest
    compare = diff.DiffRequest(left=[below], right=[mount], media_type="m", ref="r", labels={"a": "b"})
    assert (await stub.Diff(compare)).diff.digest == LAYER.digest
    compare.source_date_epoch.SetInParent()
    await stub.Diff(compare)
    x, y = Mount("bind", "/x"), Mount("bind", "/y")
    assert calls == [
        (Descriptor("", LAYER.digest, 0, {}), [x], {"p": AnyMessage("t", b"v")}, True),
        ([y], [x], "m", "r", {"a": "b"}, None),
        ([y], [x], "m", "r", {"a": "b"}, EPOCH),
    ]
