# SPDX-License-Identifier: Apache-2.0
"""Runs one container to its end and then removes it, whoever else is gone by then.

Started as ``python -I -S keeper.py [--stop] RUNTIME ROOT ID BUNDLE``, so that it stays small: the container gets its
standard streams and it ends as the container does. With ``--stop`` the container gets no standard input; instead, it
is stopped when that of this program ends. An own process, since neither the daemon nor the OCI runtime outlives every
end of the daemon.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

_PR_SET_CHILD_SUBREAPER = 36
#: Seconds that a container has to end after SIGTERM.
_GRACE = 10.0


def main(arguments: list[str]) -> int:
    """Run the container; returns its exit status, 128 and more for a signal."""
    stops = arguments[0] == "--stop"
    runtime, root, id, bundle = arguments[stops:]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its container, never before
    # The container's first process becomes our child when the runtime has done its part.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    command = [runtime, "--root", root]
    pidfile = os.path.join(bundle, "pid")
    run = [*command, "run", "--detach", "--pid-file", pidfile, "--bundle", bundle, id]
    try:
        started = subprocess.run(run, check=False, stdin=subprocess.DEVNULL if stops else None)
        if started.returncode:
            return started.returncode
        with open(pidfile) as file:
            pid = int(file.read())
        if stops:
            threading.Thread(target=_stop_at_end, args=(pid,), daemon=True).start()
        status = _wait(pid)
    finally:
        subprocess.run([*command, "delete", "--force", id], check=False, stdin=subprocess.DEVNULL)
    return 128 - status if status < 0 else status


def _wait(pid: int) -> int:
    """The exit status of a process; others that were left to us are reaped meanwhile."""
    while True:
        found, status = os.wait()
        if found == pid:
            return os.waitstatus_to_exitcode(status)


def _stop_at_end(pid: int) -> None:
    while os.read(0, 4096):
        pass
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        time.sleep(_GRACE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
