# SPDX-License-Identifier: Apache-2.0
"""The shim: what a new process runs, from having its socket to its end."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from typing import Final

from orlop_shim import host
from orlop_shim.children import Children
from orlop_shim.container import Surroundings
from orlop_shim.loop import Loop
from orlop_shim.publisher import Publisher
from orlop_shim.rpc import Server
from orlop_shim.sandbox import SandboxService
from orlop_shim.service import TaskService
from orlop_shim.start import Request
from orlop_shim.text_log import Log

#: What processes are called in ``ps``.
NAME: Final = "containerd-shim-orlop-v1"
# Seconds at the end: for events to get out, and for loggers to end.
_EVENTS: Final = 5.0
_CHILDREN: Final = 13.0
_PAUSE: Final = 0.05


class Shim:
    """A shim that is made before it has a process of its own, so that what it consists of lies close together."""

    def __init__(self) -> None:
        self._log = Log()
        self._loop = Loop()
        self._loop.on_error = self._note
        self._children = Children(self._loop)
        self._publisher = Publisher(self._loop, self._log)
        self._around = Surroundings(self._loop, self._children, self._publisher, self._log)
        self._service = TaskService(self._around, lambda: self._loop.begin(self._leave()))
        sandbox = SandboxService(self._around, self._service)
        self._server = Server(self._loop, {**self._service.methods(), **sandbox.methods()}, self._log)
        self._path = ""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, self._loop.stop)

    def _note(self, error: BaseException) -> None:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "?"
        self._log.error(f"{where}: {type(error).__name__}: {error}")

    def serve(self, request: Request, listener: socket.socket) -> None:
        """Serve at a socket; returns when it has been told to go.

        The process is a new one that nobody else uses: it leaves session, streams and directory behind.
        """
        _settle(request)
        self._log.open(request.bundle, debug=request.debug)
        if request.shim_cgroup:
            try:
                host.join_cgroup(request.shim_cgroup)
            except OSError as error:
                self._log.error(f"not moved into the control group {request.shim_cgroup}: {error}")
        self._around.namespace = request.namespace
        self._publisher.open(request.ttrpc_address, request.namespace)
        self._path = listener.getsockname()
        self._server.listen(listener)
        self._log.debug(f"serves namespace {request.namespace}")
        self._loop.run()
        self._server.close()
        self._publisher.close()

    async def _leave(self) -> None:
        """Go once nothing is left to do. A container that came meanwhile keeps the shim."""
        # The answer to the call that sends us away has to get out first.
        await self._loop.sleep(0)
        await self._loop.within(_EVENTS, self._publisher.empty())
        for _ in range(int(_CHILDREN / _PAUSE)):
            if not self._children.busy:
                break
            await self._loop.sleep(_PAUSE)
        if self._service.idle:
            with suppress(OSError):
                os.unlink(self._path)
            self._loop.stop()


def _settle(request: Request) -> None:
    # Fails in a process that leads its group, which has a session of its own then.
    with suppress(OSError):
        os.setsid()
    host.close_standard_streams()
    os.chdir(request.bundle)
    os.umask(0o022)
    if os.environ.get("SCHED_CORE"):
        host.isolate_core()
    host.raise_oom_score()
    host.become_subreaper()
    host.set_name(NAME)
    host.set_title([NAME, "-namespace", request.namespace, "-id", request.id, "-address", request.grpc_address])
