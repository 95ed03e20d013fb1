# SPDX-License-Identifier: Apache-2.0
"""Restart policies as containerd has them since 1.7: always, on-failure, on-failure:N, unless-stopped, no."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.support.ctr import eventually
from tests.support.daemon import ORLOPD, Daemon
from tests.support.place import short_directory
from tests.support.restarts import IMAGE, INTERVAL, PATIENCE, PREFIX, SLEEP, Side, kill

# Time for the monitor to do what it should not: several times its interval.
IDLE = 1.5


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with short_directory() as base, Daemon(base, ORLOPD, tables=INTERVAL) as daemon:
        yield daemon


@pytest.fixture
def side(daemon: Daemon) -> Iterator[Side]:
    made = Side(daemon)
    yield made
    made.close()


def flags(policy: str) -> tuple[str, ...]:
    """The labels of a container that is to run under a policy."""
    return "--detach", f"--label={PREFIX}.status=running", f"--label={PREFIX}.policy={policy}"


def test_always_counts(side: Side) -> None:
    side.create("c1", *SLEEP, status="running", policy="always", explicitly_stopped="true")
    first = side.becomes("c1", "RUNNING")
    assert side.count("c1") == 1
    kill(first)
    side.starts_again("c1", first)
    assert side.count("c1") == 2


def test_on_failure_stops_at_its_number_and_after_success(side: Side) -> None:
    side.ctr.ok("run", *flags("on-failure:2"), IMAGE, "c1", "sh", "-c", "exit 3")
    side.ctr.ok("run", *flags("on-failure"), IMAGE, "c2", "true")
    side.create("c3", "false", status="running", policy="on-failure")
    side.counts("c1", 2)
    side.becomes("c1", "STOPPED")
    time.sleep(IDLE)
    assert side.labels("c1") == {"status": "running", "policy": "on-failure:2", "count": "2"}
    assert side.count("c2") == 0
    # What never ran has not failed.
    assert (side.count("c3"), side.task("c3")) == (0, ("", ""))


def test_unless_stopped(side: Side) -> None:
    side.create("c1", *SLEEP, status="running", policy="unless-stopped")
    pid = side.becomes("c1", "RUNNING")
    side.label("c1", explicitly_stopped="true")
    kill(pid)
    side.becomes("c1", "STOPPED")
    time.sleep(IDLE)
    assert (side.task("c1")[1], side.count("c1")) == ("STOPPED", 1)
    side.label("c1", explicitly_stopped="false")
    side.starts_again("c1", pid)


def test_policies_that_restart_nothing(side: Side) -> None:
    policies = ["no", "sometimes", "always:2", "on-failure:x"]
    for number, policy in enumerate(policies):
        side.create(f"c{number}", *SLEEP, status="running", policy=policy)
    side.create("last", *SLEEP, status="running")
    side.becomes("last", "RUNNING")
    time.sleep(IDLE)
    assert {side.task(f"c{number}") for number in range(len(policies))} == {("", "")}
    assert "sometimes" in side.daemon.log.read_text()


def test_what_is_paused_stays_so_until_it_is_to_stop(side: Side) -> None:
    side.create("c1", *SLEEP, status="running")
    pid = side.becomes("c1", "RUNNING")
    side.ctr.ok("tasks", "pause", "c1")
    time.sleep(IDLE)
    assert side.task("c1") == (pid, "PAUSED")
    side.label("c1", status="stopped")
    eventually(lambda: side.task("c1") == ("", ""), "it is not stopped", PATIENCE)


def test_the_count_lasts_through_a_crash(side: Side) -> None:
    side.create("c1", *SLEEP, status="running", policy="on-failure:2")
    side.create("c2", *SLEEP, status="running", policy="always")
    first = side.becomes("c2", "RUNNING")
    side.ctr.ok("run", *flags("on-failure:3"), IMAGE, "c3", *SLEEP)
    failing = side.task("c3")[0]
    side.daemon.kill()
    for pid in (first, failing):
        kill(pid)
    side.daemon.start()
    side.starts_again("c2", first)
    side.starts_again("c3", failing)
    assert (side.count("c1"), side.count("c2"), side.count("c3")) == (0, 2, 1)
