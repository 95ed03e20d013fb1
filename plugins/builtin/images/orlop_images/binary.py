# SPDX-License-Identifier: Apache-2.0
"""Programs as stream processors: the tables ``[stream_processors.ID]`` of the config.

**Host needs**: the program. It reads its standard input, writes its standard output, and says on standard error why it
failed. ``STREAM_PROCESSOR_MEDIATYPE`` in its environment is the type it gets; what the client sent for the
processor's id is on descriptor 3.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from dataclasses import dataclass, field
from typing import IO, Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from orlop.blocking import Pool
from orlop.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unknown
from orlop.interfaces.proxy import ProxyKind, proxy_kind
from orlop.interfaces.stream import RunningStream, StreamProcessor
from orlop.plugin import InitContext, NoConfig, ProxyTarget
from orlop.values import AnyMessage
from orlop_images.process import readable, spawn
from orlop_sdk.convert.common import payloads_to_wire

_MEDIA_TYPE: Final = "STREAM_PROCESSOR_MEDIATYPE"
_PAYLOAD: Final = 3
_MOST_SAID: Final = 8192


class ProgramConfig(BaseModel):
    """One table of ``[stream_processors]``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accepts: tuple[str, ...]
    returns: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProgramProcessor:
    """Runs a program for each layer whose media type it accepts."""

    id: str
    config: ProgramConfig
    pool: Pool = field(repr=False)

    def claim(self, media_type: str) -> str | None:
        return self.config.returns if media_type in self.config.accepts else None

    async def open(self, source: int, media_type: str, payload: AnyMessage | None = None) -> RunningStream:
        if self.claim(media_type) is None:
            raise InvalidArgument(f'stream processor "{self.id}": does not accept "{media_type}"')
        starting = asyncio.ensure_future(self.pool.run(self._start, source, media_type, payload))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread goes on: what it started must not be left running.
            running = await starting
            await running.close()
            raise

    async def close(self) -> None:
        """Free the threads. May be called twice."""
        self.pool.close()

    def _start(self, source: int, media_type: str, payload: AnyMessage | None) -> ProgramStream:
        environment = dict(os.environ)
        environment |= dict(item.partition("=")[::2] for item in self.config.env)
        environment[_MEDIA_TYPE] = media_type
        with contextlib.ExitStack() as opened:
            read, write = os.pipe2(os.O_CLOEXEC)
            opened.callback(os.close, write)
            said = tempfile.TemporaryFile()  # the stream closes it
            descriptors = {0: source, 1: write, 2: said.fileno()}
            if payload is not None:
                descriptors[_PAYLOAD] = os.memfd_create("payload", os.MFD_CLOEXEC)
                opened.callback(os.close, descriptors[_PAYLOAD])
                with open(descriptors[_PAYLOAD], "wb", closefd=False) as file:
                    file.write(payloads_to_wire({"": payload})[""].SerializeToString())
                os.lseek(descriptors[_PAYLOAD], 0, os.SEEK_SET)
            try:
                pid = spawn([self.config.path, *self.config.args], descriptors, environment)
                return ProgramStream(self.id, pid, read, said)
            except OSError as error:
                os.close(read)
                said.close()
                raise self._cannot_start(error) from error

    def _cannot_start(self, error: OSError) -> Exception:
        text = f'stream processor "{self.id}": cannot run {self.config.path}: {error.strerror}'
        if isinstance(error, FileNotFoundError):
            table = f'"{self.id}"' if "." in self.id else self.id
            return NotFound(f"{text}; install it, or mend [stream_processors.{table}]")
        return PermissionDenied(text) if isinstance(error, PermissionError) else FailedPrecondition(text)


class ProgramStream:
    """A program at work."""

    def __init__(self, id: str, pid: int, read: int, said: IO[bytes]) -> None:
        self._id = id
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._read = read
        self._said = said
        self._status: int | None = None
        self._lock = asyncio.Lock()
        self._message = ""

    def fileno(self) -> int:
        return self._read

    async def wait(self) -> None:
        await self._reap()
        if self._status:
            how = f"exit status {self._status}" if self._status > 0 else f"signal {-self._status}"
            raise Unknown(f'stream processor "{self._id}": {self._message or how}')

    async def close(self) -> None:
        read, self._read = self._read, -1
        if read >= 0:
            os.close(read)
        if self._status is None:
            # The whole group: the program may have started others.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            await self._reap()

    async def _reap(self) -> None:
        async with self._lock:
            if self._status is not None:
                return
            await readable(self._pidfd)
            # It has ended, so this does not wait.
            self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])  # noqa: ASYNC222
            os.close(self._pidfd)
            size = self._said.seek(0, os.SEEK_END)
            self._said.seek(max(0, size - _MOST_SAID))
            self._message = self._said.read(_MOST_SAID).decode(errors="replace").strip()
            self._said.close()


class ProgramKind:
    """Makes a stream processor of each table."""

    async def connect(self, name: str, target: ProxyTarget) -> StreamProcessor:
        """The table's keys are the target's options; its ``path`` may come as the address instead."""
        options: dict[str, Any] = dict(target.options)
        if target.address:
            options.setdefault("path", target.address)
        try:
            config = ProgramConfig.model_validate(options)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise InvalidArgument(f"[stream_processors.{name}]: {faults}") from error
        return ProgramProcessor(name, config, Pool(f"stream-{name}", 2))


@proxy_kind("stream_processor", exports={"target": "io.orlop.stream-processor.v1"})
async def stream_programs(ctx: InitContext[NoConfig]) -> ProxyKind:
    """``[stream_processors.ID]``: accepts, returns, path, args, env."""
    return ProgramKind()


_: type[ProxyKind] = ProgramKind
_running: type[RunningStream] = ProgramStream
