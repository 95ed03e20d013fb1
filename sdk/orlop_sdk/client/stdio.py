# SPDX-License-Identifier: Apache-2.0
r"""Where a container's streams go: nowhere, into memory, to async streams, to this process's own, or to a log.

::

    streams = capture(input=b"hello\\n")
    exit = await task_of("cat", streams)
    assert streams.stdout == b"hello\\n"

========================  ==========================================================================================
`null`                    no streams at all
`capture`                 output in memory, input from memory
`pipes`                   async streams, as of ``asyncio.create_subprocess_exec``
`inherit`                 this process's own streams
`terminal`                this process's terminal, in raw mode, its size followed
`log`                     a log URI: ``file:///path``, ``binary:///path``, ``fifo:///path``, or a log driver's
========================  ==========================================================================================

Each call gives an object for one process. The order of things, which `orlop_sdk.client.container` keeps:
`Streams.open` before the process is created, `Streams.started` once it runs, `Streams.drain` after it was deleted (by
then the shim has passed on everything), `Streams.close` at the end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import termios
import tty
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Self

from orlop.blocking import run_blocking
from orlop.errors import FailedPrecondition, InvalidArgument, OrlopError
from orlop.values import Stdio
from orlop_sdk.client.fifo import FifoFolder, InputPump, OutputPump, Sink, read_descriptor

#: Bytes that `pipes` keeps before the container has to wait.
PIPE_LIMIT: Final = 1 << 20
#: Bytes that `capture` keeps of each stream; what comes later is dropped.
CAPTURE_LIMIT: Final = 64 << 20

CloseStdin = Callable[[], Awaitable[None]]
Resize = Callable[[int, int], Awaitable[None]]


class Streams:
    """The streams of one process. This one has none; the others build on it."""

    terminal = False

    def __init__(self) -> None:
        self._opened = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in characters that its terminal should have from the start; zeros when nobody knows."""
        return 0, 0

    async def open(self, name: str) -> Stdio:
        """Prepare everything and say what to tell the daemon. *name* becomes part of file names."""
        self._use(name)
        return Stdio()

    def _use(self, name: str) -> None:
        if self._opened:
            raise FailedPrecondition(f'streams of "{name}": used for another process before; make new ones')
        self._opened = True

    async def attach(self, name: str, stdio: Stdio) -> None:
        """Take over the streams of a process that another client created and does not read any more.

        Raises `FailedPrecondition` for streams that are no FIFOs on this host.
        """
        self._use(name)

    async def started(self, close_stdin: CloseStdin, resize: Resize) -> None:
        """The process runs: begin to feed it."""

    async def drain(self, timeout: float) -> None:
        """Return when all output was passed on, or after *timeout* seconds."""

    async def release(self) -> None:
        """Let go of everything, and leave it to be attached to again."""
        await self.close()

    async def close(self) -> None:
        """Free everything. May be called twice."""


class LogStreams(Streams):
    """Output goes to a log URI, and there is no input."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri

    async def open(self, name: str) -> Stdio:
        await super().open(name)
        return Stdio(stdout=self._uri, stderr=self._uri)


class FifoStreams(Streams):
    """Streams over FIFOs: sinks take the output, and a source gives the input."""

    def __init__(
        self,
        *,
        stdout: Sink | None,
        stderr: Sink | None,
        source: AsyncIterator[bytes] | None = None,
        stdin: bool = False,
        terminal: bool = False,
        directory: str = "",
    ) -> None:
        super().__init__()
        self._directory = os.path.abspath(directory) if directory else ""
        self._sinks = {"stdout": stdout, "stderr": None if terminal else stderr}
        self._source = source
        self._wants_input = stdin or source is not None
        self.terminal = terminal
        self._folder: FifoFolder | None = None
        self._pumps: list[OutputPump] = []
        self._input: InputPump | None = None
        self._feeder: asyncio.Task[None] | None = None
        self._close_stdin: CloseStdin | None = None

    async def open(self, name: str) -> Stdio:
        await super().open(name)
        folder = self._folder = FifoFolder(name, parent=self._directory)
        paths = {"stdin": "", "stdout": "", "stderr": ""}
        try:
            if self._wants_input:
                paths["stdin"] = folder.make("stdin")
                self._input = InputPump(paths["stdin"])
            for stream, sink in self._sinks.items():
                if sink is not None:
                    paths[stream] = folder.make(stream)
                    self._pumps.append(OutputPump(paths[stream], sink))
        except BaseException:
            await self.close()
            raise
        return Stdio(paths["stdin"], paths["stdout"], paths["stderr"], self.terminal)

    async def attach(self, name: str, stdio: Stdio) -> None:
        await super().attach(name, stdio)
        for path in filter(None, (stdio.stdin, stdio.stdout, stdio.stderr)):
            if not _is_fifo(path):
                raise FailedPrecondition(f'streams of "{name}": "{path}" is no FIFO here; look into its log instead')
            self._folder = self._folder or FifoFolder.of(path)
        if self._wants_input and stdio.stdin:
            self._input = InputPump(stdio.stdin)
        for path, sink in ((stdio.stdout, self._sinks["stdout"]), (stdio.stderr, self._sinks["stderr"])):
            if path and sink is not None:
                self._pumps.append(OutputPump(path, sink))

    async def started(self, close_stdin: CloseStdin, resize: Resize) -> None:
        self._close_stdin = close_stdin
        if self._source is not None:
            self._feeder = asyncio.create_task(self._feed(self._source))

    async def _feed(self, source: AsyncIterator[bytes]) -> None:
        try:
            async for data in source:
                await self._write(data)
        except BrokenPipeError:
            return  # the process does not read any more, which is its right
        await self._end_input()

    async def _write(self, data: bytes) -> None:
        if self._input is None:
            raise InvalidArgument("standard input: not asked for when the streams were made")
        await self._input.write(data)

    async def _end_input(self) -> None:
        if self._input is None:
            return
        self._input.close()
        if self._close_stdin:
            try:
                # The shim holds a writing end too, so that clients may come and go; this closes that one.
                await self._close_stdin()
            except OrlopError:
                return  # the process is gone, and its input with it

    async def drain(self, timeout: float) -> None:
        pending = [asyncio.create_task(pump.ended()) for pump in self._pumps]
        if pending:
            _, late = await asyncio.wait(pending, timeout=timeout)
            for task in late:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def release(self) -> None:
        # Without its folder, closing leaves the FIFOs where they are.
        self._folder = None
        await self.close()

    async def close(self) -> None:
        if self._feeder:
            self._feeder.cancel()
            await asyncio.gather(self._feeder, return_exceptions=True)
        if self._input:
            self._input.close()
        for pump in self._pumps:
            await pump.close()
        if self._folder:
            self._folder.remove()


class _Memory:
    """Keeps output, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self.truncated = False
        self._limit = limit

    async def write(self, data: bytes) -> None:
        room = self._limit - len(self.data)
        self.data += data[:room]
        self.truncated |= len(data) > room

    async def close(self) -> None:
        """Nothing to free."""


class CapturedStreams(FifoStreams):
    """Output in memory. With a terminal there is only ``stdout``."""

    def __init__(self, input: bytes | None, limit: int, terminal: bool) -> None:
        self._out, self._err = _Memory(limit), _Memory(limit)
        source = _once(input) if input is not None else None
        super().__init__(stdout=self._out, stderr=self._err, source=source, terminal=terminal)

    @property
    def stdout(self) -> bytes:
        """What came so far; everything, once the process is deleted."""
        return bytes(self._out.data)

    @property
    def stderr(self) -> bytes:
        """What came so far; everything, once the process is deleted."""
        return bytes(self._err.data)

    @property
    def truncated(self) -> bool:
        """Whether there was more than the limit."""
        return self._out.truncated or self._err.truncated


class OutputStream:
    """Output to read, as it comes: ``async for chunk in stream``, `read`, `readline`.

    Keeps at most `PIPE_LIMIT` bytes: a container whose output nobody reads has to wait.
    """

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._limit: float = PIPE_LIMIT
        self._changed = asyncio.Condition()
        self._ended = False

    async def write(self, data: bytes) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._held < self._limit or self._ended)
            self._chunks.append(data)
            self._held += len(data)
            self._changed.notify_all()

    async def close(self) -> None:
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def unbind(self) -> None:
        """Take everything from now on: the process is over, and its shim waits for its last words to be heard."""
        async with self._changed:
            self._limit = float("inf")
            self._changed.notify_all()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        async with self._changed:
            await self._changed.wait_for(lambda: self._chunks or self._ended)
            if not self._chunks:
                raise StopAsyncIteration
            data = self._chunks.popleft()
            self._held -= len(data)
            self._changed.notify_all()
            return data

    async def read(self) -> bytes:
        """Everything until the end."""
        return b"".join([chunk async for chunk in self])

    async def readline(self) -> bytes:
        """One line with its newline; without it at the end; empty when there is nothing more."""
        line = b""
        async for chunk in self:
            head, newline, rest = chunk.partition(b"\n")
            line += head + newline
            if rest:
                async with self._changed:
                    self._chunks.appendleft(rest)
                    self._held += len(rest)
            if newline:
                break
        return line


class PipeStreams(FifoStreams):
    """Async streams to and from a process."""

    def __init__(self, *, terminal: bool) -> None:
        self.stdout = OutputStream()
        self.stderr = OutputStream()
        super().__init__(stdout=self.stdout, stderr=self.stderr, stdin=True, terminal=terminal)
        self._resize: Resize | None = None

    async def started(self, close_stdin: CloseStdin, resize: Resize) -> None:
        await super().started(close_stdin, resize)
        self._resize = resize

    async def write(self, data: bytes) -> None:
        """Give the process input, waiting while it does not read. Raises `BrokenPipeError` when it never will."""
        await self._write(data)

    async def write_eof(self) -> None:
        """The process's input ends."""
        await self._end_input()

    async def resize(self, width: int, height: int) -> None:
        """Size of the terminal, in characters."""
        if self._resize:
            await self._resize(width, height)

    async def drain(self, timeout: float) -> None:
        await self.stdout.unbind()
        await self.stderr.unbind()
        await super().drain(timeout)


class _Descriptor:
    """Writes output to a descriptor of this process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def write(self, data: bytes) -> None:
        await run_blocking(_write_all, self._fd, data)

    async def close(self) -> None:
        """The descriptor is not ours."""


class TerminalStreams(FifoStreams):
    """This process's terminal: raw, so that every key reaches the container, and of the same size."""

    def __init__(self, fd: int, out: int, directory: str = "") -> None:
        super().__init__(
            stdout=_Descriptor(out), stderr=None, source=read_descriptor(fd), terminal=True, directory=directory
        )
        self._fd = fd
        self._saved: list[int | list[bytes | int]] | None = None
        self._resize: Resize | None = None
        self._jobs: set[asyncio.Task[None]] = set()

    @property
    def size(self) -> tuple[int, int]:
        size = os.get_terminal_size(self._fd)
        return size.columns, size.lines

    async def open(self, name: str) -> Stdio:
        if not os.isatty(self._fd):
            raise FailedPrecondition("terminal: standard input is none; run without one, or from a terminal")
        stdio = await super().open(name)
        # Before anything is written, whose line ends are the container's terminal's affair.
        self._saved = termios.tcgetattr(self._fd)
        # At once, for the default would throw away what was typed ahead.
        tty.setraw(self._fd, termios.TCSANOW)
        return stdio

    async def started(self, close_stdin: CloseStdin, resize: Resize) -> None:
        self._resize = resize
        asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, self._size_changed)
        self._size_changed()
        await super().started(close_stdin, resize)

    def _size_changed(self) -> None:
        job = asyncio.ensure_future(self._follow_size())
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _follow_size(self) -> None:
        size = os.get_terminal_size(self._fd)
        if self._resize:
            try:
                await self._resize(size.columns, size.lines)
            except OrlopError:
                return  # the process is over

    async def close(self) -> None:
        if self._saved is not None:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGWINCH)
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
            self._saved = None
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await super().close()


def null() -> Streams:
    """No streams at all."""
    return Streams()


def capture(*, input: bytes | None = None, limit: int = CAPTURE_LIMIT, terminal: bool = False) -> CapturedStreams:
    """Output in memory, at most *limit* bytes of each stream. Without *input* the process has none."""
    return CapturedStreams(input, limit, terminal)


def pipes(*, terminal: bool = False) -> PipeStreams:
    """Async streams: ``streams.write``, ``async for chunk in streams.stdout``."""
    return PipeStreams(terminal=terminal)


def inherit(*, stdin: bool = True, directory: str = "") -> FifoStreams:
    """This process's own streams. Without *stdin* the container has no input. FIFOs are made in *directory*."""
    source = read_descriptor(sys.stdin.fileno()) if stdin else None
    return FifoStreams(stdout=_Descriptor(1), stderr=_Descriptor(2), source=source, directory=directory)


def terminal(*, directory: str = "") -> TerminalStreams:
    """This process's terminal. The container's specification must ask for one (`orlop_sdk.oci.with_tty`).

    FIFOs are made in *directory*.
    """
    return TerminalStreams(0, 1, directory)


def log(uri: str) -> LogStreams:
    """A log URI. An absolute path alone is a file to append to."""
    if uri.startswith("/"):
        uri = f"file://{uri}"
    if "://" not in uri:
        raise InvalidArgument(f'log "{uri}": must be a URI such as file:///var/log/web.log')
    return LogStreams(uri)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _is_fifo(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
