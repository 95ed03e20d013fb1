# SPDX-License-Identifier: Apache-2.0
"""Subcommands about containers: ``run``, ``ps``, ``exec``, ``stop``, ``kill``, ``rm``."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from orlop.blocking import run_blocking
from orlop.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError
from orlop.interfaces.introspection import CommandPlugin, command
from orlop.plugin import InitContext
from orlop.values import Mount, ProcessState, TaskStatus
from orlop_cli.commands.images import find
from orlop_cli.console import Console
from orlop_sdk import oci
from orlop_sdk.client import Client, ContainerSettings, Task
from orlop_sdk.client.stdio import Streams, inherit, log, terminal
from orlop_sdk.registry.reference import familiar

#: Where ``logs`` finds what a detached container wrote.
LOG_LABEL: Final = "orlop.io/log-uri"
_LOGS: Final = Path("/var/log/orlop")
_STOP_SIGNAL: Final = "io.containerd.image.config.stop-signal"
_SIZES: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class RunCommand:
    """``run``."""

    @property
    def summary(self) -> str:
        return "run a command in a new container"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("-d", "--detach", action="store_true", help="do not wait for it; orlop logs shows what it writes")
        add("-t", "--tty", action="store_true", help="give it a terminal: this one")
        add("-i", "--interactive", action="store_true", help="pass standard input on")
        add("--rm", action="store_true", help="remove the container when it has ended")
        add("--name", default="", help="the container's id; made up if not given")
        add("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
        add("-v", "--volume", action="append", default=[], metavar="SOURCE:TARGET[:ro]", help="bind mount")
        add("-u", "--user", help="NAME or UID, with :GROUP if need be")
        add("-w", "--workdir", help="directory to start in")
        add("-l", "--label", action="append", default=[], metavar="NAME=VALUE")
        add("-m", "--memory", metavar="SIZE", help="limit, such as 512m")
        add("--cpus", type=float, help="limit, such as 1.5")
        add("--hostname")
        add("--read-only", action="store_true", help="make the root file system read-only")
        add(
            "--net-host",
            action="store_true",
            help="share the host's network; a container has none of its own otherwise",
        )
        add("--privileged", action="store_true", help="allow nearly everything that root may do on the host")
        add("--device", action="append", default=[], metavar="PATH")
        add("--cap-add", action="append", default=[], metavar="CAPABILITY")
        add("--cap-drop", action="append", default=[], metavar="CAPABILITY")
        add(
            "--log-uri", help="where output goes: file:///path, binary:///path, or a log driver's scheme; with --detach"
        )
        add("--runtime", default="", help="such as io.containerd.runc.v2, or the path of a shim")
        add("--snapshotter", default="")
        add("image")
        add("args", nargs=argparse.REMAINDER, metavar="COMMAND ...")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        if arguments.detach and (arguments.tty or arguments.interactive):
            raise InvalidArgument("run: --detach does not go with --tty or --interactive; leave one out")
        if arguments.log_uri and not arguments.detach:
            raise InvalidArgument("run: --log-uri goes with --detach; add it")
        return console.run(_run(arguments, console))


async def _run(arguments: argparse.Namespace, console: Console) -> int:
    name = arguments.name or f"{Path(arguments.image).name.partition(':')[0]}-{uuid.uuid4().hex[:8]}"
    async with console.client() as client:
        image = await find(client, arguments.image)
        uri = arguments.log_uri or f"file://{_LOGS}/{client.namespace}/{name}.log"
        settings = ContainerSettings(
            runtime=arguments.runtime,
            snapshotter=arguments.snapshotter,
            labels=_pairs(arguments.label, "label") | ({LOG_LABEL: uri} if arguments.detach else {}),
        )
        options = _spec_options(arguments)
        container = await client.create_container(name, image.name, *options, args=arguments.args, settings=settings)
        if arguments.detach:
            task = await _started(container, log(uri))
            pid = (await task.state()).pid
            console.result(name, {"id": name, "pid": pid, "log": uri})
            return 0
        try:
            task = await _started(container, _streams(arguments))
            return await _attended(task, forward=not arguments.tty)
        finally:
            if arguments.rm:
                await container.delete()


async def _started(container: Any, streams: Streams) -> Task:
    """Create and start the task; when that fails the container is removed again."""
    try:
        task: Task = await container.create_task(streams)
        try:
            await task.start()
        except BaseException:
            await task.delete(kill=True)
            raise
    except BaseException:
        await container.delete()
        raise
    return task


async def _attended(process: Any, *, forward: bool) -> int:
    """Wait for a process, passing signals of this one on, and return its status."""
    loop = asyncio.get_running_loop()
    jobs: set[asyncio.Task[None]] = set()

    async def send(number: int) -> None:
        try:
            await process.kill(number)
        except NotFound:
            return  # it has ended meanwhile, which is what was wanted

    def arrived(number: int) -> None:
        job = loop.create_task(send(number))
        jobs.add(job)
        job.add_done_callback(jobs.discard)

    passed_on = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT) if forward else (signal.SIGTERM,)
    for number in passed_on:
        loop.add_signal_handler(number, arrived, number)
    try:
        await process.wait()
    finally:
        for number in passed_on:
            loop.remove_signal_handler(number)
    return int((await process.delete()).status)


def _streams(arguments: argparse.Namespace) -> Streams:
    return terminal() if arguments.tty else inherit(stdin=arguments.interactive)


def _spec_options(arguments: argparse.Namespace) -> list[oci.Option]:
    wanted: list[tuple[Any, oci.Option | None]] = [
        (arguments.privileged, oci.with_privileged()),
        (arguments.tty, oci.with_tty()),
        (arguments.env, oci.with_env(_pairs(arguments.env, "env"))),
        (arguments.volume, oci.with_mounts(*map(_volume, arguments.volume))),
        (arguments.user, oci.with_user(arguments.user or "")),
        (arguments.workdir, oci.with_cwd(arguments.workdir or "/")),
        (arguments.hostname, oci.with_hostname(arguments.hostname or "")),
        (arguments.read_only, oci.with_read_only_rootfs()),
        (arguments.net_host, oci.with_host_network()),
        (arguments.device, oci.with_devices(*arguments.device) if arguments.device else None),
        (
            arguments.cap_add or arguments.cap_drop,
            oci.with_capabilities(add=arguments.cap_add, drop=arguments.cap_drop),
        ),
        (arguments.memory, oci.with_memory_limit(_bytes(arguments.memory)) if arguments.memory else None),
        (arguments.cpus, oci.with_cpus(arguments.cpus) if arguments.cpus else None),
    ]
    return [option for given, option in wanted if given and option is not None]


def _pairs(words: Sequence[str], what: str) -> dict[str, str]:
    pairs = dict(word.partition("=")[::2] for word in words)
    if "" in pairs:
        raise InvalidArgument(f"--{what}: empty name; write NAME=VALUE")
    return pairs


def _volume(text: str) -> Mount:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source.startswith("/") or not target.startswith("/") or mode not in ("", "ro", "rw"):
        raise InvalidArgument(f'--volume "{text}": write /host/path:/container/path, with :ro to make it read-only')
    if not Path(source).exists():
        raise NotFound(f'--volume "{text}": {source} does not exist on this host; create it first')
    return Mount("bind", source, target, ("rbind", mode or "rw"))


def _bytes(text: str) -> int:
    number, unit = text.rstrip("bkmgtBKMGT"), text.lower()[len(text.rstrip("bkmgtBKMGT")) :]
    if unit not in _SIZES or not number.isdigit():
        raise InvalidArgument(f'--memory "{text}": write a number with k, m or g, such as 512m')
    return int(number) * _SIZES[unit]


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
        console.table(rows, ("id", "image", "status", "pid", "created"), "id" if arguments.quiet else "")
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
                **_process(known.get(container.id)),
            }
            for container in containers
        ]
        return [row for row in rows if everything or row["status"] not in ("stopped", "no task")]


def _process(state: ProcessState | None) -> dict[str, Any]:
    if state is None:
        return {"status": "no task", "pid": None, "exit_status": None}
    ended = state.status is TaskStatus.STOPPED
    return {
        "status": str(state.status),
        "pid": None if ended else state.pid,
        "exit_status": state.exit_status if ended else None,
    }


class ExecCommand:
    """``exec``."""

    @property
    def summary(self) -> str:
        return "run another command in a running container"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal: this one")
        parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
        parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
        parser.add_argument("-w", "--workdir", help="directory to start in")
        parser.add_argument("container")
        parser.add_argument("args", nargs=argparse.REMAINDER, metavar="COMMAND ...")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        if not arguments.args:
            raise InvalidArgument("exec: no command; write orlop exec CONTAINER COMMAND ...")
        return console.run(self._exec(arguments, console))

    async def _exec(self, arguments: argparse.Namespace, console: Console) -> int:
        async with console.client() as client:
            container = await client.container(arguments.container)
            description = container.process_of(*arguments.args)
            description["terminal"] = arguments.tty
            if arguments.workdir:
                description["cwd"] = arguments.workdir
            changed = _pairs(arguments.env, "env")
            kept = [each for each in description.get("env", []) if each.partition("=")[0] not in changed]
            description["env"] = kept + [f"{name}={value}" for name, value in changed.items()]
            task = await container.task()
            process = await task.exec(f"exec-{uuid.uuid4().hex[:12]}", description, _streams(arguments))
            try:
                await process.start()
            except BaseException:
                await process.delete()
                raise
            return await _attended(process, forward=not arguments.tty)


class StopCommand:
    """``stop``."""

    @property
    def summary(self) -> str:
        return "ask containers to end, and make them after a while"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-t", "--time", type=float, default=10, metavar="SECONDS", help="patience (10)")
        parser.add_argument("-s", "--signal", help="what to ask with; the image's, or TERM")
        parser.add_argument("containers", nargs="+", metavar="CONTAINER")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        return console.run(_each(console, arguments.containers, lambda client, id: self._stop(client, id, arguments)))

    async def _stop(self, client: Client, id: str, arguments: argparse.Namespace) -> None:
        container = await client.container(id)
        task = await container.task()
        name = arguments.signal or (await container.refresh()).labels.get(_STOP_SIGNAL, "SIGTERM")
        try:
            await task.kill(signal_number(name))
            async with asyncio.timeout(arguments.time):
                await task.wait()
        except TimeoutError:
            await task.kill(signal.SIGKILL, everyone=True)
            await task.wait()
        except NotFound:
            return  # it had ended already


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
            await (await (await client.container(id)).task()).kill(number)

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
            uri = (await container.refresh()).labels.get(LOG_LABEL, "")
            await _end_task(container, id, arguments.force)
            await container.delete()
            if uri.startswith(f"file://{_LOGS}/"):
                await run_blocking(Path(uri.removeprefix("file://")).unlink, missing_ok=True)

        return console.run(_each(console, arguments.containers, remove))


async def _end_task(container: Any, id: str, force: bool) -> None:
    try:
        task = await container.task()
        running = (await task.state()).status not in (TaskStatus.STOPPED, TaskStatus.CREATED)
    except NotFound:
        return
    if running and not force:
        raise FailedPrecondition(f'container "{id}": it runs; orlop stop {id} first, or use --force')
    await task.delete(kill=True)


async def _each(console: Console, ids: Sequence[str], action: Any) -> int:
    """Do something to each container, going on after failures, and print those that it was done to."""
    status = 0
    async with console.client() as client:
        for id in ids:
            try:
                await action(client, id)
            except OrlopError as error:
                print(f"orlop: {error}", file=sys.stderr)
                status = 1
            else:
                console.result(id, id)
    return status


def signal_number(name: str) -> int:
    """A signal by number, or by name with or without ``SIG``. Raises `InvalidArgument`."""
    if name.isdigit() and 0 < int(name) < signal.NSIG:
        return int(name)
    try:
        return signal.Signals["SIG" + name.upper().removeprefix("SIG")]
    except KeyError:
        raise InvalidArgument(f'signal "{name}": unknown; write for example TERM or 15') from None


@command("run")
async def run(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop run``."""
    return RunCommand()


@command("ps")
async def ps(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop ps``."""
    return PsCommand()


@command("exec")
async def exec_(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop exec``."""
    return ExecCommand()


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
