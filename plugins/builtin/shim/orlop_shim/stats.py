# SPDX-License-Identifier: Apache-2.0
"""What a container uses, read from its control groups into the message of their version.

Numbers are the kernel's, in its units, but for CPU time of version 1: that is nanoseconds everywhere.
"""

from __future__ import annotations

import os

from orlop_sdk.hints import Any, Final
from orlop_shim.cgroup import Cgroup
from orlop_shim.messages import any_of
from orlop_shim.metrics import V1, V2
from orlop_shim.wire import Values

_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_UNLIMITED: Final = (1 << 64) - 1
_V1_MEMORY: Final = {
    name: name
    for name in (
        *("cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback"),
        *("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable"),
    )
} | {"pgpgin": "pg_pg_in", "pgpgout": "pg_pg_out", "pgfault": "pg_fault", "pgmajfault": "pg_maj_fault"}
_V2_MEMORY: Final = (
    *("anon", "file", "kernel_stack", "slab", "sock", "shmem", "file_mapped", "file_dirty", "file_writeback"),
    *("anon_thp", "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable"),
    *("slab_reclaimable", "slab_unreclaimable", "pgfault", "pgmajfault", "workingset_refault", "workingset_activate"),
    *("workingset_nodereclaim", "pgrefill", "pgscan", "pgsteal", "pgactivate", "pgdeactivate", "pglazyfree"),
    *("pglazyfreed", "thp_fault_alloc", "thp_collapse_alloc"),
)
_BLKIO: Final = {
    "io_service_bytes_recursive": ("blkio.io_service_bytes_recursive", "blkio.throttle.io_service_bytes_recursive"),
    "io_serviced_recursive": ("blkio.io_serviced_recursive", "blkio.throttle.io_serviced_recursive"),
    "io_queued_recursive": ("blkio.io_queued_recursive",),
    "io_service_time_recursive": ("blkio.io_service_time_recursive",),
    "io_wait_time_recursive": ("blkio.io_wait_time_recursive",),
    "io_merged_recursive": ("blkio.io_merged_recursive",),
    "io_time_recursive": ("blkio.time_recursive",),
    "sectors_recursive": ("blkio.sectors_recursive",),
}


def measure(cgroup: Cgroup) -> Values:
    """The use now, as an `ANY`."""
    if cgroup.unified:
        return any_of("io.containerd.cgroups.v2.Metrics", V2.encode(**_unified(cgroup)))
    return any_of("io.containerd.cgroups.v1.Metrics", V1.encode(**_v1(cgroup)))


def _v1(cgroup: Cgroup) -> Values:
    metrics: Values = {}
    if cgroup.path("pids"):
        limit = cgroup.read("pids", "pids.max").strip()
        metrics["pids"] = {
            "current": _number(cgroup.read("pids", "pids.current")),
            "limit": 0 if limit == "max" else _number(limit),
        }
    if cgroup.path("cpuacct") or cgroup.path("cpu"):
        metrics["cpu"] = _v1_cpu(cgroup)
    if cgroup.path("memory"):
        metrics["memory"] = _v1_memory(cgroup)
        control = _table(cgroup.read("memory", "memory.oom_control"))
        names = ("oom_kill_disable", "under_oom", "oom_kill")
        metrics["memory_oom_control"] = {name: control.get(name, 0) for name in names}
    if cgroup.path("blkio"):
        metrics["blkio"] = {name: _v1_blkio(cgroup, files) for name, files in _BLKIO.items()}
    if cgroup.path("hugetlb"):
        metrics["hugetlb"] = _hugetlb(
            cgroup, ".usage_in_bytes", {"usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt"}
        )
    if cgroup.path("rdma"):
        metrics["rdma"] = _rdma(cgroup)
    return metrics


def _v1_cpu(cgroup: Cgroup) -> Values:
    times = _table(cgroup.read("cpuacct", "cpuacct.stat"))
    usage = {
        "total": _number(cgroup.read("cpuacct", "cpuacct.usage")),
        "user": times.get("user", 0) * _TICK,
        "kernel": times.get("system", 0) * _TICK,
        "per_cpu": [int(word) for word in cgroup.read("cpuacct", "cpuacct.usage_percpu").split()],
    }
    limits = _table(cgroup.read("cpu", "cpu.stat"))
    throttling = {
        "periods": limits.get("nr_periods", 0),
        "throttled_periods": limits.get("nr_throttled", 0),
        "throttled_time": limits.get("throttled_time", 0),
    }
    return {"usage": usage, "throttling": throttling}


def _v1_memory(cgroup: Cgroup) -> Values:
    table = _table(cgroup.read("memory", "memory.stat"))
    memory: Values = {
        "hierarchical_memory_limit": table.get("hierarchical_memory_limit", 0),
        "hierarchical_swap_limit": table.get("hierarchical_memsw_limit", 0),
    }
    for name, field in _V1_MEMORY.items():
        memory[field] = table.get(name, 0)
        memory[f"total_{field}"] = table.get(f"total_{name}", 0)
    for field, prefix in (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernel_tcp", "kmem.tcp.")):
        if os.path.exists(cgroup.path("memory", f"memory.{prefix}usage_in_bytes")):
            memory[field] = {
                name: _number(cgroup.read("memory", f"memory.{prefix}{file}"))
                for name, file in (
                    ("limit", "limit_in_bytes"),
                    ("usage", "usage_in_bytes"),
                    ("max", "max_usage_in_bytes"),
                    ("failcnt", "failcnt"),
                )
            }
    return memory


def _v1_blkio(cgroup: Cgroup, files: tuple[str, ...]) -> list[Values]:
    text = next(filter(None, (cgroup.read("blkio", file) for file in files)), "")
    entries = []
    for line in text.splitlines():
        words = line.split()
        # "8:0 Read 4096", or "8:0 4096" where there is but one kind; a line "Total ..." ends it.
        if len(words) < 2 or ":" not in words[0]:
            continue
        major, _, minor = words[0].partition(":")
        op = words[1] if len(words) > 2 else ""
        entries.append({"op": op, "device": "", "major": int(major), "minor": int(minor), "value": int(words[-1])})
    return entries


def _unified(cgroup: Cgroup) -> Values:
    cpu: Values = dict.fromkeys(
        ("usage_usec", "user_usec", "system_usec", "nr_periods", "nr_throttled", "throttled_usec", "nr_bursts"), 0
    ) | {"burst_usec": 0}
    table = _table(cgroup.read("cpu", "cpu.stat"))
    cpu = {name: table.get(name, 0) for name in cpu} | {"psi": _pressure(cgroup, "cpu")}
    events = _table(cgroup.read("memory", "memory.events"))
    names = ("low", "high", "max", "oom", "oom_kill", "oom_group_kill")
    return {
        "pids": {
            name: _limit(cgroup, "pids", f"pids.{file}") for name, file in (("current", "current"), ("limit", "max"))
        },
        "cpu": cpu,
        "memory": _unified_memory(cgroup),
        "memory_events": {name: events.get(name, 0) for name in names},
        "io": {"usage": _unified_io(cgroup), "psi": _pressure(cgroup, "io")},
        "hugetlb": _hugetlb(cgroup, ".current", {"current": "current", "max": "max"}),
        "rdma": _rdma(cgroup),
    }


def _unified_memory(cgroup: Cgroup) -> Values:
    table = _table(cgroup.read("memory", "memory.stat"))
    for name in ("workingset_refault", "workingset_activate"):
        # Kernels since 5.9 count the two kinds of pages apart.
        table.setdefault(name, table.get(f"{name}_anon", 0) + table.get(f"{name}_file", 0))
    memory: Values = {name: table.get(name, 0) for name in _V2_MEMORY}
    for field, file in (
        ("usage", "current"),
        ("usage_limit", "max"),
        ("max_usage", "peak"),
        ("swap_usage", "swap.current"),
        ("swap_limit", "swap.max"),
        ("swap_max_usage", "swap.peak"),
    ):
        memory[field] = _limit(cgroup, "memory", f"memory.{file}")
    memory["psi"] = _pressure(cgroup, "memory")
    return memory


def _unified_io(cgroup: Cgroup) -> list[Values]:
    entries = []
    for line in cgroup.read("io", "io.stat").splitlines():
        device, *words = line.split()
        major, _, minor = device.partition(":")
        if not words or not minor:
            continue
        pairs = dict(word.partition("=")[::2] for word in words)
        entry: Values = {name: _number(pairs.get(name, "")) for name in ("rbytes", "wbytes", "rios", "wios")}
        entries.append(entry | {"major": int(major), "minor": int(minor)})
    return entries


def _pressure(cgroup: Cgroup, resource: str) -> Values | None:
    found: dict[str, Any] = {}
    for line in cgroup.read(resource, f"{resource}.pressure").splitlines():
        kind, *words = line.split()
        pairs = dict(word.partition("=")[::2] for word in words)
        if kind in ("some", "full"):
            found[kind] = {name: float(pairs.get(name, 0)) for name in ("avg10", "avg60", "avg300")} | {
                "total": _number(pairs.get("total", ""))
            }
    return found or None


def _hugetlb(cgroup: Cgroup, ending: str, files: dict[str, str]) -> list[Values]:
    sizes = [
        name.removeprefix("hugetlb.").removesuffix(ending)
        for name in cgroup.files("hugetlb")
        if name.startswith("hugetlb.") and name.endswith(ending) and ".rsvd" not in name
    ]
    return [
        {"pagesize": size}
        | {field: _limit(cgroup, "hugetlb", f"hugetlb.{size}.{file}") for field, file in files.items()}
        for size in sizes
    ]


def _rdma(cgroup: Cgroup) -> Values:
    return {"current": _rdma_entries(cgroup, "rdma.current"), "limit": _rdma_entries(cgroup, "rdma.max")}


def _rdma_entries(cgroup: Cgroup, file: str) -> list[Values]:
    entries = []
    for line in cgroup.read("rdma", file).splitlines():
        device, *words = line.split()
        pairs = dict(word.partition("=")[::2] for word in words)
        entry = {
            "hca_handles": _number(pairs.get("hca_handle", "")) & 0xFFFFFFFF,
            "hca_objects": _number(pairs.get("hca_object", "")) & 0xFFFFFFFF,
        }
        entries.append({"device": device} | entry)
    return entries


def _limit(cgroup: Cgroup, controller: str, file: str) -> int:
    return _number(cgroup.read(controller, file))


def _number(text: str) -> int:
    """A number; nothing is 0, and ``max`` the greatest there is."""
    text = text.strip()
    if text == "max":
        return _UNLIMITED
    return int(text) if text.isdecimal() else 0


def _table(text: str) -> dict[str, int]:
    pairs = (line.split(" ", 1) for line in text.splitlines() if " " in line)
    return {name: _number(value) for name, value in pairs}
