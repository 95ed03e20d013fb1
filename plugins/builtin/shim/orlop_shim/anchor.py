# SPDX-License-Identifier: Apache-2.0
"""The anchor of a shim: the process that stays, and holds what must not be lost while there is nothing to do.

A shim is two processes, and ends when either is killed. The anchor is what daemons and ``ps`` know: parent of the
containers' processes (it is their subreaper), leader of the session. It decides nothing. A *worker*, forked from it,
does all the work. Once that has had nothing to do for a while it leaves its state and its open descriptors to the
anchor (`orlop_shim.tether`) and ends, and the memory that working takes goes with it. When a descriptor has
something, a child ends, or a pipe that somebody else should read has filled, the anchor forks the next worker, which
goes on where the last one left.

Python counts references inside of the objects, so whatever code touches is memory of its own, no more shared with the
zygote. That is why this code does so little, and with so few parts.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import termios
import time
from collections.abc import Callable

from orlop_sdk.hints import Final, NamedTuple, NoReturn
from orlop_sdk.linux.descriptors import receive
from orlop_shim import host
from orlop_shim import plain_socket as socket

#: A child's end, as it is told the worker: pid, exit status (128 and the signal for one that was killed), time in ns.
END: Final = struct.Struct("=iiq")
#: A pipe to look at, in what a worker leaves: the place of its descriptor, and how many bytes it held.
LOOK: Final = struct.Struct("=ii")
#: Most descriptors in one packet of a worker; more come in several. The kernel's limit is 253.
MOST_FDS: Final = 200
#: Packets with descriptors begin with two bytes: whether it is the first, and how many follow. The last one goes on
#: with the pipes to look at.
BEGIN: Final = b"b"
MORE: Final = b"m"
HEAD: Final = 2
#: The place, among the descriptors that a worker leaves, of the one that tells when any other has something.
EVENTS: Final = 1

# Milliseconds between two looks at pipes.
_LOOK: Final = 5000
# Seconds until what failed for now is tried again.
_RETRY: Final = 0.1
_PACKET: Final = 64 << 10
# As containerd asks its shims: `orlop_shim.host.isolate_core`.
_ISOLATED: Final = bool(os.environ.get("SCHED_CORE"))
_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK
_ENDED: Final = os.WEXITED | os.WNOHANG | os.WNOWAIT
_STOPS: Final = bytes((signal.SIGTERM, signal.SIGINT))


class Ties(NamedTuple):
    """What an anchor gives a worker."""

    pid: int
    """The anchor's pid, which is the shim's."""
    ends: int
    """A pipe with the ends of children. It outlasts workers, so that none is forgotten between two of them."""
    link: socket.SocketType
    """Where to leave things."""
    left: list[int]
    """The descriptors that the last worker left; none for the first."""


def hold(work: Callable[[Ties], None], let_go: Callable[[], None] = lambda: None) -> NoReturn:
    """Be the anchor of a shim whose workers do *work*, to the end.

    The process is a new one that nobody else uses, with ``/dev/null`` for its standard streams. *let_go* is called
    once the first worker is there, to close what is for that one alone.
    """
    try:
        os.setsid()
    except OSError:
        # Leads its group, and so has a session of its own.
        pass
    host.become_subreaper()
    if _ISOLATED:
        host.isolate_core()
    pid = os.getpid()
    ends, reports = os.pipe2(_FLAGS)
    link, to_anchor = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    wake, write = os.pipe2(_FLAGS)
    signal.set_wakeup_fd(write)
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    worker = _start(work, Ties(pid, ends, to_anchor, []))
    let_go()
    while True:
        status = _attend(poll, wake, reports, worker)
        left, looks = _take_over(link)
        if not left:
            if status:
                # What it was doing goes as well: an OCI runtime at work would make a container that nobody knows of.
                host.end_group()
            os._exit(0)
        _sleep(poll, wake, reports, left, looks)
        worker = _start(work, Ties(pid, ends, to_anchor, left))
        _close(left)


def _start(work: Callable[[Ties], None], ties: Ties) -> int:
    """Start a worker; its pid."""
    worker = _fork()
    if worker == 0:
        _work(work, ties)
    return worker


def _fork() -> int:
    while True:
        try:
            return os.fork()
        except OSError:
            # No memory, or no process to be had, for now. What there is to do waits in descriptors.
            time.sleep(_RETRY)


def _work(work: Callable[[Ties], None], ties: Ties) -> NoReturn:
    status = 1
    try:
        host.hear_of_parents_end()
        work(ties)
        status = 0
    finally:
        # Not by way of what the zygote would do at its own end.
        os._exit(status)


def _attend(poll: select.poll, wake: int, reports: int, worker: int) -> int:
    """Report ends of children until the worker's own; its exit status."""
    while True:
        while (found := _child(os.P_ALL, 0)) is not None:
            if found.si_pid != worker:
                if _report(reports, found):
                    continue
                # It has yet to read thousands of them. They wait, and nothing but its own end would come after them.
                time.sleep(_RETRY)
                own = _child(os.P_PID, worker)
                if own is None:
                    continue
                found = own
            os.waitpid(worker, 0)
            return found.si_status if found.si_code == os.CLD_EXITED else 1
        poll.poll()
        _heed(wake)


def _take_over(link: socket.SocketType) -> tuple[list[int], list[tuple[int, int]]]:
    """The descriptors that the last worker left, and those to look at; none if it left nothing."""
    left: list[int] = []
    looks: list[tuple[int, int]] = []
    follow = 1
    while follow:
        try:
            data, fds = receive(link, _PACKET, MOST_FDS, socket.MSG_DONTWAIT)
        except BlockingIOError:
            break
        if data.startswith(BEGIN):
            # A worker that could not leave everything went on, and has tried again.
            _close(left)
            left = []
        left += fds
        follow = data[1]
        if len(data) > HEAD:
            looks = [(left[place], held) for place, held in LOOK.iter_unpack(data[HEAD:])]
    if follow:
        _close(left)
        return [], []
    return left, looks


def _sleep(poll: select.poll, wake: int, reports: int, left: list[int], looks: list[tuple[int, int]]) -> None:
    """Until there is something to do for a worker."""
    events = left[EVENTS]
    poll.register(events, select.POLLIN)
    wanted = False
    while not (wanted or _report_all(reports)):
        ready = poll.poll(_LOOK if looks else None)
        for fd, _ in ready:
            if fd == wake:
                _heed(wake)
            else:
                wanted = True
        if not ready:
            wanted = any(map(_has_filled, looks))
    poll.unregister(events)


def _report_all(reports: int) -> bool:
    """Report the ends of all children that have ended; whether there were any."""
    found = _child(os.P_ALL, 0)
    if found is None:
        return False
    while found is not None and _report(reports, found):
        found = _child(os.P_ALL, 0)
    return True


def _report(reports: int, found: os.waitid_result) -> bool:
    """Report the end of a child. Not if there is no room: it stays to be waited for then."""
    status = found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status
    try:
        os.write(reports, END.pack(found.si_pid, status, time.time_ns()))
    except BlockingIOError:
        return False
    os.waitpid(found.si_pid, 0)
    return True


def _heed(wake: int) -> None:
    """Take note of signals; at those that end processes, end, and with this one the worker."""
    try:
        numbers = os.read(wake, 512)
    except BlockingIOError:
        return
    for number in _STOPS:
        if number in numbers:
            os._exit(0)


def _child(kind: int, id: int) -> os.waitid_result | None:
    """A child that has ended and is still to be waited for."""
    try:
        return os.waitid(kind, id, _ENDED)
    except ChildProcessError:
        return None


def _has_filled(look: tuple[int, int]) -> bool:
    """Whether a pipe holds something else than when its worker looked last."""
    fd, before = look
    held: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
    return held not in (0, before)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
