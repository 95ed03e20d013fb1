# SPDX-License-Identifier: Apache-2.0
"""Subcommands that run a process and stay with it: ``run`` and ``exec``."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Self

from orlop.blocking import run_blocking
from orlop.errors import AlreadyExists, FailedPrecondition, NotFound
from orlop.interfaces.introspection import CommandPlugin, command
from orlop.plugin import InitContext
from orlop.values import Image, TaskStatus
from orlop_cli.commands import networks, run_options
from orlop_cli.commands.containers import EXIT_LABEL, LOG_LABEL, LOGS, not_running
from orlop_cli.commands.images import find
from orlop_cli.console import Console, Usage
from orlop_sdk.client.client import Client
from orlop_sdk.client.container import Container, Process, Task
from orlop_sdk.client.stdio import Streams, inherit, log, null, terminal
from orlop_sdk.linux.cni import Network
from orlop_sdk.registry.reference import normalise

#: With a terminal the container's own one makes signals of keys, so that these come from elsewhere or not at all.
_WITH_TERMINAL: Final = (signal.SIGTERM, signal.SIGHUP)
_WITHOUT: Final = (*_WITH_TERMINAL, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


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
        add("--log-uri", help="where output goes: file:///path, binary:///path, or a log driver's; with --detach")
        add("--pull", choices=("missing", "always", "never"), default="missing", help="when to fetch the image")
        add("--pid-file", metavar="FILE", help="write its pid there")
        run_options.configure(parser)
        add("image", nargs="?", default="")
        add("args", nargs=argparse.REMAINDER, metavar="COMMAND ...").required = False

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        if arguments.detach and (arguments.tty or arguments.interactive):
            raise Usage("run: --detach does not go with --tty or --interactive; leave one out")
        if arguments.detach and arguments.rm:
            raise Usage("run: --detach does not go with --rm: nobody would be there to remove it; leave one out")
        if arguments.log_uri and not arguments.detach:
            raise Usage("run: --log-uri goes with --detach; add it")
        run_options.check(arguments)
        return console.run(_run(arguments, console))


async def _run(arguments: argparse.Namespace, console: Console) -> int:
    streams = None if arguments.detach else _run_streams(arguments)
    options = run_options.spec_options(arguments, streams.size if streams else (0, 0))
    network = await networks.load() if arguments.network == "cni" else None
    name = arguments.name or f"{re.split('[:@]', Path(arguments.image).name)[0] or 'spec'}-{uuid.uuid4().hex[:8]}"
    async with console.client() as client:
        image = "" if arguments.rootfs or arguments.config else (await _image(client, arguments, console)).name
        uri = "" if arguments.null_io else arguments.log_uri or f"file://{LOGS}/{client.namespace}/{name}.log"
        labels = {LOG_LABEL: uri} if arguments.detach and uri else {}
        labels |= {networks.NETWORK_LABEL: network.name} if network else {}
        settings = run_options.settings(arguments, labels)
        try:
            container = await client.create_container(name, image, *options, args=arguments.args, settings=settings)
        except AlreadyExists as error:
            raise AlreadyExists(
                f'container "{name}": there is one; orlop rm {name} removes it, or choose another --name'
            ) from error
        if streams is None:
            task = await _started(client, container, log(uri) if uri else null(), arguments, network)
            console.result(name, {"id": name, "pid": task.pid, "log": uri})
            return 0
        with _Forwarding(_WITH_TERMINAL if arguments.tty else _WITHOUT) as forwarding:
            task = await _started(client, container, streams, arguments, network)
            async with AsyncExitStack() as stack:
                if arguments.rm:
                    stack.push_async_callback(networks.detach, container, client.namespace)
                    stack.push_async_exit(container)
                status = await forwarding.attend(task)
                if not arguments.rm:
                    await networks.detach(container, client.namespace)
                    await container.set_labels({EXIT_LABEL: str(status)})
                return status


async def _image(client: Client, arguments: argparse.Namespace, console: Console) -> Image:
    """The image to run, fetched if it has to be."""
    if arguments.pull != "always":
        try:
            return await find(client, arguments.image)
        except NotFound:
            if arguments.pull == "never":
                raise
            console.remark(f'image "{arguments.image}": not here, fetching it')
    with console.progress() as progress:
        return await client.pull(
            normalise(arguments.image),
            arguments.platform or None,
            snapshotter=arguments.snapshotter or None,
            progress=progress.show,
        )


async def _started(
    client: Client, container: Container, streams: Streams, arguments: argparse.Namespace, network: Network | None
) -> Task:
    """Create and start the task; when that fails the container is removed again."""
    try:
        task = await container.create_task(streams)
        try:
            if arguments.pid_file:
                await run_blocking(_write_pid, arguments.pid_file, task.pid)
            if network:
                await networks.attach(network, client.namespace, task)
            await task.start()
        except BaseException:
            await task.delete(kill=True)
            await networks.detach(container, client.namespace)
            raise
    except BaseException:
        await container.delete()
        raise
    return task


def _write_pid(path: str, pid: int) -> None:
    """Whole or not at all, for whoever waits for the file."""
    new = f"{path}.{os.getpid()}"
    try:
        Path(new).write_text(str(pid))
        os.replace(new, path)
    except OSError as error:
        Path(new).unlink(missing_ok=True)
        raise FailedPrecondition(f'--pid-file "{path}": cannot be written: {error.strerror}') from error


class _Forwarding:
    """Passes signals of this process on to another one; those that come before there is one wait for it."""

    def __init__(self, numbers: Sequence[signal.Signals]) -> None:
        self._numbers = numbers
        self._loop = asyncio.get_running_loop()
        self._process: Process | None = None
        self._waiting: list[int] = []
        self._jobs: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        for number in self._numbers:
            self._loop.add_signal_handler(number, self._arrived, number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._numbers:
            self._loop.remove_signal_handler(number)

    async def attend(self, process: Process) -> int:
        """Stay with a process that was started until it ends, and return its status."""
        self._process = process
        for number in self._waiting:
            self._arrived(number)
        try:
            await process.wait()
            return int((await process.delete()).status)
        except BaseException:
            # Whatever happened to the daemon or to us, the terminal must be as it was before.
            await process.streams.close()
            raise

    def _arrived(self, number: int) -> None:
        if self._process is None:
            self._waiting.append(number)
            return
        job = self._loop.create_task(_send(self._process, number))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)


async def _send(process: Process, number: int) -> None:
    try:
        await process.kill(number)
    except (NotFound, FailedPrecondition):
        return  # it has ended meanwhile, which is what was wanted


def _streams(arguments: argparse.Namespace, directory: str = "") -> Streams:
    if arguments.tty and not os.isatty(0):
        raise FailedPrecondition("--tty: standard input is no terminal; leave --tty out, or call from a terminal")
    return terminal(directory=directory) if arguments.tty else inherit(stdin=arguments.interactive, directory=directory)


def _run_streams(arguments: argparse.Namespace) -> Streams:
    if arguments.null_io:
        return null()
    return _streams(arguments, arguments.fifo_dir)


class ExecCommand:
    """``exec``."""

    @property
    def summary(self) -> str:
        return "run another command in a running container"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal: this one")
        parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
        parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]")
        parser.add_argument("-w", "--workdir", help="directory to start in")
        parser.add_argument("container")
        parser.add_argument("args", nargs=argparse.REMAINDER, metavar="COMMAND ...").required = False

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        if not arguments.args:
            raise Usage("exec: no command; write orlop exec CONTAINER COMMAND ...")
        return console.run(self._exec(arguments, console))

    async def _exec(self, arguments: argparse.Namespace, console: Console) -> int:
        async with console.client() as client:
            container = await client.container(arguments.container)
            description = container.process_of(*arguments.args)
            description["terminal"] = arguments.tty
            if arguments.workdir:
                description["cwd"] = arguments.workdir
            changed = run_options.environment(arguments.env)
            kept = [each for each in description.get("env", []) if each.partition("=")[0] not in changed]
            description["env"] = kept + [f"{name}={value}" for name, value in changed.items()]
            streams = _streams(arguments)
            process = await (await _running(container)).exec(f"exec-{uuid.uuid4().hex[:12]}", description, streams)
            with _Forwarding(_WITH_TERMINAL if arguments.tty else _WITHOUT) as forwarding:
                try:
                    await process.start()
                except BaseException:
                    await process.delete()
                    raise
                return await forwarding.attend(process)


async def _running(container: Container) -> Task:
    try:
        task = await container.task()
        if (await task.state()).status is TaskStatus.RUNNING:
            return task
    except NotFound as error:
        raise not_running(container.id) from error
    raise not_running(container.id)


@command("run")
async def run(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop run``."""
    return RunCommand()


@command("exec")
async def exec_(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop exec``."""
    return ExecCommand()
