# SPDX-License-Identifier: Apache-2.0
"""The zygote: has loaded all that a shim needs, and forks one when asked.

It has one thread and no state. A daemon starts it, with a socket of sequenced packets as standard input; each packet is
a request as JSON, each answer ``{"address"}`` or ``{"error", "code"}``, sent by the shim itself. It ends with that
socket, its shims do not.

While shims are wanted it is one ahead: a *spare*, anchor and worker, which waits for the next request itself, and ends
if none comes for a while. It tells by a pipe how far it got.
"""

from __future__ import annotations

import json
import os
import select
import signal
from contextlib import suppress

# Loaded for the shims, which share the memory that it takes.
import orlop_shim.stats  # noqa: F401
from orlop.errors import OrlopError
from orlop_sdk.hints import Any, Final, NoReturn
from orlop_shim import anchor, cgroup, host, program
from orlop_shim import plain_socket as socket
from orlop_shim.shim import Shim, prepare
from orlop_shim.start import Request, group_of, listen, socket_path, write_address

_MOST: Final = 64 << 10
_UNKNOWN: Final = 2
# Milliseconds that a spare waits.
_SPARE: Final = 2000
# What a spare tells: that it has a request, and that it answers.
_TAKEN: Final = b"t"
_ANSWERED: Final = b"a"
# A plain number: members of enumerations are made of much that would be copied when they are used.
_CHILD_ENDED: Final = int(signal.SIGCHLD)
_FAILURE: Final = json.dumps({"error": "ended before it served; see the log", "code": 14}).encode()


def main() -> None:
    """Answer requests until the socket ends."""
    control = socket.socket(fileno=os.dup(0))
    host.set_title(["orlop-zygote"])
    os.chdir("/")
    cgroup.remember()
    program.get_ready()
    shim = prepare()
    _mind_signals()
    host.forget_code()
    control.send(b"{}")
    wanted = False
    # A look at the next request, or at the end of the socket.
    while wanted or control.recv(1, socket.MSG_PEEK):
        wanted = _fork_shim(control, shim)


def _fork_shim(control: socket.socket, shim: Shim) -> bool:
    """Fork a spare, and wait until it has answered a request, or ended; whether it had one.

    All the rest is done by the child's child: what this process touches is no more shared with the shims before.
    """
    hears, tells = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        os.close(hears)
        _be_shim(control, tells, shim)
    os.close(tells)
    taken = bool(os.read(hears, 1))
    if taken and not os.read(hears, 1):
        control.send(_FAILURE)
    os.close(hears)
    return taken


def _mind_signals() -> None:
    """Reap children, end when told to; in a shim, where they stay in place, the handlers leave that to others."""
    own = os.getpid()

    def handle(number: int, _: object) -> None:
        if os.getpid() != own:
            return
        if number != _CHILD_ENDED:
            os._exit(0)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            pass

    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _be_shim(control: socket.socket, tells: int, shim: Shim) -> NoReturn:
    def work(ties: anchor.Ties) -> None:
        shim.serve(ties, lambda: _begin(control, tells, ties.pid))

    def let_go() -> None:
        control.close()
        os.close(tells)

    anchor.hold(work, let_go)


def _begin(control: socket.socket, tells: int, parent: int) -> tuple[Request, socket.socket]:
    """Wait for a request, and answer it; does not return where no new shim is wanted."""
    packet = _await_request(control, tells, parent)
    if not packet:
        os._exit(0)
    request = Request(**json.loads(packet))
    listener: socket.socket | None = None
    try:
        address, listener = listen(socket_path(request, group_of(request.bundle, request.id)))
        answer: dict[str, Any] = {"address": address}
    except (OrlopError, OSError) as error:
        answer = {"error": str(error), "code": error.code if isinstance(error, OrlopError) else _UNKNOWN}
    # Before it answers, so that whatever comes between, there are never two answers.
    _tell(tells, _ANSWERED)
    os.close(tells)
    control.send(json.dumps(answer).encode())
    control.close()
    if "address" in answer:
        # This daemon knows by now. On a full disk there is more to write, and to fail at.
        with suppress(OSError):
            write_address(request.bundle, answer["address"])
    if listener is None:
        os._exit(0)
    return request, listener


def _await_request(control: socket.socket, tells: int, parent: int) -> bytes:
    """The request; nothing if none comes, or the anchor or the zygote are gone. Others take what comes then."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(tells, 0)
    ready = dict(poll.poll(_SPARE))
    if not ready or tells in ready or os.getppid() != parent:
        return b""
    packet = control.recv(_MOST)
    if packet:
        _tell(tells, _TAKEN)
    return packet


def _tell(tells: int, what: bytes) -> None:
    # The zygote may have ended meanwhile, which is no fault of the shim's.
    with suppress(BrokenPipeError):
        os.write(tells, what)


if __name__ == "__main__":
    main()
