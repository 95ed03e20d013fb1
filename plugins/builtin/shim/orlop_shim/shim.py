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
from orlop_shim.service import TaskService
from orlop_shim.start import Request
from orlop_shim.text_log import Log

#: What processes are called in ``ps``.
NAME: Final = "containerd-shim-orlop-v1"
# Seconds at the end: for events to get out, and for loggers to end.
_EVENTS: Final = 5.0
_CHILDREN: Final = 13.0
_PAUSE: Final = 0.05


def serve(request: Request, listener: socket.socket) -> None:
    """Be the shim that listens at a socket; returns when it has been told to go.

    The process is a new one that nobody else uses: it leaves session, streams and directory behind.
    """
    _settle(request)
    log = Log.open(request.bundle, debug=request.debug)
    if request.shim_cgroup:
        try:
            host.join_cgroup(request.shim_cgroup)
        except OSError as error:
            log.error(f"not moved into the control group {request.shim_cgroup}: {error}")
    loop = Loop()
    loop.on_error = lambda error: log.error(f"{type(error).__name__}: {error}")
    children = Children(loop)
    publisher = Publisher(loop, request.ttrpc_address, request.namespace, log)
    path = listener.getsockname()
    service = TaskService(
        Surroundings(loop, children, publisher, request.namespace, log),
        lambda: loop.begin(_leave(loop, children, publisher, service, path)),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.on_signal(number, loop.stop)
    server = Server(loop, listener, service.methods(), log)
    log.debug(f"serves namespace {request.namespace}")
    loop.run()
    server.close()


async def _leave(loop: Loop, children: Children, publisher: Publisher, service: TaskService, path: str) -> None:
    """Go once nothing is left to do. A container that came meanwhile keeps the shim."""
    # The answer to the call that sends us away has to get out first.
    await loop.sleep(0)
    await loop.within(_EVENTS, publisher.empty())
    for _ in range(int(_CHILDREN / _PAUSE)):
        if not children.busy:
            break
        await loop.sleep(_PAUSE)
    if service.idle:
        with suppress(OSError):
            os.unlink(path)
        loop.stop()


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
