# SPDX-License-Identifier: Apache-2.0
"""The wait for moves between control groups: which group is the daemon's, and that it stays there."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop import context
from orlop.values import AnyMessage
from orlop_core.events.exchange import Exchange
from orlop_runtime.moves import mounted, own_group, wait_for_moves
from orlop_runtime.runtime import TaskRuntime
from orlop_sdk.linux.cgroup import Hierarchy

GROUPS = Path("/proc/self/cgroup")
# Of the event loop, for an event to come through.
TURNS = 100


@pytest.fixture
def group() -> Iterator[Path]:
    """A new control group below the tests' own."""
    own = own_group(GROUPS.read_text(), mounted())
    if own is None or not os.access(own, os.W_OK):
        pytest.skip("needs a control group to write in")
    path = own / f"orlop-moves-{os.getpid()}"
    path.mkdir()
    yield path
    path.rmdir()


def test_the_own_group_is_one_that_lists_the_process() -> None:
    own = own_group(GROUPS.read_text(), mounted())
    if own is None:
        pytest.skip("needs control groups")
    assert str(os.getpid()) in (own / "cgroup.procs").read_text().split()


def test_the_wait_leaves_the_process_where_it_is() -> None:
    before = GROUPS.read_text()
    wait_for_moves()
    assert GROUPS.read_text() == before


def test_the_wait_leaves_a_process_in_the_group_that_it_was_moved_to_meanwhile(group: Path) -> None:
    program = (
        "import os, sys; from orlop_runtime.moves import wait_for_moves; wait_for_moves()\n"
        "open(sys.argv[1], 'w').write(str(os.getpid())); wait_for_moves()\n"
        "print(open('/proc/self/cgroup').read())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(group / "cgroup.procs")], check=True, capture_output=True, text=True
    )
    assert group.name in done.stdout


def test_version_2_is_preferred_and_its_mount_may_begin_below_the_top() -> None:
    groups = "2:cpu,cpuacct:/a/b\n1:name=systemd:/s\n0::/pod/c"
    one = {"cpu": Hierarchy("/cg/cpu", "/"), "cpuacct": Hierarchy("/cg/cpu", "/")}
    assert own_group(groups, one) == Path("/cg/cpu/a/b")
    assert own_group(groups, one | {"": Hierarchy("/cg/unified", "/pod")}) == Path("/cg/unified/c")
    assert own_group(groups, {}) is None


async def test_a_container_record_begins_the_wait_and_other_events_do_not(tmp_path: Path) -> None:
    events = Exchange()
    runtime = TaskRuntime(tmp_path / "state", tmp_path / "root", {}, events)
    runtime.moves.anticipate()
    try:
        await asyncio.sleep(0)
        with context.scope(namespace="moves"):
            await events.publish("/containers/update", AnyMessage("containerd.events.ContainerUpdate", b""))
            await asyncio.sleep(0)
            assert runtime.moves.waiting is None
            await events.publish("/containers/create", AnyMessage("containerd.events.ContainerCreate", b""))
        for _ in range(TURNS):
            await asyncio.sleep(0)
            if runtime.moves.waiting is not None:
                break
        assert runtime.moves.waiting is not None
        await runtime.moves.waiting
    finally:
        await runtime.close()
