# SPDX-License-Identifier: Apache-2.0
"""Restarts containers, and stops them, as their labels say. See `orlop_runtime.restart_policy` for the labels."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from orlop import context
from orlop.errors import NotFound, OrlopError
from orlop.interfaces.introspection import Part
from orlop.interfaces.metadata import MetadataStore
from orlop.interfaces.task import TaskOptions, Tasks
from orlop.values import Container, ProcessState, Stdio, TaskStatus
from orlop_runtime.restart_policy import COUNT, POLICY, STATUS, Policy, count, log_uri

log = logging.getLogger("orlop.restart")

_FILTER: Final = f'labels."{STATUS}"'
_RUNNING: Final = "running"
_STOPPED: Final = "stopped"


class RestartMonitor:
    """Looks at all containers that have the status label, every *interval* seconds, from `start` to `close`."""

    def __init__(self, metadata: MetadataStore, tasks: Tasks, interval: float) -> None:
        self._metadata = metadata
        self._tasks = tasks
        self._interval = interval
        self._loop: asyncio.Task[None] | None = None
        self._changes: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Begin, with a look at once: what ended while the daemon was away runs again soon."""
        self._loop = asyncio.create_task(self._run(), name="restart-monitor")

    async def close(self) -> None:
        """End. A change in progress comes to its end, unless it waits for a process to do so."""
        tasks = [*self._changes.values(), *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def reconcile(self) -> None:
        """Look once, and begin what is to be done."""
        for namespace in await self._metadata.namespaces.list():
            with context.scope(namespace=namespace.name):
                try:
                    for container in await self._metadata.containers.list([_FILTER]):
                        self._begin(namespace.name, container)
                except NotFound:
                    continue  # the namespace went meanwhile

    async def _run(self) -> None:
        while True:
            try:
                await self.reconcile()
            except OrlopError as error:
                log.error("restarts: %s; tried again in %g seconds", error, self._interval)
            await asyncio.sleep(self._interval)

    def _begin(self, namespace: str, container: Container) -> None:
        # One that takes its time, or never ends, holds up nobody else.
        key = (namespace, container.id)
        if key not in self._changes:
            change = self._changes[key] = asyncio.create_task(self._change(namespace, container))
            change.add_done_callback(lambda _: self._changes.pop(key, None))

    async def _change(self, namespace: str, container: Container) -> None:
        try:
            await self._bring(container)
        except (OrlopError, OSError) as error:
            log.error('container "%s" in namespace "%s": not as its labels say: %s', container.id, namespace, error)

    async def _bring(self, container: Container) -> None:
        """Bring a container to what its labels say, if it is not there. Raises what the steps raise.

        One that is to run is left alone while it is created or paused: a client is about to start it, or froze it.
        """
        state = await self._state(container.id)
        wanted = container.labels[STATUS]
        if wanted == _STOPPED:
            if state is not None and state.status is not TaskStatus.STOPPED:
                await self._end(container.id, frozen=state.status is TaskStatus.PAUSED)
        elif wanted == _RUNNING and (state is None or state.status is TaskStatus.STOPPED):
            policy = Policy.parse(container.labels.get(POLICY, ""))
            if policy.wants(container.labels, 0 if state is None else state.exit_status):
                await self._start(container)

    async def _state(self, id: str) -> ProcessState | None:
        """The task's state; None when there is no task."""
        try:
            return await (await self._tasks.get(id)).state()
        except NotFound:
            return None

    async def _start(self, container: Container) -> None:
        labels = {COUNT: str(count(container.labels) + 1)}
        await self._metadata.containers.update(
            replace(container, labels={**container.labels, **labels}), [f"labels.{COUNT}"]
        )
        await self._end(container.id)
        uri = log_uri(container.labels)
        task = await self._tasks.create(
            container.id, TaskOptions(stdio=Stdio("", uri, uri, bool(uri) and _has_terminal(container)))
        )
        await task.start()
        log.info('container "%s": started again, time %s', container.id, labels[COUNT])

    async def _end(self, id: str, *, frozen: bool = False) -> None:
        """Kill and delete the task, if there is one."""
        with suppress(NotFound):
            task = await self._tasks.get(id)
            if frozen:
                # Nothing that is frozen dies.
                await task.resume()
            with suppress(NotFound):
                await task.kill(signal.SIGKILL, everyone=True)
            await task.wait()
            await task.delete()


def _has_terminal(container: Container) -> bool:
    try:
        spec: Any = json.loads(container.spec.value) if container.spec else {}
    except ValueError:
        return False
    return bool(spec.get("process", {}).get("terminal"))


_: type[Part] = RestartMonitor
