# SPDX-License-Identifier: Apache-2.0
"""The in-process task service: what joins container records, snapshots, content and the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from orlop.interfaces.runtime import Task
from orlop.plugin import PluginType
from orlop.values import AnyMessage, Descriptor, Metric, Mount, ProcessState, Stdio


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How to create a task of a container record."""

    rootfs: Sequence[Mount] = ()
    """Mounts of the root file system; empty: those of the record's snapshot."""
    stdio: Stdio = Stdio()
    """Where the streams of the first process go, log URIs among them."""
    options: AnyMessage | None = None
    """Runtime options; None: the record's."""
    runtime_path: str = ""
    """Absolute path of a shim binary to use instead of the runtime's own."""
    checkpoint: Descriptor | None = None
    """Content to restore the container from; None: start anew."""
    address: str = ""
    """Where a shim serves tasks already, ``PROTOCOL+ADDRESS``; empty: where the sandbox of the record says, if any."""
    version: int = 0
    """Version of the task API there; 0 where nobody said."""


@runtime_checkable
class Tasks(Protocol):
    """Tasks by container id, in the namespace of `orlop.context`. The gRPC task service is a thin face of this."""

    async def create(self, container: str, options: TaskOptions) -> Task:
        """Raises `NotFound` for an unknown container, `AlreadyExists` when it has a task."""

    async def get(self, container: str) -> Task:
        """Raises `NotFound`."""

    async def states(self, filters: Sequence[str] = ()) -> list[ProcessState]:
        """The state of every task; a shim that does not answer in time counts as `TaskStatus.UNKNOWN`."""

    async def metrics(self, filters: Sequence[str] = ()) -> list[Metric]:
        """Figures of every running task that match any of the filters (id, namespace)."""

    async def exec(self, container: str, exec_id: str, spec: AnyMessage, stdio: Stdio) -> None:
        """As `Task.exec`, with log URIs resolved by the log drivers."""

    async def checkpoint(self, container: str, options: AnyMessage | None = None) -> list[Descriptor]:
        """Checkpoint into the content store (or the path that the options name) and return what was stored."""


TASKS: Final = PluginType("io.containerd.service.v1", Tasks, group="orlop.service.v1", many=True)
tasks = TASKS.plugin
"""Decorator that declares the task service. Its id is ``tasks-service``: ``ctx.get(TASKS, "tasks-service")``."""
