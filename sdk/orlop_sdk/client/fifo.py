# SPDX-License-Identifier: Apache-2.0
"""FIFOs between a container's streams and this process, without ever blocking the loop or losing a byte.

::

    folder = FifoFolder("web")
    pump = OutputPump(folder.make("stdout"), sink)   # opened before the container exists
    ...
    await pump.ended()                               # the last writer closed its end
    folder.remove()
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Protocol

from orlop.errors import FailedPrecondition, Unavailable

_CHUNK: Final = 64 << 10
#: Seconds that a shim has to open its end of standard input.
_READER_TIME: Final = 10.0
_READER_LOOK: Final = 0.02


class Sink(Protocol):
    """Where output goes."""

    async def write(self, data: bytes) -> None:
        """Take a piece. Waiting here holds the container up."""
        ...

    async def close(self) -> None:
        """There is no more. May be called twice."""
        ...


_PREFIX: Final = "orlop-fifo-"


class FifoFolder:
    """A directory for nobody but us, to make FIFOs in: a new one, or at *path* that of an earlier client.

    A new one is made in *parent*, which is made if it is missing, or where FIFOs of running things usually are.
    """

    def __init__(self, name: str, path: Path | None = None, parent: str = "") -> None:
        self._name = name
        if path is None:
            try:
                if parent:
                    os.makedirs(parent, mode=0o711, exist_ok=True)
                path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent or _runtime_directory()))
            except OSError as error:
                raise FailedPrecondition(
                    f'directory for FIFOs "{error.filename}": cannot be made: {error.strerror}'
                ) from error
        self.path = path

    @classmethod
    def of(cls, fifo: str) -> FifoFolder | None:
        """The folder in which a client of this kind made a FIFO; None for FIFOs of others."""
        folder = Path(fifo).parent
        return cls("", folder) if folder.name.startswith(_PREFIX) else None

    def make(self, stream: str) -> str:
        """A new FIFO and its path."""
        path = self.path / f"{self._name}-{stream}"
        os.mkfifo(path, 0o600)
        return str(path)

    def remove(self) -> None:
        """Remove the directory with all in it. May be called twice."""
        shutil.rmtree(self.path, ignore_errors=True)


def _runtime_directory() -> str | None:
    """Where FIFOs of running things belong: gone after a reboot."""
    for candidate in (os.environ.get("XDG_RUNTIME_DIR") if os.geteuid() else "/run",):
        if candidate and os.access(candidate, os.W_OK):
            return candidate
    return None


class OutputPump:
    """Carries what is written into a FIFO to a sink, until all writers have closed it."""

    def __init__(self, path: str, sink: Sink) -> None:
        # Opening never waits for a writer, and readiness is reported only after there was one.
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._sink = sink
        self._task = asyncio.create_task(self._run())
        # Not in the task itself, which never begins when it is cancelled early enough.
        self._task.add_done_callback(lambda _: os.close(self._fd))

    async def _run(self) -> None:
        try:
            await _readable(self._fd)
            while True:
                try:
                    data = os.read(self._fd, _CHUNK)
                except BlockingIOError:
                    await _readable(self._fd)
                    continue
                if not data:
                    return
                await self._sink.write(data)
        finally:
            await self._sink.close()

    async def ended(self) -> None:
        """Return when everything has gone to the sink. Raises what the sink raised."""
        await asyncio.shield(self._task)

    async def close(self) -> None:
        """Stop, whether or not there is more. May be called twice."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._sink.close()


class InputPump:
    """Carries bytes into a FIFO. Opening it never waits, and it is open before the shim looks for a writer."""

    def __init__(self, path: str) -> None:
        # A descriptor for both ways opens without a partner, and is the partner of the one for writing.
        both = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(both)
        self._has_reader = False
        self._lock = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        """Write all of it, waiting while the container does not read.

        Raises `BrokenPipeError` when nobody reads any more, `Unavailable` when nobody came to read.
        """
        async with self._lock:
            await self._wait_for_reader()
            view = memoryview(data)
            while view:
                if self._fd < 0:
                    raise BrokenPipeError("standard input is closed")
                try:
                    view = view[os.write(self._fd, view) :]
                except BlockingIOError:
                    await _writable(self._fd)

    async def _wait_for_reader(self) -> None:
        for _ in range(int(_READER_TIME / _READER_LOOK)):
            if self._has_reader or self._fd < 0:
                return
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            # Without any reader the write end is in error.
            if not any(event & select.POLLERR for _, event in poll.poll(0)):
                self._has_reader = True
                return
            await asyncio.sleep(_READER_LOOK)
        raise Unavailable("standard input: nobody opened it to read")

    def close(self) -> None:
        """Close our end. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def read_descriptor(fd: int) -> AsyncIterator[bytes]:
    """What can be read from a descriptor of ours (a terminal, a pipe, a file), until it ends. Leaves it open."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_reader(fd, lambda: None)
        loop.remove_reader(fd)
    except PermissionError:
        # Ordinary files cannot be waited for, but never make anybody wait either.
        while data := await asyncio.to_thread(os.read, fd, _CHUNK):
            yield data
        return
    while True:
        await _readable(fd)
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            continue
        if not data:
            return
        yield data


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(fd, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(fd, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_writer(fd)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
