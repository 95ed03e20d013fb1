# SPDX-License-Identifier: Apache-2.0
"""The task service: from container records to what the runtime is asked for."""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orlop import context, hooks
from orlop.errors import AlreadyExists, DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from orlop.interfaces.log import LOG_DRIVER
from orlop.interfaces.runtime import TaskRequest
from orlop.interfaces.task import TaskOptions
from orlop.values import (
    EPOCH,
    AnyMessage,
    Container,
    Descriptor,
    IngestStatus,
    Mount,
    ProcessState,
    RuntimeInfo,
    Stdio,
    TaskStatus,
)
from orlop_runtime.checkpoint import CONFIG_PROTO, CRIU_TAR
from orlop_runtime.log_native import FileDriver
from orlop_runtime.log_uri import LogUris
from orlop_runtime.service import ServiceTimeouts, TaskService
from orlop_sdk.api.types.runc.options.oci_pb2 import CheckpointOptions

SPEC = AnyMessage("types.containerd.io/opencontainers/runtime-spec/1/Spec", b'{"process": {"args": ["true"]}}')
RUNC_OPTIONS = AnyMessage("containerd.runc.v1.Options", b"")
RECORD = Container("c1", RuntimeInfo("io.containerd.runc.v2"), SPEC)


def write_pages(directory: Path) -> None:
    """What a checkpoint leaves, if the directory is there."""
    if directory.is_dir():
        (directory / "pages.img").write_bytes(b"pages")


def pages(directory: str) -> bytes | None:
    path = Path(directory, "pages.img")
    return path.read_bytes() if path.exists() else None


class OneTask:
    """A task that answers after a while, or not at all."""

    def __init__(self, id: str, delay: float = 0, error: Exception | None = None) -> None:
        self.id, self.namespace, self.pid = id, "ns", 7
        self.executed: list[tuple[str, Stdio]] = []
        self.checkpoints: list[str] = []
        self._delay, self._error = delay, error

    async def state(self, exec_id: str = "") -> ProcessState:
        await self._answer()
        return ProcessState(self.id, exec_id, 7, TaskStatus.RUNNING)

    async def stats(self) -> AnyMessage:
        await self._answer()
        return AnyMessage("io.containerd.cgroups.v1.Metrics", self.id.encode())

    async def exec(self, exec_id: str, spec: AnyMessage, stdio: Stdio) -> None:
        self.executed.append((exec_id, stdio))

    async def checkpoint(self, path: str, options: AnyMessage | None = None) -> None:
        self.checkpoints.append(path)
        write_pages(Path(path))

    async def _answer(self) -> None:
        await asyncio.sleep(self._delay)
        if self._error is not None:
            raise self._error


class Tasks:
    """A runtime that notes what it is asked for."""

    def __init__(self, *tasks: OneTask) -> None:
        self.tasks = {task.id: task for task in tasks}
        self.requests: list[TaskRequest] = []

    async def create(self, id: str, request: TaskRequest) -> OneTask:
        self.requests.append(request)
        return OneTask(id)

    async def get(self, id: str) -> OneTask:
        if id not in self.tasks:
            raise NotFound(f'task "{id}": not found')
        return self.tasks[id]

    async def list(self) -> list[OneTask]:
        return list(self.tasks.values())


class Blobs:
    """A content store in memory, as far as checkpoints need it."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    async def writer(self, ref: str, *, total: int = 0, expected: str = "") -> BlobWriter:
        return BlobWriter(self.blobs, ref)

    async def reader(self, descriptor: Descriptor) -> Any:
        data = self.blobs[descriptor.digest]

        async def read_at(offset: int, size: int) -> bytes:
            return data[offset : offset + size]

        async def close() -> None:
            return None

        return SimpleNamespace(size=len(data), read_at=read_at, close=close)


class BlobWriter:
    def __init__(self, blobs: dict[str, bytes], ref: str) -> None:
        self._blobs, self._ref, self._data = blobs, ref, b""

    async def write(self, data: bytes | memoryview) -> None:
        self._data += bytes(data)

    def digest(self) -> str:
        import hashlib

        return f"sha256:{hashlib.sha256(self._data).hexdigest()}"

    async def commit(self, *, size: int = 0, expected: str = "", labels: Any = None) -> str:
        assert size == len(self._data)
        if self.digest() in self._blobs:
            raise AlreadyExists("there")
        self._blobs[self.digest()] = self._data
        return self.digest()

    async def status(self) -> IngestStatus:
        return IngestStatus(self._ref, started_at=EPOCH)

    async def close(self) -> None:
        return None


class Fixture:
    """A task service over the above."""

    def __init__(self, tmp_path: Path, record: Container = RECORD, *tasks: OneTask) -> None:
        self.runtime = Tasks(*tasks)
        self.content = Blobs()
        self.hooks = hooks.manager()

        async def get(id: str) -> Container:
            if id != record.id:
                raise NotFound(f'container "{id}": not found')
            return record

        async def mounts(key: str) -> list[Mount]:
            return [Mount("overlay", "overlay", options=(f"lowerdir={key}",))]

        metadata: Any = SimpleNamespace(
            containers=SimpleNamespace(get=get),
            snapshotters={"overlayfs": SimpleNamespace(mounts=mounts)},
            content=self.content,
        )
        runtime: Any = self.runtime
        logs = LogUris({"file": FileDriver()}, LOG_DRIVER.name, self.hooks.hook)
        timeouts = ServiceTimeouts(state=0.1, stats=0.1)
        self.service = TaskService(runtime, metadata, logs, self.hooks.hook, tmp_path, timeouts)

    @property
    def request(self) -> TaskRequest:
        (request,) = self.runtime.requests
        return request


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    with context.scope(namespace="ns"):
        yield


async def test_a_record_says_what_to_run(tmp_path: Path) -> None:
    record = replace(
        RECORD,
        runtime=RuntimeInfo("io.containerd.runc.v2", RUNC_OPTIONS),
        snapshotter="overlayfs",
        snapshot_key="key",
    )
    f = Fixture(tmp_path, record)
    task = await f.service.create("c1", TaskOptions(stdio=Stdio(stdout="file:///var/log/x")))
    assert task.id == "c1"
    assert f.request == TaskRequest(
        "io.containerd.runc.v2",
        SPEC,
        [Mount("overlay", "overlay", options=("lowerdir=key",))],
        Stdio(stdout="file:///var/log/x"),
        RUNC_OPTIONS,
    )


async def test_a_request_wins_over_the_record(tmp_path: Path) -> None:
    record = replace(RECORD, snapshotter="overlayfs", snapshot_key="key")
    f = Fixture(tmp_path, record)
    rootfs = [Mount("bind", "/tree")]
    options = AnyMessage("containerd.runc.v1.Options", b"\x08\x01")
    await f.service.create("c1", TaskOptions(rootfs=rootfs, options=options))
    assert (f.request.rootfs, f.request.options) == (rootfs, options)


async def test_a_path_replaces_the_runtime(tmp_path: Path) -> None:
    f = Fixture(tmp_path)
    await f.service.create("c1", TaskOptions(runtime_path="/opt/shim", options=AnyMessage("other.Options")))
    assert (f.request.runtime, f.request.options) == ("/opt/shim", AnyMessage("other.Options"))
    with pytest.raises(InvalidArgument, match="absolute"):
        await f.service.create("c1", TaskOptions(runtime_path="shim"))


async def test_what_cannot_be_created(tmp_path: Path) -> None:
    f = Fixture(tmp_path)
    with pytest.raises(NotFound):
        await f.service.create("other", TaskOptions())
    with pytest.raises(InvalidArgument, match=r"use containerd\.runc\.v1\.Options"):
        await f.service.create("c1", TaskOptions(options=AnyMessage("other.Options")))
    with pytest.raises(InvalidArgument, match="no log driver"):
        await f.service.create("c1", TaskOptions(stdio=Stdio(stdout="syslog://x")))
    for record, words in (
        (replace(RECORD, spec=None), "no spec"),
        (replace(RECORD, snapshotter="zfs", snapshot_key="key"), r'"zfs" does not work \(there are: overlayfs\)'),
    ):
        with pytest.raises(FailedPrecondition, match=words):
            await Fixture(tmp_path, record).service.create("c1", TaskOptions())
    assert f.runtime.requests == []


async def test_hooks_change_or_refuse_a_spec(tmp_path: Path) -> None:
    class Adjust:
        @hooks.hookimpl
        def orlop_adjust_spec(self, container: str, spec: dict[str, Any]) -> None:
            if spec.get("refuse"):
                raise ValueError("not like that")
            spec["hostname"] = container

    f = Fixture(tmp_path)
    hooks.add(f.hooks, Adjust(), "test.hook", "here")
    await f.service.create("c1", TaskOptions())
    assert json.loads(f.request.spec.value) == {"process": {"args": ["true"]}, "hostname": "c1"}
    refused = Fixture(tmp_path, replace(RECORD, spec=AnyMessage(SPEC.type_url, b'{"refuse": true}')))
    hooks.add(refused.hooks, Adjust(), "test.hook", "here")
    with pytest.raises(FailedPrecondition, match="not like that"):
        await refused.service.create("c1", TaskOptions())


async def test_without_hooks_a_spec_passes_byte_for_byte(tmp_path: Path) -> None:
    f = Fixture(tmp_path, replace(RECORD, spec=AnyMessage(SPEC.type_url, b"{ }")))
    await f.service.create("c1", TaskOptions())
    assert f.request.spec.value == b"{ }"


async def test_states_do_not_wait_for_the_slow(tmp_path: Path) -> None:
    f = Fixture(
        tmp_path,
        RECORD,
        OneTask("fast"),
        OneTask("slow", delay=60),
        OneTask("broken", error=Unavailable("no")),
        OneTask("gone", error=NotFound("deleted")),
    )
    found = {state.id: state.status for state in await f.service.states()}
    assert found == {"fast": TaskStatus.RUNNING, "slow": TaskStatus.UNKNOWN, "broken": TaskStatus.UNKNOWN}
    assert [state.id for state in await f.service.states(["status==running", "id==broken"])] == ["fast", "broken"]


async def test_metrics_are_filtered_and_leave_out_who_does_not_answer(tmp_path: Path) -> None:
    f = Fixture(tmp_path, RECORD, OneTask("a"), OneTask("b"), OneTask("slow", delay=60))
    assert [metric.id for metric in await f.service.metrics()] == ["a", "b"]
    assert [metric.id for metric in await f.service.metrics(["id==b"])] == ["b"]
    assert await f.service.metrics(["namespace==other"]) == []
    with pytest.raises(InvalidArgument):
        await f.service.metrics(["id=="])


async def test_exec_resolves_its_logs(tmp_path: Path) -> None:
    task = OneTask("c1")
    f = Fixture(tmp_path, RECORD, task)
    await f.service.exec("c1", "e1", AnyMessage("p"), Stdio(stdout="file:///x"))
    assert task.executed == [("e1", Stdio(stdout="file:///x"))]
    for exec_id in ("", "../e"):
        with pytest.raises(InvalidArgument):
            await f.service.exec("c1", exec_id, AnyMessage("p"), Stdio())
    with pytest.raises(InvalidArgument):
        await f.service.exec("c1", "e2", AnyMessage("p"), Stdio(stderr="nowhere://x"))


async def test_a_checkpoint_may_go_to_a_directory(tmp_path: Path) -> None:
    task = OneTask("c1")
    f = Fixture(tmp_path, RECORD, task)
    options = CheckpointOptions(image_path="/var/images").SerializeToString()
    assert await f.service.checkpoint("c1", AnyMessage("containerd.runc.v1.CheckpointOptions", options)) == []
    assert task.checkpoints == ["/var/images"]
    assert f.content.blobs == {}


async def test_a_checkpoint_is_stored_and_restored(tmp_path: Path) -> None:
    f = Fixture(tmp_path, RECORD, OneTask("c1"))
    images, config = await f.service.checkpoint("c1")
    assert (images.media_type, config.media_type) == (CRIU_TAR, CONFIG_PROTO)
    assert b"true" in f.content.blobs[config.digest]
    assert pages(f.runtime.tasks["c1"].checkpoints[0]) is None
    with pytest.raises(AlreadyExists):
        await f.service.create("c1", TaskOptions(checkpoint=images))
    f.runtime.tasks.clear()
    await f.service.create("c1", TaskOptions(checkpoint=images))
    assert pages(f.request.checkpoint) == b"pages"
    # The next restore removes the images of tasks that are gone.
    other = Fixture(tmp_path, replace(RECORD, id="c2"))
    other.content.blobs.update(f.content.blobs)
    await other.service.create("c2", TaskOptions(checkpoint=images))
    assert [path.name for path in (tmp_path / "restore" / "ns").iterdir()] == ["c2"]


async def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    f = Fixture(tmp_path)
    with pytest.raises(InvalidArgument, match="media type"):
        await f.service.create("c1", TaskOptions(checkpoint=Descriptor("text/plain", "sha256:0", 1)))
    f.content.blobs["sha256:1"] = b"no tar at all, but long enough to be looked at" * 20
    with pytest.raises(Exception, match="sha256:1"):
        await f.service.create("c1", TaskOptions(checkpoint=Descriptor(CRIU_TAR, "sha256:1", 1)))
    assert not await asyncio.to_thread(lambda: list(tmp_path.glob("restore/ns/*")))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../out", tarfile.REGTYPE),
        ("/out", tarfile.REGTYPE),
        ("a/b", tarfile.REGTYPE),
        ("..", tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("folder", tarfile.DIRTYPE),
    ],
)
async def test_a_checkpoint_that_leaves_its_directory(tmp_path: Path, name: str, kind: bytes) -> None:
    f = Fixture(tmp_path)
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc" if kind == tarfile.SYMTYPE else ""
    f.content.blobs["sha256:1"] = info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    with pytest.raises(DataLoss, match="not a plain file"):
        await f.service.create("c1", TaskOptions(checkpoint=Descriptor(CRIU_TAR, "sha256:1", 1)))
    assert not await asyncio.to_thread(lambda: list(tmp_path.rglob("restore/ns/*")))
