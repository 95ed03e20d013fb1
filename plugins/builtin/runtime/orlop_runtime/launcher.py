# SPDX-License-Identifier: Apache-2.0
"""The general launcher: starts any ``containerd-shim-*`` binary the way containerd does."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from orlop.blocking import Pool
from orlop.errors import DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from orlop.interfaces.runtime import RuntimeInformer, ShimAddress, ShimLauncher, ShimRequest
from orlop.values import AnyMessage, Exit
from orlop_runtime.bootstrap import options_input, parse_answer
from orlop_runtime.bundle import BINARY_FILE, write_atomically
from orlop_runtime.shim_binary import BinarySearch
from orlop_sdk.api.runtime.bootstrap.v1 import bootstrap_pb2
from orlop_sdk.api.runtime.task.v2.shim_pb2 import DeleteResponse
from orlop_sdk.convert.common import time_from_wire
from orlop_sdk.linux.open_files import at_former_limit
from orlop_sdk.serving.shim_log import ShimLogs, level_of, open_log_blocking

# Seconds: a shim that has not answered by then never will, and a thread waits for it.
_START_TIMEOUT: Final = 100.0
_INFO_TIMEOUT: Final = 10.0
_THREADS: Final = 16


@dataclass(frozen=True)
class LauncherSettings:
    """What shims are told about the daemon."""

    ttrpc_address: str = ""
    """Socket that shims send events to."""
    grpc_address: str = ""
    """The daemon's own socket. Shims make the names of their sockets from it."""
    publish_binary: str = ""
    """Absolute path of the daemon's binary; its folder is searched for shims, too."""
    environment: Sequence[str] = ()
    """More environment variables, each ``NAME=value``."""
    socket_dir: str = ""
    """Where shims that can be told put their sockets; empty for their own choice."""
    version: str = ""
    """The daemon's version."""
    cleanup_timeout: float = 5.0
    """Seconds for `ShimManager.clean`; 0 means none."""
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("orlop.shim.manager"))


class ShimManager:
    """Starts, cleans up after, and questions shim binaries. See `orlop.interfaces.runtime.ShimLauncher`."""

    def __init__(self, settings: LauncherSettings) -> None:
        self._settings = settings
        self._log = settings.log
        folders = [Path(settings.publish_binary).parent] if settings.publish_binary else []
        self._search = BinarySearch(folders)
        self._pool = Pool("orlop-shim", _THREADS)
        self._logs = ShimLogs()
        self._takes_params: dict[str, bool] = {}
        self._environment = {
            **os.environ,
            "GOMAXPROCS": "2",
            "MAX_SHIM_VERSION": "2",
            "TTRPC_ADDRESS": settings.ttrpc_address.removeprefix("unix://"),
            "GRPC_ADDRESS": settings.grpc_address.removeprefix("unix://"),
            **dict(_variable(text) for text in settings.environment),
        }

    def claims(self, runtime: str) -> bool:
        return True

    async def launch(self, request: ShimRequest) -> ShimAddress:
        fd = await self._pool.run(open_log_blocking, request.bundle)
        self._logs.watch(request.bundle, fd)
        try:
            return await self._pool.run(self._start, request)
        except BaseException:
            self._logs.close(request.bundle)
            raise

    async def clean(self, request: ShimRequest) -> Exit:
        try:
            return await self._pool.run(self._clean, request)
        finally:
            self._logs.close(request.bundle)

    async def attach(self, request: ShimRequest) -> None:
        """Read the log of a shim that was there before the daemon."""
        fd = await self._pool.run(open_log_blocking, request.bundle)
        self._logs.watch(request.bundle, fd)

    async def release(self, request: ShimRequest) -> None:
        """Read the log of a shim no more."""
        self._logs.close(request.bundle)

    async def info(self, runtime: str, options: AnyMessage | None = None) -> bytes:
        return await self._pool.run(self._info, runtime, options)

    async def close(self) -> None:
        """Let go of logs and threads; shims live on. May be called twice."""
        self._logs.close_all()
        self._pool.close()

    # What follows blocks.

    def _start(self, request: ShimRequest) -> ShimAddress:
        binary = self._search.find(request.runtime)
        # Before the shim runs, so that whoever finds a half-made bundle can clean up after it.
        write_atomically(request.bundle / BINARY_FILE, binary.encode(), 0o600)
        command = [binary, *self._flags(request), *self._debug(), "start"]
        done = self._run(command, self._start_input(binary, request), request, _START_TIMEOUT, stderr=subprocess.STDOUT)
        output = done.stdout
        if done.returncode != 0:
            raise Unavailable(
                f'shim of "{request.id}": {_words(output) or "no output"} '
                f"(status {done.returncode} of: {shlex.join(command)})"
            )
        return parse_answer(output)

    def _clean(self, request: ShimRequest) -> Exit:
        binary = self._search.find(request.runtime)
        command = [binary, *self._flags(request), "-bundle", str(request.bundle), *self._debug(), "delete"]
        done = self._run(command, b"", request, self._settings.cleanup_timeout or None, stderr=subprocess.PIPE)
        if done.returncode != 0:
            raise Unavailable(
                f'clean-up after the shim of "{request.id}": {_words(done.stderr) or "no output"} '
                f"(status {done.returncode} of: {shlex.join(command)})"
            )
        for line in done.stderr.splitlines():
            self._log.log(level_of(line), 'clean-up after the shim of "%s": %s', request.id, _words(line))
        try:
            answer = DeleteResponse.FromString(done.stdout)
        except DecodeError as error:
            raise Unavailable(f'clean-up after the shim of "{request.id}": answered what is no exit') from error
        return Exit(answer.exit_status, time_from_wire(answer.exited_at), answer.pid)

    def _info(self, runtime: str, options: AnyMessage | None) -> bytes:
        command = [self._search.find(runtime), "-info"]
        stdin = b"" if options is None else options_input(options)
        try:
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                env=self._environment,
                process_group=0,
                timeout=_INFO_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DeadlineExceeded(f'runtime "{runtime}": -info took longer than {_INFO_TIMEOUT:g} seconds') from error
        if done.returncode != 0:
            raise Unavailable(f'runtime "{runtime}": {_words(done.stderr) or "-info failed without a word"}')
        return done.stdout

    def _run(
        self, command: list[str], stdin: bytes, request: ShimRequest, timeout: float | None, *, stderr: int
    ) -> subprocess.CompletedProcess[bytes]:
        self._log.debug("run %s in %s", shlex.join(command), request.bundle)
        try:
            return subprocess.run(
                at_former_limit(command),
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=request.bundle,
                env={**self._environment, "NAMESPACE": request.namespace, **request.environment},
                # A signal to the daemon's group, as from a terminal, must not reach shims.
                process_group=0,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DeadlineExceeded(
                f'shim of "{request.id}": took longer than {timeout:g} seconds: {shlex.join(command)}'
            ) from error
        except FileNotFoundError as error:
            raise NotFound(f'shim of "{request.id}": {error.filename}: not found') from error
        except OSError as error:
            raise Unavailable(f'shim of "{request.id}": {command[0]}: {error.strerror}') from error

    def _flags(self, request: ShimRequest) -> list[str]:
        return [
            "-namespace",
            request.namespace,
            "-address",
            self._settings.grpc_address.removeprefix("unix://"),
            "-publish-binary",
            self._settings.publish_binary,
            "-id",
            request.id,
        ]

    def _debug(self) -> list[str]:
        return ["-debug"] if self._log.isEnabledFor(logging.DEBUG) else []

    def _start_input(self, binary: str, request: ShimRequest) -> bytes:
        # Only who wants a socket directory needs more than the options, which every shim understands.
        if not self._settings.socket_dir or not self._reads_params(binary):
            return options_input(request.options)
        params = bootstrap_pb2.BootstrapParams(
            instance_id=request.id,
            namespace=request.namespace,
            log_level=bootstrap_pb2.LOG_LEVEL_DEBUG if self._debug() else bootstrap_pb2.LOG_LEVEL_INFO,
            containerd_version=self._settings.version,
            containerd_ttrpc_address=self._environment["TTRPC_ADDRESS"],
            containerd_grpc_address=self._environment["GRPC_ADDRESS"],
            containerd_binary=self._settings.publish_binary,
            socket_dir=self._settings.socket_dir,
        )
        if request.options is not None:
            value = params.extensions.add().value
            value.type_url, value.value = request.options.type_url, request.options.value
        return params.SerializeToString()

    def _reads_params(self, binary: str) -> bool:
        """Whether a shim knows ``BootstrapParams``: containerd's do since 2.3."""
        known = self._takes_params.get(binary)
        if known is None:
            known = self._takes_params[binary] = _version(binary) >= (2, 3)
            if not known:
                self._log.warning("%s cannot be told a socket directory; it uses its own", binary)
        return known


def _version(binary: str) -> tuple[int, ...]:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired, ValueError):
        done = subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=_INFO_TIMEOUT, check=False)
        for line in done.stdout.splitlines():
            key, _, value = line.strip().partition(":")
            if key == "Version":
                return tuple(int(part) for part in value.strip().removeprefix("v").split(".")[:2])
    return ()


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidArgument(f'environment variable "{text}" of shims: write NAME=value')
    return name, value


def _words(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace").strip()


_: type[ShimLauncher] = ShimManager
_informer: type[RuntimeInformer] = ShimManager
