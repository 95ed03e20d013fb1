# SPDX-License-Identifier: Apache-2.0
"""Entry point of the worker host: ``python -I -S __main__.py JSON``, with a SEQPACKET socket as descriptor 3.

Importing takes a worker longer than unpacking a small layer, so one process imports everything and then forks for
each job, which takes a millisecond. It has a single thread and holds nothing of the daemon's. A message on the socket
is one job: its JSON lies in the first descriptor that comes along, and the others are the job's standard input, output
and error and the socket for its report. The host ends when the daemon does, or when there was no job for a while.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final

_CONTROL: Final = 3
_MOST: Final = 16
_PR_SET_PDEATHSIG: Final = 1


def main(arguments: Sequence[str]) -> int:
    """Serve jobs until the other side closes, or *idle* seconds pass without one."""
    setup: dict[str, Any] = json.loads(arguments[0])
    # -S leaves us without site packages, for a quick start; the daemon knows where they are.
    sys.path[:] = setup["path"]
    from orlop_images.worker import jobs
    from orlop_sdk.linux.descriptors import receive

    jobs.preload()
    # Jobs are short and make no cycles; without collections their memory stays shared with ours.
    gc.disable()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps; the daemon learns from the report's socket
    control = socket.socket(fileno=_CONTROL)
    own = os.getpid()
    waiting = select.poll()
    waiting.register(control, select.POLLIN)
    while waiting.poll(setup["idle"] * 1000):
        try:
            message, descriptors = receive(control, 16, _MOST)
        except ConnectionResetError:
            break
        if not message:
            break
        if os.fork() == 0:
            control.close()
            os._exit(_child(jobs, descriptors, own))
        for descriptor in descriptors:
            os.close(descriptor)
    return 0


def _child(jobs: Any, descriptors: Sequence[int], host: int) -> int:
    """Do one job, report, and end at once: threads that still read have nothing left to say."""
    from orlop_images.worker import fault

    request_fd, *standard, report_fd = descriptors
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != host:
        return 1  # it died before it could take us along
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    report = socket.socket(fileno=report_fd)
    pidfd = os.pidfd_open(os.getpid())
    socket.send_fds(report, [b"+"], [pidfd])
    os.close(pidfd)
    try:
        with open(request_fd, "rb") as file:
            request: dict[str, Any] = json.load(file)
        answer = jobs.JOBS[request["job"]](request)
    except BaseException as error:  # noqa: BLE001  # the edge of the process: whatever it is, it is reported
        kind, text = fault.describe(error)
        answer = {"error": kind, "text": text}
    report.sendall(json.dumps(answer).encode())
    return 0


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
