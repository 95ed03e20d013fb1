# SPDX-License-Identifier: Apache-2.0
"""What a container uses, in control groups of either version: the figures of both shims are those of the kernel.

The daemon of the second version is given a mount namespace in which there is no other. That works beside hierarchies of
version 1, which may keep controllers for themselves: what every group of version 2 has is there all the same.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integration.shim.conftest import TABLES, check_host
from tests.support import oci
from tests.support.ctr import Ctr, columns, eventually
from tests.support.daemon import ORLOPD, Daemon
from tests.support.place import short_directory
from tests.support.runtime import cgroup_files, forget_namespace

from orlop_sdk.client import Client
from orlop_sdk.rpc import descriptors

TOP = Path("/sys/fs/cgroup")
ONLY_VERSION_2 = 'umount --recursive --lazy /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
RUNTIMES = {"ours": "io.containerd.orlop.v1", "debian": "io.containerd.runc.v2"}
#: Works for a while, and then sleeps: what it used does not change any more.
WORK = "i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done; exec /bin/sleep 1000"


@dataclass
class Place:
    """A daemon, and the version of control groups that it knows."""

    daemon: Daemon
    ctr: Ctr
    version: int
    tree: Path

    def start(self, id: str, shim: str, *args: str) -> int:
        """Start a container, and give its pid."""
        # Without the limits that ctr's own specifications have: the host may not have controllers for them.
        spec = oci.spec(self.ctr.namespace, id, args)
        spec["root"]["path"] = str(self.tree)
        file = self.tree.parent / "spec.json"
        file.write_text(json.dumps(spec))
        self.ctr.ok("run", "-d", "--runtime", RUNTIMES[shim], "--config", str(file), id)
        return next(int(row[1]) for row in columns(self.ctr.ok("tasks", "ls")) if row[0] == id)

    async def figures(self, id: str) -> Any:
        """What the shim says."""
        async with Client(str(self.daemon.address), self.ctr.namespace) as client:
            (metric,) = await client.tasks.metrics([f'id=="{id}"'])
        assert metric.data is not None
        assert metric.data.type_url == f"io.containerd.cgroups.v{self.version}.Metrics"
        return descriptors.message(metric.data.type_url).FromString(metric.data.value)

    def file(self, id: str, name: str, controller: str = "") -> str:
        """A file of a container's group, as the host sees it."""
        top = TOP / controller if controller else unified()
        return (top / self.ctr.namespace / id / name).read_text()

    def table(self, id: str, name: str, controller: str = "") -> dict[str, int]:
        """A file of names and numbers."""
        lines = (line.split() for line in self.file(id, name, controller).splitlines())
        return {name: int(value) for name, value in lines}

    def remove(self, id: str) -> None:
        """Kill and delete a container."""
        self.ctr.ok("tasks", "kill", "--all", "--signal", "SIGKILL", id)
        eventually(lambda: [id, "STOPPED"] in [[*row[:1], *row[2:]] for row in columns(self.ctr.ok("tasks", "ls"))], id)
        self.ctr.run("tasks", "rm", id)
        self.ctr.ok("containers", "rm", id)


def unified() -> Path:
    """Where the host has the hierarchy of version 2."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, system = line.partition(" - ")
        if system.startswith("cgroup2 "):
            return Path(mount.split()[4])
    pytest.skip("control groups of version 2 are not mounted")


@pytest.fixture(scope="module", params=[1, 2], ids=["version 1", "version 2"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    check_host("unshare")
    program: tuple[str, ...] = ORLOPD
    if request.param == 2:
        unified()
        program = ("unshare", "--mount", "sh", "-c", ONLY_VERSION_2, "sh", *ORLOPD)
    elif not (TOP / "memory").is_dir():
        pytest.skip("there are no control groups of version 1")
    with short_directory() as base:
        oci.busybox_tree(base / "tree")
        with Daemon(base, program, tables=TABLES) as daemon:
            ctr = daemon.ctr(f"stats-{uuid.uuid4().hex[:10]}")
            yield Place(daemon, ctr, request.param, base / "tree")
            forget_namespace(ctr.namespace)


@pytest.mark.parametrize("shim", RUNTIMES)
async def test_figures_are_the_kernels(place: Place, shim: str) -> None:
    pid = place.start("c1", shim, "/bin/sh", "-c", WORK)
    try:
        eventually(lambda: "sleep" in Path(f"/proc/{pid}/cmdline").read_text(), "it works on and on", 60)
        found = await at_rest(place)
        if place.version == 1:
            check_version_1(place, found)
        else:
            check_version_2(place, found, shim)
    finally:
        place.remove("c1")


async def at_rest(place: Place) -> Any:
    """The figures of a container that used nothing while they were read."""
    name, controller = ("cpuacct.usage", "cpuacct") if place.version == 1 else ("cpu.stat", "")
    for _ in range(100):
        before = place.file("c1", name, controller)
        found = await place.figures("c1")
        if place.file("c1", name, controller) == before:
            return found
    raise AssertionError("it works on and on")


def check_version_1(place: Place, found: Any) -> None:
    usage = place.file("c1", "cpuacct.usage_percpu", "cpuacct").split()
    assert [*found.cpu.usage.per_cpu] == [int(word) for word in usage]
    assert found.cpu.usage.total == int(place.file("c1", "cpuacct.usage", "cpuacct")) > 0
    memory = place.table("c1", "memory.stat", "memory")
    assert (found.memory.rss, found.memory.total_rss) == (memory["rss"], memory["total_rss"])
    assert found.memory.hierarchical_memory_limit == memory["hierarchical_memory_limit"]
    assert found.memory.usage.limit == int(place.file("c1", "memory.limit_in_bytes", "memory"))
    assert found.pids.current == int(place.file("c1", "pids.current", "pids")) == 1


def check_version_2(place: Place, found: Any, shim: str) -> None:
    cpu = place.table("c1", "cpu.stat")
    group = unified() / place.ctr.namespace / "c1"
    # runc asks for the controllers that there are; which those are is the host's affair.
    sizes = {path.name.split(".")[1] for path in group.glob("hugetlb.*B.current")}
    assert {entry.pagesize for entry in found.hugetlb} == sizes
    if (group / "pids.current").exists():
        assert found.pids.current == 1
    if (group / "memory.max").exists():
        assert found.memory.usage_limit == (1 << 64) - 1
    # containerd's shim reads these only with the controller, though every group has them.
    if shim == "ours" or (group / "cpu.max").exists():
        assert found.cpu.usage_usec == cpu["usage_usec"] > 0
        assert found.cpu.user_usec + found.cpu.system_usec == cpu["user_usec"] + cpu["system_usec"]
    if shim == "ours" and (group / "cpu.pressure").exists():
        assert found.cpu.HasField("psi")


@pytest.mark.parametrize("shim", RUNTIMES)
def test_freezing_and_ending_all_of_it(place: Place, shim: str) -> None:
    place.start("c1", shim, "/bin/sh", "-c", "/bin/sleep 1000 & exec /bin/sleep 1000")
    eventually(lambda: len(place.ctr.ok("tasks", "ps", "c1").splitlines()) == 3, "not two processes")
    place.ctr.ok("tasks", "pause", "c1")
    if place.version == 2:
        assert place.table("c1", "cgroup.events")["frozen"] == 1
    else:
        assert place.file("c1", "freezer.state", "freezer") == "FROZEN\n"
    place.ctr.ok("tasks", "resume", "c1")
    place.remove("c1")
    assert [path for path in cgroup_files(place.ctr.namespace, "c1") if path.is_dir()] == []
