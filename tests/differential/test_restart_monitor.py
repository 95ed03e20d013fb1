# SPDX-License-Identifier: Apache-2.0
"""What the restart monitors of both daemons do with containers of the same labels, through restarts of the daemons.

Policies and counts came with containerd 1.7: `tests/integration/test_restart_policies.py` has those.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.ctr import eventually
from tests.support.daemon import CONTAINERD, SUBJECT, Daemon
from tests.support.place import short_directory
from tests.support.restarts import INTERVAL, PATIENCE, SLEEP, Side, kill


@pytest.fixture(scope="module", params=["containerd", "orlopd"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Each in turn: the first shows that the second is judged rightly."""
    program = CONTAINERD if request.param == "containerd" else SUBJECT
    with short_directory() as base, Daemon(base, program, tables=INTERVAL) as daemon:
        yield daemon


@pytest.fixture
def side(daemon: Daemon) -> Iterator[Side]:
    made = Side(daemon)
    yield made
    made.close()


def test_running_means_again_and_again(side: Side) -> None:
    side.create("c1", *SLEEP, status="running")
    side.create("c2", *SLEEP)
    pid = side.becomes("c1", "RUNNING")
    for _ in range(2):
        kill(pid)
        pid = side.starts_again("c1", pid)
    assert side.task("c2") == ("", "")


def test_stopped_and_running_again(side: Side) -> None:
    side.create("c1", *SLEEP, status="running")
    pid = side.becomes("c1", "RUNNING")
    side.label("c1", status="stopped")
    eventually(lambda: side.task("c1") == ("", ""), "its task is not deleted", PATIENCE)
    side.label("c1", status="running")
    side.starts_again("c1", pid)


@pytest.mark.parametrize("label", ["loguri", "logpath"])
def test_output_goes_where_the_label_says(side: Side, tmp_path: Path, label: str) -> None:
    log = tmp_path / "log"
    where = f"file://{log}" if label == "loguri" else str(log)
    side.create("c1", "cat", "/etc/group", status="running", **{label: where})
    eventually(lambda: log.exists() and log.read_text().count("root:x:0:") > 1, "nothing is logged", PATIENCE)


def test_a_container_that_cannot_start_holds_up_nobody(side: Side) -> None:
    side.create("c1", "/no/such/program", status="running")
    side.create("c2", *SLEEP, status="running")
    pid = side.becomes("c2", "RUNNING")
    kill(pid)
    side.starts_again("c2", pid)
    assert side.task("c1") == ("", "")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_daemon_is_restarted(side: Side, end: str) -> None:
    side.create("c1", *SLEEP, status="running")
    side.create("c2", *SLEEP, status="running")
    lasting, ending = side.becomes("c1", "RUNNING"), side.becomes("c2", "RUNNING")
    side.daemon.stop() if end == "stop" else side.daemon.kill()
    kill(ending)
    side.daemon.start()
    side.starts_again("c2", ending)
    assert side.task("c1") == (lasting, "RUNNING")
