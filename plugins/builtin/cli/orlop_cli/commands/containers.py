# SPDX-License-Identifier: Apache-2.0
"""Subcommands about containers that are there: ``ps``, ``stop``, ``kill``, ``rm``."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from orlop.blocking import run_blocking
from orlop.errors import FailedPrecondition, NotFound, OrlopError, Unavailable
from orlop.interfaces.introspection import CommandPlugin, command
from orlop.plugin import InitContext
from orlop.values import Labels, ProcessState, TaskStatus
from orlop_cli.commands import networks
from orlop_cli.console import Console, Usage
from orlop_sdk.client.client import Client
from orlop_sdk.client.container import Container
from orlop_sdk.registry.reference import familiar

#: Where ``logs`` finds what a detached container wrote.
LOG_LABEL: Final = "orlop.io/log-uri"
#: How an attended container ended, whose task is gone.
EXIT_LABEL: Final = "orlop.io/exit-status"
LOGS: Final = Path("/var/log/orlop")
_STOP_SIGNAL: Final = "io.containerd.image.config.stop-signal"


class PsCommand:
    """``ps``."""

    @property
    def summary(self) -> str:
        return "list containers"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-a", "--all", action="store_true", help="those that do not run, too")
        parser.add_argument("-q", "--quiet", action="store_true", help="print ids only")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        rows = console.run(self._rows(console, arguments.all))
        columns = ("id", "image", "status", "pid", "created")
        console.table(rows, columns, "id" if arguments.quiet else "", _shown)
        return 0

    async def _rows(self, console: Console, everything: bool) -> list[dict[str, Any]]:
        async with console.client() as client:
            with client.scope():
                containers, states = await asyncio.gather(client.containers.list(), client.tasks.states())
        known = {state.id: state for state in states}
        rows = [
            {
                "id": container.id,
                "image": familiar(container.image),
                "runtime": container.runtime.name,
                "labels": dict(container.labels),
                "created": container.created_at,
                **_process(known.get(container.id), container.labels),
            }
            for container in containers
        ]
        return [row for row in rows if everything or row["status"] not in ("stopped", "no task")]


def _process(state: ProcessState | None, labels: Labels) -> dict[str, Any]:
    if state is None:
        ended = labels.get(EXIT_LABEL, "")
        if ended.isdecimal():
            return {"status": str(TaskStatus.STOPPED), "pid": None, "exit_status": int(ended)}
        return {"status": "no task", "pid": None, "exit_status": None}
    stopped = state.status is TaskStatus.STOPPED
    return {
        "status": str(state.status),
        "pid": None if stopped else state.pid,
        "exit_status": state.exit_status if stopped else None,
    }


def _shown(row: Mapping[str, Any]) -> Mapping[str, Any]:
    exit_status = row["exit_status"]
    return row if exit_status is None else {**row, "status": f"{row['status']} ({exit_status})"}


def not_running(id: str) -> FailedPrecondition:
    """What to raise where a running container is needed."""
    return FailedPrecondition(f'container "{id}": does not run; orlop ps lists those that do')


class StopCommand:
    """``stop``."""

    @property
    def summary(self) -> str:
        return "ask containers to end, and make them after a while"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "-t", "--time", "--timeout", type=float, default=10, metavar="SECONDS", help="patience (10)"
        )
        parser.add_argument("-s", "--signal", help="what to ask with; the image's, or TERM")
        parser.add_argument("containers", nargs="+", metavar="CONTAINER")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        return console.run(_each(console, arguments.containers, lambda client, id: self._stop(client, id, arguments)))

    async def _stop(self, client: Client, id: str, arguments: argparse.Namespace) -> None:
        container = await client.container(id)
        name = arguments.signal or container.record.labels.get(_STOP_SIGNAL, "SIGTERM")
        number = signal_number(name)
        try:
            task = await container.task()
            await task.kill(number)
        except NotFound:
            return  # it has ended already, which is what was wanted
        try:
            async with asyncio.timeout(arguments.time):
                await task.wait()
        except TimeoutError:
            await _kill_all(task)


async def _kill_all(task: Any) -> None:
    try:
        await task.kill(signal.SIGKILL, everyone=True)
    except NotFound:
        return  # it ended at the last moment
    await task.wait()


class KillCommand:
    """``kill``."""

    @property
    def summary(self) -> str:
        return "send a signal to containers"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-s", "--signal", default="KILL", help="name or number (KILL)")
        parser.add_argument("containers", nargs="+", metavar="CONTAINER")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        number = signal_number(arguments.signal)

        async def kill(client: Client, id: str) -> None:
            container = await client.container(id)
            try:
                await (await container.task()).kill(number)
            except NotFound as error:
                raise not_running(id) from error

        return console.run(_each(console, arguments.containers, kill))


class RemoveCommand:
    """``rm``."""

    @property
    def summary(self) -> str:
        return "remove containers with their snapshots"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-f", "--force", action="store_true", help="kill those that run")
        parser.add_argument("containers", nargs="+", metavar="CONTAINER")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        async def remove(client: Client, id: str) -> None:
            container = await client.container(id)
            uri = container.record.labels.get(LOG_LABEL, "")
            await _end_task(container, arguments.force)
            await networks.detach(container, client.namespace)
            await container.delete()
            if uri.startswith(f"file://{LOGS}/"):
                await run_blocking(Path(uri.removeprefix("file://")).unlink, missing_ok=True)

        return console.run(_each(console, arguments.containers, remove))


async def _end_task(container: Container, force: bool) -> None:
    try:
        task = await container.task()
        running = (await task.state()).status not in (TaskStatus.STOPPED, TaskStatus.CREATED)
    except NotFound:
        return
    if running and not force:
        raise FailedPrecondition(
            f'container "{container.id}": it runs; orlop stop {container.id} first, or use --force'
        )
    await task.delete(kill=True)


async def _each(console: Console, ids: Sequence[str], action: Callable[[Client, str], Awaitable[None]]) -> int:
    """Do something to each container, going on after failures, and print those that it was done to."""
    done = []
    async with console.client() as client:
        for id in ids:
            try:
                await action(client, id)
            except Unavailable:
                raise  # the others would fail in the same way
            except OrlopError as error:
                console.remark(f"orlop: {error}")
            else:
                done.append(id)
                if console.format != "json":
                    print(id)
    if console.format == "json":
        console.json(done)
    return 0 if len(done) == len(ids) else 1


def signal_number(name: str) -> int:
    """A signal by number, or by name with or without ``SIG``. Raises `Usage`."""
    if name.isdigit() and 0 < int(name) < signal.NSIG:
        return int(name)
    try:
        return signal.Signals["SIG" + name.upper().removeprefix("SIG")]
    except KeyError:
        raise Usage(f'signal "{name}": unknown; write for example TERM or 15') from None


@command("ps")
async def ps(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop ps``."""
    return PsCommand()


@command("stop")
async def stop(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop stop``."""
    return StopCommand()


@command("kill")
async def kill(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop kill``."""
    return KillCommand()


@command("rm")
async def rm(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop rm``."""
    return RemoveCommand()
