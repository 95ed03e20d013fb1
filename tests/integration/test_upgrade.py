# SPDX-License-Identifier: Apache-2.0
"""A daemon takes over from an older Orlop, whose shims run on: what that left in its directories is found and used.

The older one is built from the history of this repository, which takes a minute and downloads (``make stress``).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.busy import IMAGE, busy_namespace
from tests.support.ctr import Ctr, columns, eventually
from tests.support.daemon import ORLOPD, Daemon
from tests.support.place import short_directory
from tests.support.runtime import cgroup_files

pytestmark = [pytest.mark.stress, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[2]
#: The first that ran containers of ``io.containerd.runc.v2`` in a shim of its own.
OLD = "eeadf943a3dd6996f9746908413166512782b14c"
TICKS = "trap 'exit 5' TERM; while :; do echo tick; sleep 0.1; done"
#: Containers by name: with Orlop's shim under both of its names, and with containerd's.
RUNTIMES = {
    "own": "io.containerd.orlop.v1",
    "usual": "io.containerd.runc.v2",
    "foreign": "/usr/bin/containerd-shim-runc-v2",
}
GROUP = ("--annotation", "io.containerd.runc.v2.group=pod")


@pytest.fixture(scope="module")
def older(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The ``orlopd`` of the older version."""
    if "stress" not in str(request.config.option.markexpr):
        pytest.skip("takes a minute and downloads; ask for it with make stress")
    git = ("git", "-C", str(REPOSITORY))
    if subprocess.run([*git, "cat-file", "-e", f"{OLD}^{{commit}}"], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"the history of this repository does not have {OLD}; fetch all of it")
    with short_directory() as base:
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", str(REPOSITORY), str(base / "o")], check=True)
        subprocess.run(["git", "-C", str(base / "o"), "checkout", "--quiet", OLD], check=True)
        subprocess.run([str(base / "o/.ci/setup")], check=True, capture_output=True)
        yield base / "o/.venv/bin/orlopd"


@pytest.fixture
def daemon(older: Path) -> Iterator[Daemon]:
    """A daemon of the older version."""
    with short_directory() as base, Daemon(base, (str(older),)) as daemon:
        yield daemon


@pytest.fixture
def ctr(daemon: Daemon) -> Iterator[Ctr]:
    with busy_namespace(daemon, "up") as ctr:
        yield ctr
    assert cgroup_files(ctr.namespace, "") == []


def tasks(ctr: Ctr) -> dict[str, tuple[int, str]]:
    """The pid and state of every task."""
    return {row[0]: (int(row[1]), row[2]) for row in columns(ctr.ok("tasks", "ls"))}


def test_containers_of_the_older_daemon(daemon: Daemon, ctr: Ctr) -> None:
    """Those that run, are frozen, have ended, and end while there is no daemon; then all of them are removed."""
    logs = {id: daemon.base / f"{id}.log" for id in RUNTIMES}
    for id, runtime in RUNTIMES.items():
        ctr.ok("run", "-d", "--runtime", runtime, "--log-uri", f"file://{logs[id]}", IMAGE, id, "sh", "-c", TICKS)
    ctr.ok("run", "-d", IMAGE, "ended", "sh", "-c", "exit 3")
    for id in ("frozen", "dies"):
        ctr.ok("run", "-d", IMAGE, id, "sleep", "1000")
    ctr.ok("tasks", "pause", "frozen")
    for id in ("one", "two"):
        ctr.ok("run", "-d", *GROUP, IMAGE, id, "sleep", "1000")
    eventually(lambda: tasks(ctr)["ended"][1] == "STOPPED", "it does not end")
    before = tasks(ctr)
    daemon.kill()
    os.kill(before["dies"][0], signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{before['dies'][0]}").exists(), "it does not end")

    daemon.program = ORLOPD
    daemon.start()
    assert tasks(ctr) == before | {"dies": (before["dies"][0], "STOPPED")}
    use(ctr, logs)
    ctr.ok("run", "-d", *GROUP, IMAGE, "three", "sleep", "1000")
    assert len([argv for argv in daemon.shims().values() if "one" in argv]) == 1
    remove(ctr, {"ended": 3, "dies": 137, **dict.fromkeys(RUNTIMES, 5)})
    ctr.remove_tasks()
    for id in ctr.ok("containers", "ls", "-q").split():
        ctr.ok("containers", "rm", id)
    ctr.ok("images", "rm", "--sync", IMAGE)
    eventually(lambda: not daemon.shims(), lambda: f"left: {daemon.shims()}")
    assert [*(daemon.state / "io.containerd.runtime.v2.task").glob(f"{ctr.namespace}/*")] == []
    assert ctr.ok("content", "ls", "-q") == ctr.ok("snapshots", "ls").partition("\n")[2] == ""


def use(ctr: Ctr, logs: dict[str, Path]) -> None:
    """What runs can be used, and logs on."""
    for id, log in logs.items():
        size = log.stat().st_size
        assert ctr.ok("tasks", "exec", "--exec-id", "e1", id, "echo", "in", id) == f"in {id}\n"
        assert "pids.current" in ctr.ok("tasks", "metrics", id)
        eventually(lambda log=log, size=size: log.stat().st_size > size, f"{id} logs no more")  # type: ignore[misc]
    ctr.ok("tasks", "resume", "frozen")
    assert tasks(ctr)["frozen"][1] == "RUNNING"


def remove(ctr: Ctr, statuses: dict[str, int]) -> None:
    """End and remove tasks, which tell how they ended."""
    for id, status in statuses.items():
        if tasks(ctr)[id][1] == "RUNNING":
            ctr.ok("tasks", "kill", id)
        eventually(lambda id=id: tasks(ctr)[id][1] == "STOPPED", f"{id} does not end")  # type: ignore[misc]
        assert f"exit code {status}" in ctr.run("tasks", "rm", id).err
