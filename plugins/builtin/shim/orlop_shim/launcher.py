# SPDX-License-Identifier: Apache-2.0
"""The launcher of Orlop's own shim: keeps a zygote in reserve, and has it fork a shim for each container or group.

**When to choose it**: for runc, crun and other OCI runtimes with their command line. A shim costs about a millisecond
and a megabyte. **Host needs**: an OCI runtime, root.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from orlop.blocking import Pool
from orlop.errors import DeadlineExceeded, Unavailable
from orlop.interfaces.runtime import RuntimeInformer, ShimAddress, ShimKeeper, ShimLauncher, ShimRequest
from orlop.values import AnyMessage, Exit, now
from orlop_sdk.serving.shim_log import ShimLogs, open_log_blocking
from orlop_shim import runc_options
from orlop_shim.files import write
from orlop_shim.info import NAME, describe
from orlop_shim.messages import ANY, DELETED
from orlop_shim.reserve import Reserve
from orlop_shim.shim import NAME as SHIM_NAME
from orlop_shim.start import Request
from orlop_shim.wire import WireError

_THREADS: Final = 8
_API_VERSION: Final = 3
_BINARY_FILE: Final = "shim-binary-path"


@dataclass(frozen=True)
class LauncherSettings:
    """What shims are told about the daemon."""

    runtimes: Sequence[str] = (NAME,)
    """Names of the runtimes that are ours."""
    ttrpc_address: str = ""
    """Socket that shims send events to."""
    grpc_address: str = ""
    """The daemon's own socket. Shims make the names of their sockets from it."""
    socket_dir: str = ""
    """Where shims put their sockets; empty for the usual place."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """More environment variables."""
    cleanup_timeout: float = 5.0
    """Seconds for `OrlopLauncher.clean`; 0 means none."""
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("orlop.shim.orlop"))


class OrlopLauncher:
    """Launches Orlop's shim. See `orlop.interfaces.runtime.ShimLauncher`."""

    def __init__(self, settings: LauncherSettings) -> None:
        self._settings = settings
        self._log = settings.log
        self._pool = Pool("orlop-zygote", _THREADS)
        self._logs = ShimLogs()
        self._environment = {**os.environ, **settings.environment}
        self._reserve = Reserve(self._environment, settings.log)
        self._warming: asyncio.Task[None] | None = None

    def warm_up(self) -> None:
        """Start the zygote now and in the background, so that the first container need not wait for it."""
        self._warming = asyncio.create_task(self._warm_up())

    def claims(self, runtime: str) -> bool:
        return runtime in self._settings.runtimes

    async def launch(self, request: ShimRequest) -> ShimAddress:
        self._logs.watch(request.bundle, await self._pool.run(_prepare_blocking, request.bundle))
        try:
            address = await self._reserve.fork(self._request(request))
        except BaseException:
            self._logs.close(request.bundle)
            raise
        return ShimAddress(address, _API_VERSION)

    async def clean(self, request: ShimRequest) -> Exit:
        try:
            return await self._pool.run(self._clean, request)
        finally:
            self._logs.close(request.bundle)

    async def attach(self, request: ShimRequest) -> None:
        """Read the log of a shim that was there before the daemon."""
        self._logs.watch(request.bundle, await self._pool.run(open_log_blocking, request.bundle))

    async def release(self, request: ShimRequest) -> None:
        """Read the log of a shim no more."""
        self._logs.close(request.bundle)

    async def info(self, runtime: str, options: AnyMessage | None = None) -> bytes:
        given = b"" if options is None else ANY.encode(type_url=options.type_url, value=options.value)
        return await self._pool.run(describe, given)

    async def close(self) -> None:
        """Let go of the zygote, logs and threads; shims live on. May be called twice."""
        if self._warming is not None:
            await self._warming
        await self._reserve.close()
        self._logs.close_all()
        self._pool.close()

    async def _warm_up(self) -> None:
        try:
            await self._reserve.start()
        except Unavailable as error:
            # Whoever wants a shim tries again, and gets the reason.
            self._log.warning("%s", error)

    def _request(self, request: ShimRequest) -> Request:
        given = request.options
        options = runc_options.read(None if given is None else {"type_url": given.type_url, "value": given.value})
        return Request(
            id=request.id,
            namespace=request.namespace,
            bundle=str(request.bundle),
            grpc_address=self._settings.grpc_address.removeprefix("unix://"),
            ttrpc_address=self._settings.ttrpc_address.removeprefix("unix://"),
            socket_dir=self._settings.socket_dir,
            debug=self._log.isEnabledFor(logging.DEBUG),
            shim_cgroup=options["shim_cgroup"],
        )

    def _clean(self, request: ShimRequest) -> Exit:
        flags = ["-namespace", request.namespace, "-id", request.id, "-bundle", str(request.bundle)]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "orlop_shim.command", *flags, "delete"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self._environment,
                process_group=0,
                timeout=self._settings.cleanup_timeout or None,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DeadlineExceeded(
                f'clean-up after the shim of "{request.id}": took longer than {error.timeout:g} seconds'
            ) from error
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip()
            raise Unavailable(f'clean-up after the shim of "{request.id}": {words or "failed without a word"}')
        try:
            answer = DELETED.decode(done.stdout)
        except WireError as error:
            raise Unavailable(f'clean-up after the shim of "{request.id}": answered what is no exit') from error
        return Exit(answer["exit_status"], now(), answer["pid"])


def _prepare_blocking(bundle: Path) -> int:
    """Leave the path of the shim's binary, for a daemon that cleans up without this launcher, and open its log."""
    binary = Path(sys.executable).parent / SHIM_NAME
    if binary.is_file():
        # Whole or not at all, since a daemon may die at any time.
        new = bundle / f".{_BINARY_FILE}.new"
        write(str(new), str(binary).encode())
        new.rename(bundle / _BINARY_FILE)
    return open_log_blocking(bundle)


_: type[ShimLauncher] = OrlopLauncher
_keeper: type[ShimKeeper] = OrlopLauncher
_informer: type[RuntimeInformer] = OrlopLauncher
