# SPDX-License-Identifier: Apache-2.0
"""Runtimes: tasks, and the shims that own their processes.

Two roles. A `ShimLauncher` knows how to bring up the shim of some runtime names; it is what a new runtime adds. The
`Runtime` keeps the tasks of all shims, whoever launched them, and finds them again after a restart of the daemon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from orlop.plugin import PluginType
from orlop.values import EMPTY, AnyMessage, Exit, Labels, Mount, ProcessInfo, ProcessState, Stdio


@dataclass(frozen=True, slots=True)
class ShimRequest:
    """What a launcher is told. ``bundle`` exists and holds ``config.json`` when ``launch`` is called."""

    id: str
    """The container's id."""
    namespace: str
    """The namespace that it belongs to."""
    runtime: str
    """``io.containerd.NAME.VERSION``, or the absolute path of a shim binary."""
    bundle: Path
    """Its bundle directory, as the OCI runtime specification has it."""
    options: AnyMessage | None = None
    """Runtime options of the container, such as ``containerd.runc.v1.Options``; the launcher decides what they mean."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables for the shim, beside those that the launcher gives to each."""


@dataclass(frozen=True, slots=True)
class ShimAddress:
    """How to reach a shim: task API version 2 or 3, ``unix://`` address (or bare: abstract), ``ttrpc`` or ``grpc``."""

    address: str
    """Path or URI of its socket."""
    version: int = 2
    """Version of the task API that it serves."""
    protocol: str = "ttrpc"
    """``ttrpc`` or ``grpc``."""


@runtime_checkable
class ShimLauncher(Protocol):
    """Brings up shims.

    **Lifecycle** of one shim: `launch` (the shim now runs on its own and outlives the daemon), calls to its address by
    the runtime, and `clean` if it died without having been shut down.
    """

    def claims(self, runtime: str) -> bool:
        """Whether this launcher is for that runtime name or path. The general one (id ``manager``) is asked last."""

    async def launch(self, request: ShimRequest) -> ShimAddress:
        """Start a shim, or find the one that serves this container's group already.

        Raises `NotFound` for a missing binary, `Unavailable` with the shim's own words when it did not start.
        """

    async def clean(self, request: ShimRequest) -> Exit:
        """Clean up after a dead shim: processes, mounts, runtime state. Returns how the container ended."""


@runtime_checkable
class ShimKeeper(Protocol):
    """Optional power of a launcher: it holds something for each container, such as the log of its shim."""

    async def attach(self, request: ShimRequest) -> None:
        """The runtime found this container's shim again, which an earlier daemon had started."""

    async def release(self, request: ShimRequest) -> None:
        """The container is gone, its shim as well unless others use it. May be called without `attach` or `launch`."""


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """What `Runtime.create` needs."""

    runtime: str
    """As in `ShimRequest`."""
    spec: AnyMessage
    """OCI runtime specification, as JSON."""
    rootfs: Sequence[Mount] = ()
    """Mounts of the root file system, made by the shim."""
    stdio: Stdio = Stdio()
    """Where the streams of the first process go."""
    options: AnyMessage | None = None
    """As in `ShimRequest`."""
    checkpoint: str = ""
    """A directory with a checkpoint to restore, or empty."""
    sandbox: str = ""
    """The sandbox that the container belongs to, or empty."""
    shim: ShimAddress | None = None
    """The sandbox's shim, which runs already: it gets the container, and lives on without it. None: launch one."""


@runtime_checkable
class Task(Protocol):
    """A container with processes. An empty *exec_id* means the container's first process everywhere.

    Calls raise `NotFound` once the process is deleted, and `Unavailable` when the shim does not answer.
    """

    @property
    def id(self) -> str:
        """The container's id."""

    @property
    def namespace(self) -> str:
        """The namespace it belongs to."""

    @property
    def pid(self) -> int:
        """The pid of its first process."""

    async def state(self, exec_id: str = "") -> ProcessState:
        """The process now."""

    async def start(self, exec_id: str = "") -> int:
        """Run the created process and return its pid. Raises `FailedPrecondition` in another state."""

    async def exec(self, exec_id: str, spec: AnyMessage, stdio: Stdio) -> None:
        """Create (not start) another process. Raises `AlreadyExists`, `InvalidArgument` for an empty id."""

    async def kill(self, signal: int, *, exec_id: str = "", everyone: bool = False) -> None:
        """Send a signal. Raises `NotFound` for a process that has ended, `FailedPrecondition` before start."""

    async def wait(self, exec_id: str = "") -> Exit:
        """Return when the process has ended; at once if it has. Any number of callers may wait."""

    async def delete(self, exec_id: str = "") -> Exit:
        """Forget a process that is not running; deleting the first one removes the task, its bundle and its shim.

        Raises `FailedPrecondition` while it runs.
        """

    async def pause(self) -> None:
        """Freeze all processes."""

    async def resume(self) -> None:
        """Thaw them."""

    async def resize(self, width: int, height: int, *, exec_id: str = "") -> None:
        """Size of the terminal, in characters."""

    async def close_stdin(self, exec_id: str = "") -> None:
        """End of input. May be called twice."""

    async def pids(self) -> list[ProcessInfo]:
        """All processes inside."""

    async def update(self, resources: AnyMessage | None, annotations: Labels = EMPTY) -> None:
        """New limits (``LinuxResources`` of the OCI runtime-spec as JSON)."""

    async def checkpoint(self, path: str, options: AnyMessage | None = None) -> None:
        """Write a checkpoint into a directory."""

    async def stats(self) -> AnyMessage | None:
        """Resource use, encoded by the shim."""


@runtime_checkable
class Runtime(Protocol):
    """The tasks of all namespaces. Calls work in the namespace of `orlop.context`."""

    async def create(self, id: str, request: TaskRequest) -> Task:
        """Make a bundle, start a shim and create the container; on failure everything is undone.

        Raises `AlreadyExists` when the id has a task.
        """

    async def get(self, id: str) -> Task:
        """Raises `NotFound`."""

    async def list(self) -> list[Task]:
        """All of this namespace, in order of id."""


@runtime_checkable
class RuntimeInformer(Protocol):
    """Optional power of a launcher or runtime: what a runtime says about itself (``-info``)."""

    async def info(self, runtime: str, options: AnyMessage | None = None) -> bytes:
        """A serialised ``containerd.types.RuntimeInfo``."""


RUNTIME: Final = PluginType("io.containerd.runtime.v2", Runtime, group="orlop.runtime.v2")
runtime = RUNTIME.plugin
"""Decorator that declares the task runtime."""
SHIM: Final = PluginType("io.containerd.shim.v1", ShimLauncher, group="orlop.shim.v1", many=True)
shim_launcher = SHIM.plugin
"""Decorator that declares a shim launcher: how a new runtime joins."""
