# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of a shim, for tests: bundles, sockets, events, FIFOs, and the binary called as daemons call it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.any_pb2 import Any as AnyMessagePb
from google.protobuf.empty_pb2 import Empty

from orlop.blocking import run_blocking
from orlop.errors import OrlopError
from orlop_sdk.api.runtime.bootstrap.v1.bootstrap_pb2 import BootstrapResult
from orlop_sdk.api.runtime.task.v2 import shim_pb2 as task_v2
from orlop_sdk.api.runtime.task.v3 import shim_pb2 as task_v3
from orlop_sdk.api.services.ttrpc.events.v1.events_pb2 import ForwardRequest
from orlop_sdk.api.types.mount_pb2 import Mount as MountPb
from orlop_sdk.linux.mount import mount_points, unmount_all
from orlop_sdk.rpc import descriptors
from orlop_sdk.rpc.service import Service
from orlop_sdk.rpc.stub import Stub
from orlop_sdk.ttrpc.client import Client
from orlop_sdk.ttrpc.server import Server

PATIENCE: Final = 30.0
"""Seconds within which anything has to happen."""
PROCESS_URL: Final = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_APPLETS: Final = ("cat", "echo", "false", "sh", "sleep", "stty", "true", "seq")
_NAMESPACES: Final = ("pid", "ipc", "uts", "mount")


class Events(Service):
    """What shims publish to: keeps everything, in order."""

    service = "containerd.services.events.ttrpc.v1.Events"

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        self._more = asyncio.Condition()

    async def Forward(self, request: ForwardRequest) -> Empty:
        event = request.envelope.event
        message = descriptors.message(event.type_url.rpartition("/")[2]).FromString(event.value)
        async with self._more:
            self.seen.append((request.envelope.topic, message))
            self._more.notify_all()
        return Empty()

    def topics(self, id: str) -> list[str]:
        """The topics of a container's events so far, without ``/tasks/``."""
        return [topic.removeprefix("/tasks/") for topic, message in self.seen if message.container_id == id]

    async def wait(self, id: str, topic: str, count: int = 1) -> list[Any]:
        """The messages of a topic, once there are that many."""

        def found() -> list[Any]:
            return [each for name, each in self.seen if name == f"/tasks/{topic}" and each.container_id == id]

        async with asyncio.timeout(PATIENCE), self._more:
            await self._more.wait_for(lambda: len(found()) >= count)
        return found()


class Fifo:
    """One end of a container's stdio, which a client would have."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)
        # Both directions, so that opening does not wait for the shim.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def write(self, data: bytes) -> None:
        """Send it to the container."""
        os.write(self._fd, data)

    async def read(self, wanted: bytes = b"") -> bytes:
        """What the container wrote, as soon as *wanted* is in it."""
        data = b""
        async with asyncio.timeout(PATIENCE):
            while wanted not in data or not data:
                with suppress(BlockingIOError):
                    data += os.read(self._fd, 65536)
                await asyncio.sleep(0.01)
        return data

    def close(self) -> None:
        """Let go. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@dataclass
class Shim:
    """A shim that was started, connected to."""

    id: str
    bundle: Path
    address: str
    version: int
    client: Client
    task: Stub
    pb: Any
    """The messages of its version of the task API."""
    fifos: dict[str, Fifo] = field(default_factory=dict)

    async def create(self, *, terminal: bool = False, root: Path | None = None) -> int:
        """Create the container with FIFOs for its output; returns the pid."""
        names = ("stdin", "stdout") if terminal else ("stdin", "stdout", "stderr")
        self.fifos |= {name: Fifo(self.bundle.parent / f"{self.id}-{name}") for name in names}
        streams = {name: fifo.path for name, fifo in self.fifos.items()}
        mounts = [MountPb(type="bind", source=str(root), options=["rbind", "rw"])] if root is not None else []
        request = self.pb.CreateTaskRequest(
            id=self.id, bundle=str(self.bundle), terminal=terminal, rootfs=mounts, **streams
        )
        return int((await self.task.Create(request, timeout=PATIENCE)).pid)

    async def start(self, exec_id: str = "") -> int:
        """Start a process; returns its pid."""
        return int((await self.task.Start(self.pb.StartRequest(id=self.id, exec_id=exec_id), timeout=PATIENCE)).pid)

    async def exec(self, exec_id: str, *args: str) -> None:
        """Add another process, whose output nobody reads."""
        spec = AnyMessagePb(type_url=PROCESS_URL, value=json.dumps(process(args)).encode())
        await self.task.Exec(self.pb.ExecProcessRequest(id=self.id, exec_id=exec_id, spec=spec), timeout=PATIENCE)

    async def create_and_start(self, root: Path) -> int:
        """Both; whether a shim finds a mistake in the first or the second is its own affair."""
        await self.create(root=root)
        return await self.start()

    async def exec_and_start(self, exec_id: str, *args: str) -> int:
        """Both, likewise."""
        await self.exec(exec_id, *args)
        return await self.start(exec_id)

    async def kill(self, number: int = signal.SIGKILL, exec_id: str = "", *, everyone: bool = False) -> None:
        """Send a signal."""
        request = self.pb.KillRequest(id=self.id, exec_id=exec_id, signal=number, all=everyone)
        await self.task.Kill(request, timeout=PATIENCE)

    async def wait(self, exec_id: str = "") -> int:
        """The exit status, once there is one."""
        answer = await self.task.Wait(self.pb.WaitRequest(id=self.id, exec_id=exec_id), timeout=PATIENCE)
        return int(answer.exit_status)

    async def delete(self, exec_id: str = "") -> Any:
        """Forget a process."""
        return await self.task.Delete(self.pb.DeleteRequest(id=self.id, exec_id=exec_id), timeout=PATIENCE)

    async def state(self, exec_id: str = "") -> Any:
        """How a process is."""
        return await self.task.State(self.pb.StateRequest(id=self.id, exec_id=exec_id), timeout=PATIENCE)

    async def pid(self) -> int:
        """The shim's own pid."""
        return int((await self.task.Connect(self.pb.ConnectRequest(id=self.id), timeout=PATIENCE)).shim_pid)

    async def shutdown(self) -> None:
        """Ask it to end. That it hangs up instead of answering is as good."""
        with suppress(OrlopError):
            await self.task.Shutdown(self.pb.ShutdownRequest(id=self.id), timeout=PATIENCE)

    async def close(self) -> None:
        """Hang up, and let go of the FIFOs. May be called twice."""
        await self.client.close()
        for fifo in self.fifos.values():
            fifo.close()


class ShimBench:
    """A daemon's directories and sockets below *base*, and the shim *binary*."""

    def __init__(self, binary: str, base: Path, environment: Mapping[str, str]) -> None:
        self.binary = binary
        self.base = base
        self.namespace = f"shim-suite-{uuid.uuid4().hex[:12]}"
        self.events = Events()
        self.root = base / "tree"
        self._environment = {
            **os.environ,
            **environment,
            "TTRPC_ADDRESS": f"{base}/t.sock",
            "GRPC_ADDRESS": f"{base}/g.sock",
            "NAMESPACE": self.namespace,
            "MAX_SHIM_VERSION": "3",
        }
        self._shims: list[Shim] = []
        self._logs: list[Fifo] = []

    def bundle(self, id: str, args: Sequence[str], **more: Any) -> Path:
        """A new bundle; returns its directory."""
        path = self.base / "bundles" / id
        (path / "rootfs").mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(spec(self.namespace, id, args, **more)))
        # Shims open it before anything else, and some do not live without it.
        self._logs.append(Fifo(path / "log"))
        return path

    async def call(self, id: str, action: str, bundle: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run the binary as a daemon does."""
        command = [
            *(self.binary, "-namespace", self.namespace, "-address", f"{self.base}/g.sock"),
            *("-publish-binary", "/bin/true", "-id", id),
            *(("-bundle", str(bundle)) if action == "delete" else ()),
            action,
        ]

        def run() -> subprocess.CompletedProcess[bytes]:
            return subprocess.run(
                command,
                input=stdin,
                stdout=subprocess.PIPE,
                # A daemon reads both together, so that a word on stderr spoils the answer.
                stderr=subprocess.STDOUT if action == "start" else subprocess.PIPE,
                cwd=bundle,
                env=self._environment,
                process_group=0,
                timeout=PATIENCE,
                check=False,
            )

        return await run_blocking(run)

    async def launch(self, id: str, *args: str, stdin: bytes = b"", **more: Any) -> Shim:
        """Make a bundle, start a shim for it, and connect."""
        bundle = self.bundle(id, args, **more)
        done = await self.call(id, "start", bundle, stdin)
        assert done.returncode == 0, done.stdout.decode(errors="replace")
        address, version = parse_answer(done.stdout)
        return await self.connect(id, bundle, address, version)

    async def connect(self, id: str, bundle: Path, address: str, version: int) -> Shim:
        """Connect to a shim at an address."""
        client = await Client.connect(address)
        pb = task_v3 if version == 3 else task_v2
        shim = Shim(id, bundle, address, version, client, Stub(client, f"containerd.task.v{version}.Task"), pb)
        self._shims.append(shim)
        return shim

    async def run(self, id: str, *args: str, terminal: bool = False, **more: Any) -> Shim:
        """A container that runs busybox, started."""
        shim = await self.launch(id, *args, terminal=terminal, **more)
        await shim.create(terminal=terminal, root=self.root)
        await shim.start()
        return shim

    def processes(self) -> list[int]:
        """The pids of this bench's shims."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError):
                    if self.namespace.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    async def settled(self) -> list[str]:
        """What is left of shims on the host, after some patience: they end by themselves."""

        def left() -> list[str]:
            return [*(f"process {pid}" for pid in self.processes()), *mount_points(self.base)]

        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while left():  # noqa: ASYNC110  # nobody tells when a foreign process ends
                    await asyncio.sleep(0.05)
        return left()

    async def close(self) -> None:
        """End every container and shim that a test left, by force."""
        for shim in self._shims:
            with suppress(OrlopError):
                await shim.kill(everyone=True)
            with suppress(OrlopError):
                await shim.wait()
                await shim.delete()
            await shim.shutdown()
            await shim.close()
        left = await self.settled()
        for log in self._logs:
            log.close()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for point in mount_points(self.base):
            unmount_all(point, detach=True)
        self._forget()
        assert not left, f"shims left behind: {', '.join(left)}"

    def _forget(self) -> None:
        """Remove what no shim removes: sockets of killed ones, and the empty directories of the namespace."""
        for shim in self._shims:
            if shim.address.startswith("unix:///"):
                Path(shim.address.removeprefix("unix://")).unlink(missing_ok=True)
        cgroups = Path("/sys/fs/cgroup")
        for path in (
            Path("/run/containerd/runc", self.namespace),
            cgroups / self.namespace,
            *cgroups.glob(f"*/{self.namespace}"),
        ):
            with suppress(OSError):
                path.rmdir()


@asynccontextmanager
async def shim_bench(binary: str, base: Path, environment: Mapping[str, str]) -> AsyncIterator[ShimBench]:
    """A fresh bench; at the end nothing of its shims may be left."""
    bench = ShimBench(binary, base, environment)
    fill(bench.root)
    server = Server(bench.events.methods())
    await server.listen(f"{base}/t.sock")
    try:
        yield bench
    finally:
        await bench.close()
        await server.close()


def fill(root: Path) -> None:
    """A root file system with busybox."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs a static busybox on PATH; install busybox-static")
    (root / "bin").mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for applet in _APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    for name in ("dev", "proc", "tmp"):
        (root / name).mkdir()


def process(args: Sequence[str], *, terminal: bool = False) -> dict[str, Any]:
    """The ``process`` of a spec."""
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(args),
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "noNewPrivileges": True,
    }


def spec(
    namespace: str,
    id: str,
    args: Sequence[str],
    *,
    terminal: bool = False,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A spec with namespaces of its own for everything but the network."""
    tmpfs = {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}
    devpts = {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
    }
    return {
        "ociVersion": "1.0.2",
        "process": process(args, terminal=terminal),
        "root": {"path": "rootfs"},
        "hostname": id,
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, tmpfs, devpts],
        "annotations": dict(annotations or {}),
        "linux": {"cgroupsPath": f"/{namespace}/{id}", "namespaces": [{"type": kind} for kind in _NAMESPACES]},
    }


def parse_answer(output: bytes) -> tuple[str, int]:
    """The address and version of the task API in what ``start`` printed: a message, JSON, or a bare address."""
    text = output.strip()
    if text.startswith(b"{"):
        found = json.loads(text)
        assert found.get("protocol", "ttrpc") in ("", "ttrpc"), f"speaks {found['protocol']}"
        return str(found["address"]), int(found.get("version", 2))
    if text.startswith((b"unix://", b"/", b"@")):
        return text.decode(), 2
    result = BootstrapResult.FromString(output)
    assert result.protocol in ("", "ttrpc"), f"speaks {result.protocol}"
    return result.address, result.version
