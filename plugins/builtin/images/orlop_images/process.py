# SPDX-License-Identifier: Apache-2.0
"""Runs other processes without forking the daemon: the worker host with its jobs, and stream processors."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from orlop import errors
from orlop.blocking import Pool
from orlop.errors import Internal, OrlopError, Unknown
from orlop_sdk.linux.descriptors import receive

# Large blocks stay with the process, instead of going back to the kernel and being zeroed anew for each chunk.
_MALLOC: Final = {"MALLOC_TRIM_THRESHOLD_": str(1 << 28), "MALLOC_MMAP_THRESHOLD_": str(1 << 26)}
_HOST_CONTROL: Final = 3
#: Seconds after which a worker host without work ends.
IDLE: Final = 60.0
_FREE: Final = 20


@contextlib.contextmanager
def spare_descriptors(descriptors: Mapping[int, int]) -> Iterator[list[tuple[int, int, int]]]:
    """File actions that give a new process *descriptors* (its number to ours), whatever numbers ours have."""
    copies: list[int] = []
    actions = []
    try:
        for theirs, ours in descriptors.items():
            # Copied out of the way first: none of ours may have a number that is about to be replaced.
            copies.append(fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, _FREE))
            actions.append((os.POSIX_SPAWN_DUP2, copies[-1], theirs))
        yield actions
    finally:
        for copy in copies:
            os.close(copy)


def spawn(arguments: Sequence[str], descriptors: Mapping[int, int], environment: Mapping[str, str]) -> int:
    """Start a program in a process group of its own, and return its pid. Blocks for about a millisecond.

    Signals are as a program expects them: Python ignores SIGPIPE, which others would inherit.
    """
    with spare_descriptors(descriptors) as actions:
        return os.posix_spawnp(
            arguments[0],
            list(arguments),
            environment,
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )


async def readable(fd: int) -> None:
    """Return when *fd* can be read: for a pidfd, when its process has ended."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    # A copy: another wait on the same descriptor must not replace this one.
    own = os.dup(fd)

    def settle() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(own, settle)
    try:
        await ready
    finally:
        loop.remove_reader(own)
        os.close(own)


class Workers:
    """Starts worker jobs, through a worker host that is started when it is needed.

    One for each plugin that unpacks; `close` ends the host and with it every job.
    """

    def __init__(self, name: str, *, idle: float = IDLE) -> None:
        self._pool = Pool(name, 2)
        self._idle = idle
        self._lock = threading.Lock()
        self._host: Host | None = None
        self._closed = False

    async def start(self, request: Mapping[str, Any], *, source: int, output: int = -1) -> Job:
        """Start a job that reads *source*; both descriptors stay the caller's."""
        for last in (False, True):
            if self._closed:
                raise errors.Unavailable("worker: the plugin was closed")
            submitting = asyncio.ensure_future(self._pool.run(self._submit, request, source, output))
            try:
                job = await asyncio.shield(submitting)
            except asyncio.CancelledError:
                await (await submitting).close()  # the thread went on, and a worker must not
                raise
            try:
                if await job.started():
                    return job
            except BaseException:
                await job.close()
                raise
            await job.close()
            if last:
                break
        raise Internal("worker: does not start; its messages are in the daemon's log")

    def close(self) -> None:
        """End the host. May be called twice."""
        with self._lock:
            self._closed = True
            self._end_host()
        self._pool.close()

    def _submit(self, request: Mapping[str, Any], source: int, output: int) -> Job:
        mine, theirs = socket.socketpair()
        with contextlib.ExitStack() as opened:
            opened.enter_context(theirs)
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            opened.callback(os.close, null)
            message = os.memfd_create("request", os.MFD_CLOEXEC)
            opened.callback(os.close, message)
            with open(message, "wb", closefd=False) as file:
                file.write(json.dumps(request).encode())
            os.lseek(message, 0, os.SEEK_SET)
            mine.setblocking(False)
            try:
                self._send([message, source, null if output < 0 else output, 2, theirs.fileno()])
            except BaseException:
                mine.close()
                raise
        return Job(mine)

    def _send(self, descriptors: Sequence[int]) -> None:
        with self._lock:
            if self._closed:
                raise errors.Unavailable("worker: the plugin was closed")
            if self._host is not None and self._host.send(descriptors):
                return
            self._end_host()  # it had been idle for long
            self._host = Host(self._idle)
            if not self._host.send(descriptors):
                raise Internal("worker: its host does not start; its messages are in the daemon's log")

    def _end_host(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            host.close()


class Host:
    """The process that forks workers. Everything here blocks, for milliseconds."""

    def __init__(self, idle: float) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        setup = json.dumps({"path": [path for path in sys.path if os.path.isabs(path)], "idle": idle})
        specification = importlib.util.find_spec("orlop_images.worker.__main__")
        assert specification is not None
        assert specification.origin is not None
        arguments = [sys.executable, "-I", "-S", specification.origin, setup]
        with theirs:
            try:
                pid = spawn(arguments, {0: theirs.fileno(), _HOST_CONTROL: theirs.fileno()}, os.environ | _MALLOC)
            except OSError:
                self._control.close()
                raise
        self._pidfd = os.pidfd_open(pid)
        # It ends by itself when it was idle for long, and must not stay a zombie then.
        self._collector = threading.Thread(target=os.waitpid, args=(pid, 0), name="worker-host", daemon=True)
        self._collector.start()

    def send(self, descriptors: Sequence[int]) -> bool:
        """Hand over a job. False when the process is gone."""
        try:
            socket.send_fds(self._control, [b"job"], descriptors)
        except ConnectionError:
            return False
        return True

    def close(self) -> None:
        """End it, and with it every worker. Once only."""
        self._control.close()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._collector.join()
        os.close(self._pidfd)


class Job:
    """One job of a worker."""

    def __init__(self, report: socket.socket) -> None:
        self._report = report
        self._pidfd = -1
        self._data: bytes | None = None
        self._closed = False

    async def started(self) -> bool:
        """Wait until the worker has begun; False when its host ended before that."""
        await readable(self._report.fileno())
        try:
            greeting, descriptors = receive(self._report, 1, 1)
        except ConnectionError:
            return False
        if descriptors:
            self._pidfd = descriptors[0]
        return bool(greeting and descriptors)

    async def result(self) -> dict[str, Any]:
        """The report, once the process has ended. Raises what the worker failed with."""
        if self._data is None:
            loop = asyncio.get_running_loop()
            data = bytearray()
            with contextlib.suppress(ConnectionError):
                while part := await loop.sock_recv(self._report, 1 << 16):
                    data += part
            await readable(self._pidfd)
            self._data = bytes(data)
        if not self._data.endswith(b"}"):
            raise Unknown("worker: ended without a report; it was killed, or the host is out of memory")
        report: dict[str, Any] = json.loads(self._data)
        if "error" in report:
            raise failure(report["error"], report["text"])
        return report

    async def close(self) -> None:
        """Kill the worker if it still runs, and wait until it and its mounts are gone. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._pidfd < 0:
            await self.started()  # it may be about to begin
        pidfd, self._pidfd = self._pidfd, -1
        self._report.close()
        if pidfd >= 0:
            try:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                await readable(pidfd)
            finally:
                os.close(pidfd)


def failure(kind: str, text: str) -> OrlopError:
    """The error of the class that a worker named."""
    cls = getattr(errors, kind, Unknown)
    return cls(text) if isinstance(cls, type) and issubclass(cls, OrlopError) else Unknown(text)
