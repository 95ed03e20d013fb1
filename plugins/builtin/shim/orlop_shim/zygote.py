# SPDX-License-Identifier: Apache-2.0
"""The zygote: has loaded all that a shim needs, and forks one when asked.

It has one thread and no state. A daemon starts it, with a socket of sequenced packets as standard input; each packet is
a request as JSON, each answer ``{"address", "pid"}`` or ``{"error", "code"}``. It ends with that socket, its shims
do not.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
from contextlib import suppress
from typing import Any, Final

# Loaded for the shims, which share the memory that it takes.
import orlop_shim.stats  # noqa: F401
from orlop.errors import OrlopError
from orlop_shim import host
from orlop_shim.shim import Shim
from orlop_shim.start import Request, group_of, listen, socket_path, write_address

_MOST: Final = 64 << 10
_UNKNOWN: Final = 2


def main() -> None:
    """Answer requests until the socket ends."""
    control = socket.socket(fileno=os.dup(0))
    host.set_name("orlop-zygote")
    host.set_title(["orlop-zygote"])
    shim = Shim()
    _mind_signals()
    gc.collect()
    # What is there now is never garbage: the collector must not touch, and so copy, its pages in every shim.
    gc.freeze()
    control.send(b"{}")
    while packet := control.recv(_MOST):
        answer = _answer(control, json.loads(packet), shim)
        control.send(json.dumps(answer).encode())


def _mind_signals() -> None:
    """Reap children, end when told to; in a shim, where they stay in place, the handlers leave that to its loop."""
    own = os.getpid()

    def handle(number: int, _: object) -> None:
        if os.getpid() != own:
            return
        if number != signal.SIGCHLD:
            os._exit(0)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue

    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _answer(control: socket.socket, fields: dict[str, Any], shim: Shim) -> dict[str, Any]:
    request = Request(**fields)
    try:
        path = socket_path(request, group_of(request.bundle, request.id))
        endpoint = listen(path)
        write_address(request.bundle, endpoint.address)
    except (OrlopError, OSError) as error:
        return {"error": str(error), "code": error.code if isinstance(error, OrlopError) else _UNKNOWN}
    pid = 0
    if endpoint.listener is not None:
        pid = os.fork()
        if pid == 0:
            _be_shim(control, request, endpoint.listener, shim)
        endpoint.listener.close()
    return {"address": endpoint.address, "pid": pid}


def _be_shim(control: socket.socket, request: Request, listener: socket.socket, shim: Shim) -> None:
    status = 1
    try:
        control.close()
        shim.serve(request, listener)
        status = 0
    finally:
        # Not by way of what the zygote would do at its own end.
        os._exit(status)


if __name__ == "__main__":
    main()
