# SPDX-License-Identifier: Apache-2.0
"""The standard streams of a process: what a client asked for, and the descriptors that make it so.

A named pipe for stdout is handed to the process itself, and so are the pipes of a logger: nothing has to be copied.
Errors are, since the OCI runtime writes its own to the same descriptor before the process is there. Files are copied
to, so that a process can neither truncate its log nor take it over; input, because clients come and go;
terminals, because they have to.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress

from orlop.errors import InvalidArgument, NotFound
from orlop_sdk.hints import Final, NamedTuple
from orlop_shim.bag import Bag
from orlop_shim.children import Children
from orlop_shim.logger import LOGGER_SCHEMES, Logger
from orlop_shim.loop import Loop
from orlop_shim.pump import Pump
from orlop_shim.relief import Losses, Relief, reader_of
from orlop_shim.text_log import Log
from orlop_shim.wire import Values

#: Seconds for output to be read by its reader when the process is deleted.
DRAIN: Final = 10.0
# Bytes that a pipe of ours holds, so that a process writes on while we do; only what is in it takes memory.
_PIPE: Final = 256 << 10
# Seconds for the reader of a named pipe to come before we go on without it.
_READER: Final = 5.0
_READER_PAUSE: Final = 0.005


class Request(NamedTuple):
    """What a client asked for."""

    terminal: bool = False
    stdin: str = ""
    stdout: str = ""
    stderr: str = ""


class Place(NamedTuple):
    """What streams are made with."""

    loop: Loop
    children: Children
    log: Log
    namespace: str
    container: str
    uid: int = 0
    gid: int = 0


class Streams:
    """The streams of one process. `open`, hand `given` to the process, `passed`, and in the end `close`."""

    def __init__(self, place: Place, request: Request) -> None:
        self._place = place
        self._request = request
        #: The process's descriptors, by number; empty with a terminal.
        self.given: dict[int, int] = {}
        self._losses = Losses(place.log, f'container "{place.container}"')
        # With what takes the output: the path of a named pipe, or the number of a logger.
        self._reliefs: list[tuple[str | int, Relief]] = []
        self._stdin_holder = -1
        self._pumps: list[Pump] = []
        self._waiting: list[tuple[int, int]] = []
        self._loggers: list[Logger] = []
        self._master = -1
        self._input: Pump | None = None
        self._input_target = -1
        self._input_ended = False

    async def open(self) -> None:
        """Open everything that the request names; after an error, `close` what was opened before it.

        Raises `NotFound`, `InvalidArgument`, `Unavailable`, OSError.
        """
        if self._request.terminal:
            return
        self.given[0] = self._pipe_for_input() if self._request.stdin else _null()
        if self._request.stdout and _scheme(self._request.stdout) in LOGGER_SCHEMES:
            await self._open_logger()
            return
        for number, uri in ((1, self._request.stdout), (2, self._request.stderr)):
            self.given[number] = await self._open_output(uri, number == 2) if uri else _null()

    def passed(self) -> None:
        """The process has its descriptors: forget ours, so that readers see its end."""
        for fd in self.given.values():
            os.close(fd)
        self.given.clear()

    def flow(self) -> None:
        """The process is there, so what comes is its own: the runtime would have told a failure on the same streams."""
        waiting, self._waiting = self._waiting, []
        for source, target in waiting:
            self._pumps.append(Pump(self._place.loop, source, target, self._losses))

    async def attach(self, master: int) -> None:
        """Connect a terminal, which is owned from now on."""
        self._master = master
        request = self._request
        if request.stdout:
            if _scheme(request.stdout) in LOGGER_SCHEMES:
                await self._open_logger()
                target = self.given.pop(1)
                self.passed()
            else:
                target = await self._open_output(request.stdout)
        else:
            # The process must not stand still because nobody wants its output.
            target = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self._pumps.append(Pump(self._place.loop, os.dup(master), target, self._losses))
        if request.stdin:
            self._input_target = os.dup(master)

    def connect_input(self) -> None:
        """Let input flow, from now on; to be called when the client has its answer, and again for nothing.

        Not before: some clients copy their own input as soon as somebody reads the pipe, and tell us of its end only
        if they know the process by then.
        """
        if self._input_target < 0:
            return
        target, self._input_target = self._input_target, -1
        try:
            source = self._open_input()
        except OSError:
            # The client took its pipe away again: that is the end of input.
            os.close(target)
            return
        self._pump_input(source, target)

    def _pump_input(self, source: int, target: int) -> None:
        self._input = Pump(self._place.loop, source, target)
        self._input.done.then(self.close_input)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the terminal; without one nothing happens."""
        if self._master < 0:
            return
        import struct
        import termios

        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def close_input(self) -> None:
        """No more input, beyond what clients still write. May be called twice."""
        self._input_ended = True
        if self._stdin_holder >= 0:
            os.close(self._stdin_holder)
            self._stdin_holder = -1

    async def drain(self) -> None:
        """Wait until output that the process left is where it should be, but not for ever."""
        waits = [pump.done for pump in self._pumps] + [logger.ended for logger in self._loggers]
        deadline = time.monotonic() + DRAIN
        for promise in waits:
            await self._place.loop.within(deadline - time.monotonic(), promise)

    def close(self) -> None:
        """Close all that is open, and end loggers. May be called twice."""
        self.passed()
        self.close_input()
        if self._input_target >= 0:
            os.close(self._input_target)
            self._input_target = -1
        for pump in (*self._pumps, *((self._input,) if self._input else ())):
            pump.stop()
        for pair in self._waiting:
            for fd in pair:
                os.close(fd)
        self._waiting.clear()
        for logger in self._loggers:
            logger.stop()
        for _, relief in self._reliefs:
            relief.close()
        self._reliefs.clear()
        self._losses.tell()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    # From one worker to the next.

    @property
    def rests(self) -> bool:
        """Whether all that there is to do is wait."""
        if self.given or self._waiting or self._input_target >= 0:
            return False
        pumps = (*self._pumps, *((self._input,) if self._input else ()))
        return all(pump.rests for pump in pumps) and all(relief.rests for _, relief in self._reliefs)

    def save(self, bag: Bag) -> Values:
        """What `restore` takes."""
        return {
            "master": bag.put(self._master),
            "pumps": [pump.save(bag) for pump in self._pumps if not pump.done.done],
            "input": self._input.save(bag) if self._input and not self._input.done.done else None,
            "holder": bag.put(self._stdin_holder),
            "input_ended": self._input_ended,
            "loggers": [(logger.uri, logger.save(bag)) for logger in self._loggers],
            "reliefs": [(watched, saved) for watched, relief in self._reliefs if (saved := relief.save(bag))],
            "lost": self._losses.count,
        }

    def restore(self, saved: Values, bag: Bag) -> None:
        """Go on where another worker left."""
        self._losses.count = saved["lost"]
        self._master = bag.take(saved["master"])
        self._stdin_holder = bag.take(saved["holder"])
        self._input_ended = saved["input_ended"]
        for source, target in saved["pumps"]:
            self._pumps.append(Pump(self._place.loop, bag.take(source), bag.take(target), self._losses))
        if saved["input"] is not None:
            self._pump_input(*map(bag.take, saved["input"]))
        for uri, item in saved["loggers"]:
            logger = Logger(self._place.loop, self._place.children, uri)
            self._loggers.append(logger)
            logger.restore(item, bag)
        for watched, item in saved["reliefs"]:
            self._relieve(watched, bag.take(item["pipe"])).restore(item)

    def _pipe_for_input(self) -> int:
        _mode(_path(self._request.stdin))
        read, self._input_target = os.pipe2(os.O_CLOEXEC)
        self._own(read)
        return read

    def _open_input(self) -> int:
        path = _path(self._request.stdin)
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISFIFO(os.fstat(fd).st_mode) and not self._input_ended:
            # Clients may come and go; input ends when it is closed, not when the first of them leaves.
            self._stdin_holder = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return fd

    async def _open_output(self, uri: str, errors: bool = False) -> int:
        scheme = _scheme(uri)
        if scheme in LOGGER_SCHEMES:
            return self._pipe_to(await self._start_logger(uri))
        if scheme not in ("", "fifo", "file"):
            raise InvalidArgument(f'log URI "{uri}": unknown scheme {scheme}; use fifo, file or binary')
        path = _path(uri)
        if scheme != "file" and stat.S_ISFIFO(_mode(path)):
            fifo = await self._open_fifo(path)
            if not errors:
                os.set_blocking(fifo, True)
                self._own(fifo)
            return self._pipe_to(fifo) if errors else fifo
        if scheme == "file":
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        return file if self._request.terminal else self._pipe_to(file)

    async def _open_fifo(self, path: str) -> int:
        deadline = time.monotonic() + _READER
        fd = _open_writer(path)
        while fd < 0 and time.monotonic() < deadline:
            await self._place.loop.sleep(_READER_PAUSE)
            fd = _open_writer(path)
        # While we could read it, output is not lost when its reader is replaced by another.
        held = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._relieve(path, held)
        if fd < 0:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return fd

    def _pipe_to(self, target: int) -> int:
        read, write = os.pipe2(os.O_CLOEXEC)
        # Beyond a user's limits the usual size does as well.
        with suppress(OSError):
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE)
        self._own(write)
        self._waiting.append((read, target))
        return write

    async def _open_logger(self) -> None:
        """One logger for both streams, as its protocol has it."""
        logger = Logger(self._place.loop, self._place.children, self._request.stdout)
        pipes = await self._start(logger)
        self.given[1], self.given[2] = pipes
        for fd in pipes:
            self._own(fd)
        await logger.ready()

    async def _start_logger(self, uri: str) -> int:
        logger = Logger(self._place.loop, self._place.children, uri)
        out, other = await self._start(logger)
        os.close(other)
        await logger.ready()
        return out

    async def _start(self, logger: Logger) -> tuple[int, int]:
        self._loggers.append(logger)
        pipes = await logger.start(self._place.container, self._place.namespace)
        number = self._loggers.index(logger)
        for outlet in logger.outlets:
            self._relieve(number, outlet)
        return pipes

    def _relieve(self, watched: str | int, pipe: int) -> Relief:
        loop, losses = self._place.loop, self._losses
        if isinstance(watched, str):
            path = watched
            relief = Relief(loop, pipe, lambda: reader_of(path, pipe), losses, f"nobody reads {path}")
        else:
            logger = self._loggers[watched]
            relief = Relief(loop, pipe, logger.sign, losses, "its logger has ended, or does nothing any more")
            logger.ended.then(relief.over)
        self._reliefs.append((watched, relief))
        return relief

    def _own(self, fd: int) -> None:
        if self._place.uid or self._place.gid:
            # A file system that cannot (or a pipe that is ours already) is no reason to fail.
            with suppress(OSError):
                os.fchown(fd, self._place.uid, self._place.gid)


def _open_writer(path: str) -> int:
    """A named pipe, open for writing; -1 while nobody reads it."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return -1


def _null() -> int:
    return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


def _scheme(uri: str) -> str:
    scheme, separator, _ = uri.partition("://")
    return scheme if separator else ""


def _path(uri: str) -> str:
    _, separator, path = uri.partition("://")
    if not separator:
        return uri
    if not path.startswith("/"):
        raise InvalidArgument(f'log URI "{uri}": needs an absolute path')
    path = path.partition("?")[0]
    if "%" in path:
        from urllib.parse import unquote

        path = unquote(path)
    return path


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError as error:
        raise NotFound(f'stream "{path}": there is no such pipe or file; make it before the process') from error
