# SPDX-License-Identifier: Apache-2.0
"""The task service: makes tasks of container records, with their snapshots, options, checkpoints and logs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from orlop import context
from orlop.blocking import run_blocking
from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OrlopError
from orlop.interfaces.metadata import MetadataStore
from orlop.interfaces.runtime import Runtime, ShimAddress, Task, TaskRequest
from orlop.interfaces.sandbox import SandboxController
from orlop.interfaces.task import TaskOptions, Tasks
from orlop.values import AnyMessage, Container, Descriptor, Metric, Mount, ProcessState, Stdio, TaskStatus, now
from orlop_runtime.bootstrap import from_endpoint
from orlop_runtime.checkpoint import Restores, image_path, store
from orlop_runtime.log_uri import LogUris
from orlop_sdk import filters as filter_language

log = logging.getLogger("orlop.tasks")

_RUNC: Final = "io.containerd.runc."
_RUNC_OPTIONS: Final = "containerd.runc.v1.Options"


@dataclass(frozen=True, slots=True)
class ServiceTimeouts:
    """How long one shim may take when many are asked, in seconds; 0 means for ever."""

    state: float = 2.0
    stats: float = 2.0


@dataclass(frozen=True, slots=True)
class Places:
    """What else tasks may lie in: sandbox controllers by id, a live view."""

    controllers: Mapping[str, SandboxController] = field(default_factory=dict)


class TaskService:
    """See `orlop.interfaces.task.Tasks`. *hooks* calls ``orlop_adjust_spec``; *state* is for checkpoints."""

    def __init__(
        self,
        runtime: Runtime,
        metadata: MetadataStore,
        logs: LogUris,
        hooks: Any,
        state: Path,
        timeouts: ServiceTimeouts | None = None,
        places: Places | None = None,
    ) -> None:
        self._runtime = runtime
        self._places = places or Places()
        self._metadata = metadata
        self._logs = logs
        self._hooks = hooks
        self._restores = Restores(state)
        self._timeouts = timeouts or ServiceTimeouts()

    async def create(self, container: str, options: TaskOptions) -> Task:
        namespace = context.namespace()
        record = await self._metadata.containers.get(container)
        runtime = _runtime_name(record, options)
        request = TaskRequest(
            runtime=runtime,
            spec=self._spec(record, namespace),
            rootfs=options.rootfs or await self._rootfs(record),
            stdio=self._logs.resolve(options.stdio, namespace, container, record.image),
            options=_runtime_options(record, options),
            sandbox=record.sandbox,
            shim=await self._shim(record, options),
        )
        if options.checkpoint is not None:
            request = replace(request, checkpoint=await self._restore(options.checkpoint, namespace, container))
        return await self._runtime.create(container, request)

    async def get(self, container: str) -> Task:
        return await self._runtime.get(container)

    async def states(self, filters: Sequence[str] = ()) -> list[ProcessState]:
        wanted = filter_language.parse(filters)
        namespace = context.namespace()

        async def one(task: Task) -> ProcessState | None:
            try:
                async with asyncio.timeout(self._timeouts.state or None):
                    return await task.state()
            except NotFound:
                # Deleted since the list was made.
                return None
            except (OrlopError, TimeoutError) as error:
                log.warning('task "%s": its shim gives no state: %s', task.id, error or "no answer in time")
                return ProcessState(task.id, "", task.pid, TaskStatus.UNKNOWN)

        found = await asyncio.gather(*(one(task) for task in await self._runtime.list()))
        return [
            state
            for state in found
            if state is not None
            and wanted.match(
                filter_language.fields({"id": state.id, "namespace": namespace, "status": state.status.value})
            )
        ]

    async def metrics(self, filters: Sequence[str] = ()) -> list[Metric]:
        wanted = filter_language.parse(filters)

        async def one(task: Task) -> Metric | None:
            try:
                async with asyncio.timeout(self._timeouts.stats or None):
                    return Metric(task.id, now(), await task.stats())
            except NotFound:
                return None
            except (OrlopError, TimeoutError) as error:
                log.warning('task "%s": its shim gives no figures: %s', task.id, error or "no answer in time")
                return None

        tasks = [
            task
            for task in await self._runtime.list()
            if wanted.match(filter_language.fields({"id": task.id, "namespace": task.namespace}))
        ]
        return [metric for metric in await asyncio.gather(*map(one, tasks)) if metric is not None]

    async def exec(self, container: str, exec_id: str, spec: AnyMessage, stdio: Stdio) -> None:
        task = await self._runtime.get(container)
        if not exec_id:
            raise InvalidArgument(f'task "{container}": the exec id must not be empty')
        context.check_identifier(exec_id, "exec")
        await task.exec(exec_id, spec, self._logs.resolve(stdio, context.namespace(), container))

    async def checkpoint(self, container: str, options: AnyMessage | None = None) -> list[Descriptor]:
        record = await self._metadata.containers.get(container)
        task = await self._runtime.get(container)
        path = image_path(options)
        if path:
            # The client wants plain files there, and no content.
            await task.checkpoint(path, options)
            return []
        if record.spec is None:
            raise FailedPrecondition(f'container "{container}": has no spec to store with its checkpoint')
        return await store(self._metadata.content, task, options, record.spec)

    def _spec(self, record: Container, namespace: str) -> AnyMessage:
        if record.spec is None:
            raise FailedPrecondition(f'container "{record.id}": has no spec; update it with one')
        hook = self._hooks.orlop_adjust_spec
        if not hook.get_hookimpls():
            return record.spec
        try:
            document = json.loads(record.spec.value)
        except ValueError as error:
            raise InvalidArgument(f'container "{record.id}": its spec is not JSON: {error}') from error
        try:
            hook(namespace=namespace, container=record.id, spec=document)
        except OrlopError:
            raise
        # Hooks are anybody's code, and raising is how they refuse a spec.
        except Exception as error:
            raise FailedPrecondition(f'container "{record.id}": a plugin refused its spec: {error}') from error
        return AnyMessage(record.spec.type_url, json.dumps(document).encode())

    async def _shim(self, record: Container, options: TaskOptions) -> ShimAddress | None:
        """The shim that the task goes into, where one runs already: the client's choice, or that of its sandbox."""
        if options.address:
            return from_endpoint(options.address, options.version)
        if record.sandbox in ("", record.id):
            return None
        try:
            sandbox = await self._metadata.sandboxes.get(record.sandbox)
        except NotFound as error:
            raise NotFound(f'container "{record.id}": its sandbox "{record.sandbox}" does not exist') from error
        controller = self._places.controllers.get(sandbox.sandboxer)
        if controller is None:
            there = ", ".join(sorted(self._places.controllers)) or "none"
            raise FailedPrecondition(
                f'container "{record.id}": the controller "{sandbox.sandboxer}" of its sandbox does not work '
                f"(there are: {there}); enable it"
            )
        status = await controller.status(sandbox.id)
        if status.state == "SANDBOX_NOTREADY":
            raise FailedPrecondition(f'container "{record.id}": its sandbox "{sandbox.id}" does not run; start it')
        # Without an address the runtime finds the shim by the annotations of the spec.
        return from_endpoint(status.address, status.version) if status.address else None

    async def _rootfs(self, record: Container) -> Sequence[Mount]:
        if not record.snapshotter or not record.snapshot_key:
            return ()
        snapshotter = self._metadata.snapshotters.get(record.snapshotter)
        if snapshotter is None:
            there = ", ".join(sorted(self._metadata.snapshotters)) or "none"
            raise FailedPrecondition(
                f'container "{record.id}": its snapshotter "{record.snapshotter}" does not work (there are: {there}); '
                "enable it"
            )
        return await snapshotter.mounts(record.snapshot_key)

    async def _restore(self, checkpoint: Descriptor, namespace: str, container: str) -> str:
        with suppress(NotFound):
            await self._runtime.get(container)
            # Its own images, which it may still need, are in the place for ours.
            raise AlreadyExists(f'task "{container}": already exists')
        for old in await run_blocking(self._restores.directories):
            with context.scope(namespace=old[0]):
                try:
                    await self._runtime.get(old[1])
                except NotFound:
                    await run_blocking(self._restores.remove, *old)
        return await self._restores.extract(self._metadata.content, checkpoint, namespace, container)


def _runtime_name(record: Container, options: TaskOptions) -> str:
    path = options.runtime_path
    if path and not os.path.isabs(path):
        raise InvalidArgument(f'container "{record.id}": runtime path "{path}" must be absolute')
    return path or record.runtime.name


def _runtime_options(record: Container, options: TaskOptions) -> AnyMessage | None:
    chosen = options.options or record.runtime.options
    if chosen is None or not record.runtime.name.startswith(_RUNC) or options.runtime_path:
        return chosen
    kind = chosen.type_url.rpartition("/")[2]
    if kind != _RUNC_OPTIONS:
        raise InvalidArgument(
            f'container "{record.id}": options of type "{kind}" for runtime {record.runtime.name}; use {_RUNC_OPTIONS}'
        )
    return chosen


_: type[Tasks] = TaskService
