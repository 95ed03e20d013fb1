# SPDX-License-Identifier: Apache-2.0
"""The container of a proxy plugin: started with it, started again when it ends, and ended with it or with the daemon.

**Host needs**: an OCI runtime. **On disk**: a bundle in the state directory of the proxy's kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from orlop.blocking import run_blocking
from orlop.errors import InvalidArgument
from orlop_proxy.container import TREES, Box, InContainer, find_runtime, host_environment, share, unshare
from orlop_proxy.launch import search_path
from orlop_proxy.lines import forward
from orlop_proxy.plugins import PluginContainer
from orlop_proxy.supervisor import Patience
from orlop_sdk.linux.process import ended
from orlop_sdk.oci.default import DEFAULT_PATH

#: Most seconds to stop it in; its keeper kills it well before.
_STOP: Final = 30.0


class Contained:
    """One container, from `start` to `close`."""

    def __init__(self, name: str, socket: Path, box: Box, log: logging.Logger, shared: Sequence[Path] = ()) -> None:
        self._name = name
        self._socket = socket
        self._shared = shared
        self._launch = InContainer(box, stops=True)
        self._log = log
        self._patience = Patience()
        self._process: subprocess.Popen[bytes] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start it, and again whenever it ends. Does not wait for it."""
        self._task = asyncio.create_task(self._keep(), name=f"container of {self._name}")

    async def close(self) -> None:
        """End it, and wait until it has. May be called twice."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if self._process is not None:
            await self._end(self._process)
        await run_blocking(self._launch.close)
        for path in self._shared:
            await run_blocking(unshare, path)

    async def _end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()  # tells its keeper to stop it
        try:
            async with asyncio.timeout(_STOP):
                await ended(process)
        except TimeoutError:
            await run_blocking(self._launch.kill, process)
            await ended(process)

    async def _keep(self) -> None:
        for path in self._shared:
            await run_blocking(share, path)
        pause = self._patience.first
        while True:
            began = time.monotonic()
            try:
                how = await self._run()
            except OSError as error:
                how = f"does not start: {error}"
            if time.monotonic() - began > self._patience.stable:
                pause = self._patience.first
            self._log.error('proxy plugin "%s": its container %s; it is started again in %g s', self._name, how, pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._patience.most)

    async def _run(self) -> str:
        """Run it once, to its end; returns how it ended."""
        starting = asyncio.ensure_future(run_blocking(self._begin))
        try:
            process = self._process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._process = await starting  # the thread went on; `close` ends what it started
            raise
        assert process.stdin is not None
        async with asyncio.TaskGroup() as group:
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                group.create_task(forward(stream, self._say))
            status = await ended(process)
            await run_blocking(self._launch.close)  # without its keeper it would go on, and keep the pipes open
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        self._process = None
        return f"ended with status {status}"

    def _begin(self) -> subprocess.Popen[bytes]:
        # One that was killed left its socket, and few programs replace what is there.
        if self._socket.is_socket():
            self._socket.unlink()
        return self._launch.start()

    def _say(self, line: bytes) -> None:
        if line.strip():
            self._log.info('proxy plugin "%s": %s', self._name, line.decode(errors="replace"))


def contained(name: str, address: str, table: dict[str, Any], state: Path, log: logging.Logger) -> Contained:
    """The container that a proxy plugin's table describes. Raises `InvalidArgument`, `SkipPlugin`."""
    try:
        config = PluginContainer.model_validate(table)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise InvalidArgument(f"proxy_plugins.{name}.container: {faults}") from error
    if config.rootfs is not None and not config.rootfs.is_dir():
        raise InvalidArgument(f'proxy_plugins.{name}.container.rootfs: "{config.rootfs}" is no directory')
    environment = {"PATH": DEFAULT_PATH.partition("=")[2]}
    readonly = list(config.readonly)
    if config.rootfs is None:
        environment |= {"PYTHONPATH": search_path(), "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}
        readonly += host_environment(config.network)
    socket = Path(address.removeprefix("unix://"))
    box = Box(
        find_runtime(config.runtime),
        state / name,
        config.args,
        environment | dict(each.split("=", 1) for each in config.env),
        config.rootfs,
        writable=(socket.parent, *config.writable),
        readonly=readonly,
        devices=config.devices,
        capabilities=TREES,
        network=config.network,
        memory=config.memory,
    )
    return Contained(name, socket, box, log, config.writable if config.mounts else ())
