# SPDX-License-Identifier: Apache-2.0
"""The shim: what its workers run (`orlop_shim.anchor`), from having its socket to its end."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from orlop_sdk.hints import Final
from orlop_shim import host
from orlop_shim import plain_socket as socket
from orlop_shim.anchor import Ties
from orlop_shim.bag import Bag
from orlop_shim.children import Children
from orlop_shim.container import Surroundings
from orlop_shim.loop import Loop
from orlop_shim.publisher import Publisher
from orlop_shim.rpc import Server
from orlop_shim.sandbox import SandboxService
from orlop_shim.service import TaskService
from orlop_shim.start import Request
from orlop_shim.tether import Tether
from orlop_shim.text_log import Log
from orlop_shim.wire import Values

#: What processes are called in ``ps``.
NAME: Final = "containerd-shim-orlop-v1"
# Seconds at the end: for events to get out, and for loggers to end.
_EVENTS: Final = 5.0
_CHILDREN: Final = 13.0
_PAUSE: Final = 0.05


def prepare() -> Shim:
    """A shim, in a process that has nothing to do from now on but to fork anchors, which take all this over.

    Its standard streams are ``/dev/null`` then.
    """
    os.umask(0o022)
    host.set_name(NAME)
    host.raise_oom_score()
    shim = Shim()
    gc.collect()
    # What is there now is never garbage: the collector must not touch, and so copy, its pages in every shim.
    gc.freeze()
    host.close_standard_streams()
    return shim


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
        self._sandbox = SandboxService(self._around, self._service)
        self._server = Server(self._loop, {**self._service.methods(), **self._sandbox.methods()}, self._log)
        self._request: Request | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(number, self._told_to_end)

    def _note(self, error: BaseException) -> None:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "?"
        self._log.error(f"{where}: {type(error).__name__}: {error}")

    def serve(self, ties: Ties, begin: Callable[[], tuple[Request, socket.socket]]) -> None:
        """Be a worker of a shim: the first, which begins with a request and a socket to listen on, or a further one.

        Returns when the shim has been told to go; not when there is nothing to do, since another worker goes on then.
        """
        tether = Tether(ties)
        self._around.pid = ties.pid
        left = tether.take_over()
        try:
            if left is None:
                self._begin(*begin())
            else:
                self._resume(*left)
        except Exception as error:
            # The process ends, and nobody else can tell why.
            self._note(error)
            raise
        tether.hear(self._loop, self._around.children)
        self._loop.on_quiet = lambda: self._rest(tether)
        # Its end may have come before the loop heard of such things.
        self._loop.soon(self._look_after_anchor)
        self._loop.run()
        self._server.close()
        self._publisher.close()

    def _told_to_end(self) -> None:
        self._look_after_anchor()
        self._loop.stop()

    def _look_after_anchor(self) -> None:
        if os.getppid() != self._around.pid:
            # The shim has been killed, and the OCI runtime must not go on for it. Loggers may: output is still to come.
            host.end_group()

    def _begin(self, request: Request, listener: socket.socket) -> None:
        self._enter(request)
        if request.shim_cgroup:
            try:
                host.join_cgroup(request.shim_cgroup, (self._around.pid, os.getpid()))
            except OSError as error:
                self._log.error(f"not moved into the control group {request.shim_cgroup}: {error}")
        self._log.open(request.bundle, debug=request.debug)
        self._server.listen(listener)
        self._log.debug(f"serves namespace {request.namespace}")
        self._tell_name(self._around.pid, NAME, "-address", request.grpc_address)
        self._tell_name(os.getpid(), f"{NAME}-worker")

    def _enter(self, request: Request) -> None:
        """Be at home: the directory, and what everybody has to know."""
        self._request = request
        # The container that the shim was made for may be gone, with others of its group still here.
        with suppress(FileNotFoundError):
            os.chdir(request.bundle)
        self._around.namespace = request.namespace
        self._publisher.open(request.ttrpc_address, request.namespace)

    def _tell_name(self, pid: int, name: str, *more: str) -> None:
        """Have ``ps`` show a process as what it is."""
        request = self._request
        assert request is not None
        with suppress(OSError):
            host.set_title([name, "-namespace", request.namespace, "-id", request.id, *more], pid)

    def _rest(self, tether: Tether) -> None:
        """End, and leave everything to the next worker, if all that there is to do is wait."""
        assert self._request is not None
        if not (self._service.rests and self._server.rests):
            return
        self._publisher.disconnect()
        bag = tether.pack(self._loop)
        state = {
            "request": tuple(self._request),
            "log": bag.put(self._log.fileno()),
            "server": self._server.save(bag),
            "tasks": self._service.save(bag),
            "sandbox": self._sandbox.save(),
        }
        tether.leave(state, bag)
        os._exit(0)

    def _resume(self, state: Values, bag: Bag) -> None:
        request = Request(*state["request"])
        self._log.resume(bag.take(state["log"]), debug=request.debug)
        self._enter(request)
        self._sandbox.restore(state["sandbox"])
        self._service.restore(state["tasks"], bag)
        # Last, since calls that wait begin anew here.
        self._server.restore(state["server"], bag)
        self._tell_name(os.getpid(), f"{NAME}-worker")

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
                os.unlink(self._server.path)
            self._loop.stop()
