# SPDX-License-Identifier: Apache-2.0
"""The stream processor plugin that runs a function of `orlop_sdk.serving.stream`, each stream in a process of its own.

Layers then cost the daemon neither time nor memory, and a crash of the function is no more than an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import IO, Final

from google.protobuf.any_pb2 import Any as AnyMessagePb

from orlop.blocking import run_blocking
from orlop.errors import InvalidArgument, Unavailable, Unknown, from_code
from orlop.interfaces.stream import RunningStream, StreamProcessor
from orlop.values import AnyMessage
from orlop_sdk.serving.stream import MEDIA_TYPE, PAYLOAD, STATUS

_MOST_SAID: Final = 8192
_CODES: Final = 17


class Converter:
    """A stream processor made of a function.

    *target* is ``module:function`` (`orlop_sdk.serving.stream.Convert`), and *accepts* says for each media type that it
    takes what it makes of it.
    """

    def __init__(self, target: str, accepts: Mapping[str, str]) -> None:
        self._target = target
        self._accepts = dict(accepts)

    def claim(self, media_type: str) -> str | None:
        return self._accepts.get(media_type)

    async def open(self, source: int, media_type: str, payload: AnyMessage | None = None) -> RunningStream:
        if self.claim(media_type) is None:
            raise InvalidArgument(f'media type "{media_type}": not one of this processor')
        starting = asyncio.ensure_future(run_blocking(self._start, source, media_type, payload))
        try:
            process, read, said = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread goes on: what it started must not be left running.
            await ConverterStream(self._target, *(await starting)).close()
            raise
        return ConverterStream(self._target, process, read, said)

    def _start(
        self, source: int, media_type: str, payload: AnyMessage | None
    ) -> tuple[subprocess.Popen[bytes], int, IO[bytes]]:
        # The function may have come from a directory of the config, which a new interpreter does not know.
        environment = {**os.environ, MEDIA_TYPE: media_type, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with contextlib.ExitStack() as opened:
            said = tempfile.TemporaryFile()  # the stream closes it
            read, write = os.pipe2(os.O_CLOEXEC)
            opened.callback(os.close, write)
            passed = os.memfd_create("payload", os.MFD_CLOEXEC) if payload is not None else -1
            if payload is not None:
                opened.callback(os.close, passed)
                message = AnyMessagePb(type_url=payload.type_url, value=payload.value)
                with open(passed, "wb", closefd=False) as file:
                    file.write(message.SerializeToString())
                os.lseek(passed, 0, os.SEEK_SET)
            environment[PAYLOAD] = str(passed)
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "orlop_sdk.serving.stream", self._target],
                    stdin=source,
                    stdout=write,
                    stderr=said,
                    env=environment,
                    pass_fds=(passed,) if passed >= 0 else (),
                    process_group=0,
                )
            except OSError as error:
                os.close(read)
                said.close()
                raise Unavailable(f'stream processor "{self._target}": {error.strerror}') from error
        return process, read, said


class ConverterStream:
    """The function at work."""

    def __init__(self, target: str, process: subprocess.Popen[bytes], read: int, said: IO[bytes]) -> None:
        self._target = target
        self._process = process
        self._read = read
        self._said = said
        self._pidfd = os.pidfd_open(process.pid)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[str] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._reap)

    def fileno(self) -> int:
        return self._read

    async def wait(self) -> None:
        words = await asyncio.shield(self._ended)
        status = self._process.returncode
        if STATUS <= status < STATUS + _CODES:
            raise from_code(status - STATUS, words)
        if status:
            how = f"exit status {status}" if status > 0 else f"signal {-status}"
            raise Unknown(f'stream processor "{self._target}": {words or how}')

    async def close(self) -> None:
        read, self._read = self._read, -1
        if read >= 0:
            os.close(read)
        if not self._ended.done():
            # The whole group: the function may have started programs.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await asyncio.shield(self._ended)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()  # it has ended: this does not block
        size = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, size - _MOST_SAID))
        words = self._said.read(_MOST_SAID).decode(errors="replace").strip()
        self._said.close()
        self._ended.set_result(words)


_: type[StreamProcessor] = Converter
_running: type[RunningStream] = ConverterStream
