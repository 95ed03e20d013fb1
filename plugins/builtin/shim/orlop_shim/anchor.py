# SPDX-License-Identifier: Apache-2.0
"""The anchor of a shim: the process that stays, and holds what must not be lost while there is nothing to do.

A shim is two processes. The anchor is what daemons and ``ps`` know: parent of the containers' processes (it is their
subreaper), leader of the session. It decides nothing. A *worker*, forked from it, does all the work. Once that has had
nothing to do for a while it leaves its state and its open descriptors to the anchor (`orlop_shim.tether`) and ends, and
the memory that working takes goes with it. When a descriptor has something, a child ends, or a pipe that somebody else
should read has filled, the anchor forks the next worker, which goes on where the last one left.

Python counts references inside of the objects, so whatever code touches is memory of its own, no more shared with the
zygote. That is why this code does so little, and with so few parts.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

from orlop_shim import files, host

#: A child's end, as it is told the worker: pid, exit status (128 and the signal for one that was killed), time in ns.
END: Final = struct.Struct("=iiq")
#: A pipe to look at, in what a worker leaves: the place of its descriptor, and how many bytes it held.
LOOK: Final = struct.Struct("=ii")
#: Most descriptors in one packet of a worker; more come in several. The kernel's limit is 253.
MOST_FDS: Final = 200
#: What packets with descriptors begin with, the first one and those that follow; all of them have the pipes to look at.
BEGIN: Final = b"b"
MORE: Final = b"m"
#: The packet of a worker that serves: who asked for the shim has been answered.
SERVES: Final = b"serves"
#: The place, among the descriptors that a worker leaves, of the one that tells when any other has something.
EVENTS: Final = 1

# Seconds between two looks at pipes, and until what failed for now is tried again.
_LOOK: Final = 5.0
_RETRY: Final = 0.1
_PACKET: Final = 64 << 10
# As containerd asks its shims: `orlop_shim.host.isolate_core`.
_ISOLATED: Final = bool(os.environ.get("SCHED_CORE"))
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


class Ties:
    """What an anchor and its workers have in common."""

    __slots__ = ("ends", "left", "link", "pid", "reports", "to_anchor")

    def __init__(self) -> None:
        #: The anchor's pid, which is the shim's.
        self.pid = os.getpid()
        #: The descriptors that the last worker left; none for the first.
        self.left: list[int] = []
        #: A pipe with the ends of children, which outlasts workers, so that none is forgotten between two of them.
        self.ends, self.reports = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.link, self.to_anchor = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def hold(work: Callable[[Ties], None], control: socket.socket | None = None, failure: bytes = b"") -> NoReturn:
    """Be the anchor of a shim whose workers do *work*, to the end.

    The process is a new one that nobody else uses. *control* is let go of once a worker serves; if none ever does,
    *failure* is sent there.
    """
    # Fails in a process that leads its group, which has a session of its own then.
    with suppress(OSError):
        os.setsid()
    host.close_standard_streams()
    host.become_subreaper()
    if _ISOLATED:
        host.isolate_core()
    anchor = Anchor(work, control)
    status = anchor.run()
    if status and anchor.control is not None:
        anchor.control.send(failure)
    os._exit(status)


class Anchor:
    """The anchor. *control* is None from when a worker serves on."""

    __slots__ = ("_looks", "_poll", "_ties", "_wake", "_work", "control")

    def __init__(self, work: Callable[[Ties], None], control: socket.socket | None) -> None:
        self._work = work
        self.control = control
        self._ties = Ties()
        self._looks: list[tuple[int, int]] = []
        self._wake, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)

    def run(self) -> int:
        """Have workers work until one leaves nothing; its exit status."""
        while True:
            status = self._attend(self._fork())
            self._take_over()
            if not self._ties.left:
                return status
            self._sleep()

    def _fork(self) -> int:
        ties = self._ties
        while True:
            try:
                worker = os.fork()
            except OSError:
                # No memory, or no process to be had, for now. What there is to do waits in descriptors.
                time.sleep(_RETRY)
                continue
            if worker == 0:
                status = 1
                try:
                    host.end_with_parent(ties.pid)
                    self._work(ties)
                    status = 0
                finally:
                    # Not by way of what the zygote would do at its own end.
                    os._exit(status)
            self._drop()
            return worker

    def _attend(self, worker: int) -> int:
        """Report ends of children until the worker's own; its exit status."""
        if self.control is not None:
            self._poll.register(self._ties.link, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._wake:
                    self._heed()
                elif self.control is not None:
                    self._poll.unregister(self._ties.link)
                    self._ties.link.recv(_PACKET)
                    self.control.close()
                    self.control = None
            while (found := _ended(os.P_ALL, 0)) is not None:
                if found.si_pid == worker:
                    os.waitpid(worker, 0)
                    return found.si_status if found.si_code == os.CLD_EXITED else 1
                if not self._report(found):
                    # It has yet to read thousands of them. They wait; only its own end would come after them.
                    time.sleep(_RETRY)
                    if (own := _ended(os.P_PID, worker)) is not None:
                        os.waitpid(worker, 0)
                        return own.si_status if own.si_code == os.CLD_EXITED else 1

    def _take_over(self) -> None:
        """Receive what the last worker left, if it did."""
        ties = self._ties
        data = b""
        with suppress(BlockingIOError):
            while True:
                data, fds = files.receive(ties.link, _PACKET, MOST_FDS, socket.MSG_DONTWAIT)
                if data.startswith(BEGIN):
                    # A worker that could not leave everything went on, and has tried again.
                    self._drop()
                ties.left += fds
        self._looks = [(ties.left[place], held) for place, held in LOOK.iter_unpack(data[1:])] if ties.left else []

    def _drop(self) -> None:
        for fd in self._ties.left:
            os.close(fd)
        self._ties.left = []

    def _sleep(self) -> None:
        """Until there is something to do for a worker."""
        events = self._ties.left[EVENTS]
        self._poll.register(events, select.POLLIN)
        while not self._report_all():
            ready = self._poll.poll(_LOOK * 1e3 if self._looks else None)
            if any(fd == self._wake for fd, _ in ready):
                self._heed()
            if any(fd == events for fd, _ in ready) or (not ready and any(map(_has_filled, self._looks))):
                break
        self._poll.unregister(events)

    def _report_all(self) -> bool:
        """Report the ends of all children that have ended; whether there were any."""
        any_ended = False
        while (found := _ended(os.P_ALL, 0)) is not None:
            any_ended = True
            if not self._report(found):
                break
        return any_ended

    def _report(self, found: os.waitid_result) -> bool:
        """Report the end of a child. Not if there is no room: it stays to be waited for then."""
        status = found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status
        try:
            os.write(self._ties.reports, END.pack(found.si_pid, status, time.time_ns()))
        except BlockingIOError:
            return False
        os.waitpid(found.si_pid, 0)
        return True

    def _heed(self) -> None:
        """Take note of signals; at those that end processes, end, and with this one the worker."""
        with suppress(BlockingIOError):
            if any(number in _STOPS for number in os.read(self._wake, 512)):
                os._exit(0)


def _ended(kind: int, id: int) -> os.waitid_result | None:
    """A child that has ended and is still to be waited for."""
    try:
        return os.waitid(kind, id, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None


def _has_filled(look: tuple[int, int]) -> bool:
    """Whether a pipe holds something else than when its worker looked last."""
    fd, before = look
    held: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
    return held not in (0, before)
