# SPDX-License-Identifier: Apache-2.0
"""Figures of cgroup v2, which not every host has; those of v1 are compared with containerd in the integration tests."""

from __future__ import annotations

from orlop.values import AnyMessage
from orlop_sdk.api.cgroups.v1 import metrics_pb2 as v1
from orlop_sdk.api.cgroups.v2 import metrics_pb2 as v2
from orlop_telemetry.containers import of_cgroup


def test_figures_of_cgroup_2_have_containerds_names() -> None:
    data = v2.Metrics(
        pids={"current": 3, "limit": 9},
        cpu={
            "usage_usec": 10,
            "user_usec": 4,
            "system_usec": 6,
            "nr_periods": 2,
            "nr_throttled": 1,
            "throttled_usec": 5,
        },
        memory={"anon": 100, "usage": 200, "swap_limit": 7, "workingset_refault": 8},
        memory_events={"oom": 1, "oom_kill": 2},
        io={"usage": [{"major": 8, "minor": 1, "rbytes": 11, "wbytes": 12, "rios": 13, "wios": 14}]},
    )
    message = AnyMessage("type.googleapis.com/io.containerd.cgroups.v2.Metrics", data.SerializeToString())
    found = {name: (value, labels) for name, value, labels in of_cgroup(message)}
    assert found["cpu_usage_usec_microseconds"] == (10, {})
    assert found["cpu_nr_throttled_total"] == (1, {})
    assert found["memory_anon_bytes"] == (100, {})
    assert found["memory_usage_bytes"] == (200, {})
    assert found["memory_swap_limit_bytes"] == (7, {})
    assert found["memory_oom_total"] == (1, {})
    assert found["pids_current"] == (3, {})
    assert found["io_rbytes_bytes"] == (11, {"major": "8", "minor": "1"})
    assert found["io_wios_total"] == (14, {"major": "8", "minor": "1"})
    assert "memory_psi_bytes" not in found


def test_what_has_several_values_has_labels() -> None:
    data = v1.Metrics(
        cpu={"usage": {"per_cpu": [5, 6]}},
        hugetlb=[{"usage": 1, "max": 2, "failcnt": 3, "pagesize": "2MB"}],
        blkio={"io_serviced_recursive": [{"op": "Read", "device": "sda", "major": 8, "value": 4}]},
        memory_oom_control={"oom_kill": 2},
    )
    found = list(of_cgroup(AnyMessage("io.containerd.cgroups.v1.Metrics", data.SerializeToString())))
    assert ("per_cpu_nanoseconds", 6, {"cpu": "1"}) in found
    assert ("hugetlb_failcnt_total", 3, {"page": "2MB"}) in found
    labels = {"op": "Read", "device": "sda", "major": "8", "minor": "0"}
    assert ("blkio_io_serviced_recursive_total", 4, labels) in found
    assert ("memory_oom_total", 2, {}) in found


def test_what_nobody_knows_gives_nothing() -> None:
    assert list(of_cgroup(AnyMessage("example.com/Other", b"x"))) == []
    assert list(of_cgroup(AnyMessage("io.containerd.cgroups.v1.Metrics", b"\xff"))) == []
