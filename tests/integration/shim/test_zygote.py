# SPDX-License-Identifier: Apache-2.0
"""The zygote that forks shims, and the spare that it keeps while shims are wanted."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.integration.shim.conftest import Case, check_host, fresh, make_case
from tests.support.ctr import eventually
from tests.support.processes import arguments, parents
from tests.support.runtime import pids_of


@pytest.fixture(scope="module")
def zygote_place() -> Iterator[Case]:
    """Our shim with runc under Orlop, which alone has a zygote."""
    check_host("runc")
    with ExitStack() as stack:
        yield make_case(stack, "orlopd", "ours", "runc")


@pytest.fixture
def case(zygote_place: Case) -> Iterator[Case]:
    with fresh(zygote_place) as made:
        yield made


def forks(parent: int) -> list[int]:
    """The children of a process that are called like the zygote."""
    return [pid for pid, its in parents().items() if its == parent and arguments(pid)[0] == b"orlop-zygote"]


def zygotes(case: Case) -> list[int]:
    """The zygotes of the case's daemon."""
    return forks(case.daemon.pid)


def spares(case: Case) -> list[tuple[int, int, int]]:
    """The pids of the zygote and of both halves of its spare."""
    return [(zygote, spare, worker) for zygote in zygotes(case) for spare in forks(zygote) for worker in forks(spare)]


def spare_of(case: Case) -> tuple[int, int, int]:
    """The pids of the zygote and of both halves of its spare, which a container that just ran has left."""
    for _ in range(20):
        assert case.run("c0", "/bin/true").code == 0
        for found in spares(case):
            return found
    pytest.fail("the zygote has no spare")


def test_a_zygote_that_dies_takes_nothing_along(case: Case) -> None:
    case.start("c1", "/bin/sleep", "98125")
    try:
        (zygote,) = zygotes(case)
        os.kill(zygote, signal.SIGKILL)
        assert case.status("c1") == "RUNNING"
        assert case.run("c2", "/bin/echo", "again").out == "again\n"
        assert zygotes(case) not in ([], [zygote])
        assert len(pids_of("98125")) == 1
    finally:
        case.remove("c1")


def test_a_zygote_that_dies_at_work_fails_no_container(case: Case) -> None:
    case.run("c0", "/bin/true")
    for number in range(1, 6):
        output = case.daemon.base / f"round{number}"
        with (
            output.open("wb") as out,
            case.ctr.background("run", "--rm", *case.flags(), f"c{number}", "/bin/echo", "fine", out=out) as running,
        ):
            time.sleep(number * 0.02)
            for zygote in zygotes(case):
                os.kill(zygote, signal.SIGKILL)
            assert running.wait(30) == 0, output.read_text()
        assert output.read_text() == "fine\n"


def test_the_next_shim_is_there_already(case: Case) -> None:
    for number in range(20):
        _, spare, _ = spare_of(case)
        case.start(f"c{number}", "/bin/sleep", "98127")
        shims = list(case.daemon.shims())
        case.remove(f"c{number}")
        if shims == [spare]:
            return
        # The host was so slow that the spare had stopped waiting.
    pytest.fail("no spare ever became a shim")


def test_a_spare_ends_when_no_shim_is_wanted(case: Case) -> None:
    zygote, spare, worker = spare_of(case)
    eventually(lambda: not forks(zygote), "the spare still waits")
    assert forks(spare) == []
    assert not Path(f"/proc/{worker}").exists()
    assert zygotes(case) == [zygote]


@pytest.mark.parametrize("half", [1, 2], ids=["anchor", "worker"])
def test_a_spare_that_is_killed_fails_no_container(case: Case, half: int) -> None:
    for number in range(3):
        os.kill(spare_of(case)[half], signal.SIGKILL)
        assert case.run(f"c{number + 1}", "/bin/echo", "fine").out == "fine\n"


def test_a_spare_ends_with_its_zygote(case: Case) -> None:
    zygote, _, worker = spare_of(case)
    os.kill(zygote, signal.SIGKILL)
    # The daemon has yet to see that it is gone.
    assert case.run("c1", "/bin/echo", "fine").out == "fine\n"
    eventually(lambda: not Path(f"/proc/{worker}").exists(), "the spare outlives its zygote")
