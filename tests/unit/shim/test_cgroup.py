# SPDX-License-Identifier: Apache-2.0
"""Control groups of either version and of both, from files as the kernel writes them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orlop_sdk.api.cgroups.v1 import metrics_pb2 as v1
from orlop_sdk.api.cgroups.v2 import metrics_pb2 as v2
from orlop_sdk.linux.cgroup import Hierarchy, hierarchies, membership
from orlop_shim import cgroup
from orlop_shim.cgroup import Cgroup
from orlop_shim.stats import measure

HYBRID = b"""\
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
32 25 0:28 /inner /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 25 0:29 / /proc rw - proc proc rw
"""


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_mount_points_by_controller() -> None:
    found = hierarchies(HYBRID)
    assert found["cpu"].point == found["cpuacct"].point == "/sys/fs/cgroup/cpu,cpuacct"
    assert found["memory"].point == "/sys/fs/cgroup/memory"
    assert (found[""].point, found[""].root) == ("/sys/fs/cgroup/unified", "/inner")


def test_membership() -> None:
    text = "4:memory:/ns/c1\n3:cpu,cpuacct:/ns/c1\n1:name=systemd:/\n0::/a:b\n"
    assert membership(text) == {
        "memory": "/ns/c1",
        "cpu": "/ns/c1",
        "cpuacct": "/ns/c1",
        "name=systemd": "/",
        "": "/a:b",
    }


def test_version_1_and_a_mix_count_as_version_1(tmp_path: Path) -> None:
    put(
        tmp_path / "memory",
        memory__stat="cache 10\nrss 20\npgfault 3\nhierarchical_memory_limit 99\ntotal_rss 21\n",
        memory__usage_in_bytes="40\n",
        memory__limit_in_bytes="99\n",
        memory__failcnt="2\n",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
    )
    put(tmp_path / "pids", pids__current="3\n", pids__max="max\n")
    put(tmp_path / "cpu", cpu__stat="nr_periods 1\nnr_throttled 2\nthrottled_time 3\n")
    put(tmp_path / "cpuacct", cpuacct__usage="1000\n", cpuacct__stat="user 2\nsystem 1\n")
    put(tmp_path / "cpuacct", cpuacct__usage_percpu="400 600 \n")
    put(tmp_path / "blkio", blkio__throttle__io_serviced_recursive="8:0 Read 4\n8:0 Total 4\nTotal 4\n")
    names = ("memory", "pids", "cpu", "cpuacct", "blkio")
    group = Cgroup({name: str(tmp_path / name) for name in names} | {"": str(tmp_path / "unified")}, own=True)
    assert not group.unified
    message = measure(group)
    assert message["type_url"] == "io.containerd.cgroups.v1.Metrics"
    found = v1.Metrics.FromString(message["value"])
    assert (found.memory.cache, found.memory.rss, found.memory.total_rss, found.memory.pg_fault) == (10, 20, 21, 3)
    assert (found.memory.usage.usage, found.memory.usage.limit, found.memory.usage.failcnt) == (40, 99, 2)
    assert found.memory_oom_control.oom_kill == 5
    assert (found.pids.current, found.pids.limit) == (3, 0)
    assert (found.cpu.usage.total, list(found.cpu.usage.per_cpu), found.cpu.throttling.throttled_time) == (
        1000,
        [400, 600],
        3,
    )
    assert found.cpu.usage.user == 2 * found.cpu.usage.kernel > 0
    assert [(entry.op, entry.major, entry.value) for entry in found.blkio.io_serviced_recursive] == [
        ("Read", 8, 4),
        ("Total", 8, 4),
    ]


def test_version_2(tmp_path: Path) -> None:
    put(
        tmp_path,
        memory__stat="anon 1\nfile 2\nworkingset_refault_anon 3\nworkingset_refault_file 4\n",
        memory__current="50\n",
        memory__max="max\n",
        memory__events="low 0\nhigh 0\nmax 1\noom 2\noom_kill 3\n",
        cpu__stat="usage_usec 10\nuser_usec 6\nsystem_usec 4\n",
        cpu__pressure="some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 total=0\n",
        pids__current="2\n",
        pids__max="10\n",
        io__stat="8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
    )
    group = Cgroup({"": str(tmp_path)}, own=True)
    assert group.unified
    message = measure(group)
    assert message["type_url"] == "io.containerd.cgroups.v2.Metrics"
    found = v2.Metrics.FromString(message["value"])
    assert (found.memory.anon, found.memory.workingset_refault, found.memory.usage) == (1, 7, 50)
    assert found.memory.usage_limit == (1 << 64) - 1
    assert found.memory_events.oom_kill == 3
    assert (found.cpu.usage_usec, found.cpu.psi.some.avg10, found.cpu.psi.some.total) == (10, 1.5, 7)
    assert (found.pids.current, found.pids.limit) == (2, 10)
    assert [(entry.minor, entry.wbytes) for entry in found.io.usage] == [(16, 2)]


def test_processes_of_inner_groups_count(tmp_path: Path) -> None:
    put(tmp_path, **{"cgroup__procs": "5\n"})
    put(tmp_path / "inner" / "deep", **{"cgroup__procs": "7\n6\n"})
    assert Cgroup({"": str(tmp_path)}, own=True).pids() == [5, 6, 7]


@pytest.fixture
def process_elsewhere() -> Iterator[tuple[int, Path]]:
    """A process in a new control group, and that group's directory."""
    tops = hierarchies(Path("/proc/self/mountinfo").read_bytes())
    ours = membership(Path("/proc/self/cgroup").read_text())
    name = next((name for name in ("pids", "", *tops) if name in tops and name in ours), None)
    if name is None or not os.access(tops[name].point, os.W_OK):
        pytest.skip("needs a control group to write in")
    group = Path(tops[name].point, f"orlop-cgroup-{os.getpid()}")
    group.mkdir()
    process = subprocess.Popen(["sleep", "1000"])
    try:
        (group / "cgroup.procs").write_text(str(process.pid))
        yield process.pid, group
    finally:
        process.kill()
        process.wait()
        group.rmdir()


@pytest.mark.parametrize("known", ["nothing", "other hierarchies", "all"])
def test_a_process_is_found_whatever_is_remembered(
    process_elsewhere: tuple[int, Path], known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "_remembered", {})
    if known == "other hierarchies":
        cgroup._remembered["gone"] = Hierarchy("/nowhere", "/")
    elif known == "all":
        cgroup.remember()
    pid, group = process_elsewhere
    found = Cgroup.of(pid)
    assert found is not None
    assert found.own
    assert str(group) in found._places.values()
    assert "gone" not in cgroup._remembered
