# SPDX-License-Identifier: Apache-2.0
"""Output that nobody takes: no container waits for ever, and the daemon's log says what was dropped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.ctr import eventually

if TYPE_CHECKING:
    from tests.integration.shim.conftest import Case

LOGGER = """\
#!/bin/sh
trap "" TERM
echo $$ >"$2"
exec 5>&-
exec cat <&3 >"$2.kept"
"""
MUCH = 300_000
# More than a pipe holds, once it is told to.
WRITER = f"while [ ! -e /go-$1 ]; do sleep 0.1; done; head -c {MUCH} /dev/zero; exit 7"
PATIENCE = 90


def writer(id: str) -> list[str]:
    """The command of a container that waits for `go`."""
    return [id, "/bin/sh", "-c", WRITER, "sh", id]


def go(case: Case, id: str) -> None:
    """Have a writer begin."""
    (case.tree / f"go-{id}").touch()


def logger(case: Case, id: str) -> str:
    """The log URI of a logger that says its pid."""
    program = case.daemon.base / "logger"
    program.write_text(LOGGER)
    program.chmod(0o755)
    return f"binary://{program}?to={case.daemon.base / id}"


def pid_of(case: Case, id: str) -> int:
    """The pid of a container's logger, once it has said so."""
    path = case.daemon.base / id
    eventually(lambda: path.exists() and path.read_text().endswith("\n"), "the logger does not say its pid")
    return int(path.read_text())


def dropped(case: Case, id: str) -> list[int]:
    """How many bytes of a container the log says were dropped, each time it says so."""
    said = re.findall(rf"container \W*{id}\W*: (\d+) bytes of its output were dropped", case.daemon.log.read_text())
    return [int(count) for count in said]


def told(case: Case, id: str) -> int:
    """How many bytes the log says were dropped, once it says so."""
    eventually(lambda: bool(dropped(case, id)), lambda: f"nothing is said of {id}\n{case.daemon.tail()}")
    return sum(dropped(case, id))


def ends(case: Case, id: str) -> None:
    """Wait for a writer to end by itself, and remove it."""
    eventually(lambda: case.status(id) == "STOPPED", lambda: f"{id} stands still\n{case.daemon.tail()}", PATIENCE)
    deleted = case.ctr.run("tasks", "rm", id)
    assert "exit code 7" in deleted.err, str(deleted)
    case.ctr.ok("containers", "rm", id)


def test_nobody_takes_it(own: Case) -> None:
    """A logger that was killed, one that stands still, named pipes whose reader is gone and never was: all at once."""
    os.mkfifo(own.daemon.base / "pipe")
    own.ctr.ok("run", "-d", *own.flags("--log-uri", f"fifo://{own.daemon.base}/pipe"), *writer("never"), timeout=60)
    for id in ("killed", "stopped"):
        own.ctr.ok("run", "-d", *own.flags("--log-uri", logger(own, id)), *writer(id))
    reader = subprocess.Popen(
        own.ctr.command("run", *own.flags(), *writer("left")), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    stopped = pid_of(own, "stopped")
    try:
        eventually(lambda: own.status("left") == "RUNNING", "the container does not run")
        reader.kill()
        os.kill(pid_of(own, "killed"), signal.SIGKILL)
        os.kill(stopped, signal.SIGSTOP)
        for id in ("killed", "stopped", "left", "never"):
            go(own, id)
        ends(own, "left")
        ends(own, "never")
        ends(own, "killed")
        eventually(lambda: own.status("stopped") == "STOPPED", own.daemon.tail, PATIENCE)
    finally:
        reader.wait()
        os.kill(stopped, signal.SIGCONT)
        for id in ("killed", "stopped", "left", "never"):
            own.remove(id)
    for id in ("killed", "stopped", "left", "never"):
        assert 0 < told(own, id) <= MUCH


def test_a_slow_logger_loses_nothing(own: Case) -> None:
    program = own.daemon.base / "slow"
    kept = own.daemon.base / "slow.kept"
    program.write_text(
        '#!/bin/sh\ntrap "" TERM\nexec 5>&-\nexec >"$2"\n'
        "for _ in 1 2 3 4 5 6 7; do head -c 8192 <&3; sleep 3; done\ncat <&3\n"
    )
    program.chmod(0o755)
    go(own, "slow")
    own.ctr.ok("run", "-d", *own.flags("--log-uri", f"binary://{program}?to={kept}"), *writer("slow"))
    ends(own, "slow")
    eventually(lambda: kept.stat().st_size == MUCH, lambda: f"{kept.stat().st_size}")
    assert dropped(own, "slow") == []


def test_a_disk_that_is_full(own: Case) -> None:
    small = own.daemon.base / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], check=True)
    try:
        own.ctr.ok("run", "-d", *own.flags("--log-uri", f"file://{small}/log"), *writer("full"))
        go(own, "full")
        ends(own, "full")
        kept = Path(small / "log").stat().st_size
        assert told(own, "full") == MUCH - kept
    finally:
        own.remove("full")
        subprocess.run(["umount", str(small)], check=True)
