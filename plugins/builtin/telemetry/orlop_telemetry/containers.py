# SPDX-License-Identifier: Apache-2.0
"""The figures of running containers, out of what their shims say (cgroup v1 and v2), under containerd's names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError
from prometheus_client.core import Metric

from orlop import context
from orlop.errors import OrlopError
from orlop.interfaces.metadata import MetadataStore
from orlop.interfaces.task import Tasks
from orlop.values import AnyMessage
from orlop_sdk.rpc import descriptors

_V1: Final = "io.containerd.cgroups.v1.Metrics"
_V2: Final = "io.containerd.cgroups.v2.Metrics"
_HELP: Final = "Figure of the container's cgroup"

#: Name and value, with further labels.
Sample = tuple[str, float, Mapping[str, str]]


class Containers:
    """Asks the task service for the figures of all namespaces' running tasks."""

    def __init__(self, metadata: Mapping[str, MetadataStore], tasks: Mapping[str, Tasks], log: logging.Logger) -> None:
        self._metadata = metadata
        self._tasks = tasks
        self._log = log

    async def gather(self) -> list[Metric]:
        """The metrics now. A namespace or container that has none is left out."""
        metadata, tasks = next(iter(self._metadata.values()), None), self._tasks.get("tasks-service")
        if metadata is None or tasks is None:
            return []
        names = [namespace.name for namespace in await metadata.namespaces.list()]
        found: dict[str, Metric] = {}
        for samples in await asyncio.gather(*(self._of(metadata, tasks, name) for name in names)):
            for name, value, labels in samples:
                metric = found.get(name)
                if metric is None:
                    metric = found[name] = Metric(name, _HELP, "gauge")
                metric.add_sample(name, dict(labels), value)
        return [found[name] for name in sorted(found)]

    async def _of(self, metadata: MetadataStore, tasks: Tasks, namespace: str) -> list[Sample]:
        samples: list[Sample] = []
        with context.scope(namespace=namespace):
            try:
                figures = [metric for metric in await tasks.metrics() if metric.data is not None]
                if not figures:
                    return []
                runtimes = {container.id: container.runtime.name for container in await metadata.containers.list()}
            except OrlopError as error:
                self._log.warning('namespace "%s": no figures of its containers: %s', namespace, error)
                return []
        for metric in figures:
            labels = {
                "container_id": metric.id,
                "namespace": namespace,
                "runtime": runtimes.get(metric.id, ""),
            }
            assert metric.data is not None
            samples += [
                (f"container_{name}", value, labels | dict(more)) for name, value, more in of_cgroup(metric.data)
            ]
        return samples


def of_cgroup(data: AnyMessage) -> Iterator[Sample]:
    """The figures in a shim's answer, named as containerd does without its prefix. Nothing for unknown types."""
    type = data.type_url.rpartition("/")[2]
    if type not in (_V1, _V2):
        return
    message: Any = descriptors.message(type)
    try:
        figures = message.FromString(data.value)
    except DecodeError:
        return
    yield from _of_v1(figures) if type == _V1 else _of_v2(figures)


_NOTHING: Final[Mapping[str, str]] = {}
_ENTRIES: Final = {"usage": "usage", "swap": "swap", "kernel": "kernel", "kernel_tcp": "kerneltcp"}
_RENAMED: Final = {"hierarchical_swap_limit": "hierarchical_memsw_limit"}
_BLKIO: Final = {
    "io_merged_recursive": "total",
    "io_queued_recursive": "total",
    "io_service_bytes_recursive": "bytes",
    "io_service_time_recursive": "total",
    "io_serviced_recursive": "total",
    "io_time_recursive": "total",
    "sectors_recursive": "total",
}


def _of_v1(figures: Any) -> Iterator[Sample]:
    if figures.HasField("cpu"):
        usage, throttling = figures.cpu.usage, figures.cpu.throttling
        yield "cpu_total_nanoseconds", usage.total, _NOTHING
        yield "cpu_kernel_nanoseconds", usage.kernel, _NOTHING
        yield "cpu_user_nanoseconds", usage.user, _NOTHING
        for number, value in enumerate(usage.per_cpu):
            yield "per_cpu_nanoseconds", value, {"cpu": str(number)}
        yield "cpu_throttle_periods_total", throttling.periods, _NOTHING
        yield "cpu_throttled_periods_total", throttling.throttled_periods, _NOTHING
        yield "cpu_throttled_time_nanoseconds", throttling.throttled_time, _NOTHING
    if figures.HasField("memory"):
        yield from _of_v1_memory(figures.memory)
    if figures.HasField("memory_oom_control"):
        yield "memory_oom_total", figures.memory_oom_control.oom_kill, _NOTHING
    yield from _of_pids(figures)
    for each in figures.hugetlb:
        page = {"page": each.pagesize}
        yield "hugetlb_usage_bytes", each.usage, page
        yield "hugetlb_failcnt_total", each.failcnt, page
        yield "hugetlb_max_bytes", each.max, page
    for field, unit in _BLKIO.items():
        for entry in getattr(figures.blkio, field):
            labels = {"op": entry.op, "device": entry.device, "major": str(entry.major), "minor": str(entry.minor)}
            yield f"blkio_{field}_{unit}", entry.value, labels


def _of_v1_memory(memory: Any) -> Iterator[Sample]:
    for field in memory.DESCRIPTOR.fields:
        if field.message_type is None:
            name = _RENAMED.get(field.name) or field.name.replace("pg_pg_", "pgpg").replace("pg_", "pg").replace(
                "maj_fault", "majfault"
            )
            yield f"memory_{name}_bytes", getattr(memory, field.name), _NOTHING
        elif memory.HasField(field.name):
            entry, name = getattr(memory, field.name), _ENTRIES[field.name]
            yield f"memory_{name}_limit_bytes", entry.limit, _NOTHING
            yield f"memory_{name}_usage_bytes", entry.usage, _NOTHING
            yield f"memory_{name}_max_bytes", entry.max, _NOTHING
            yield f"memory_{name}_failcnt_total", entry.failcnt, _NOTHING


def _of_v2(figures: Any) -> Iterator[Sample]:
    if figures.HasField("cpu"):
        cpu = figures.cpu
        for name in ("usage_usec", "user_usec", "system_usec", "throttled_usec"):
            yield f"cpu_{name}_microseconds", getattr(cpu, name), _NOTHING
        yield "cpu_nr_periods_total", cpu.nr_periods, _NOTHING
        yield "cpu_nr_throttled_total", cpu.nr_throttled, _NOTHING
    if figures.HasField("memory"):
        for field in figures.memory.DESCRIPTOR.fields:
            if field.message_type is None:
                yield f"memory_{field.name}_bytes", getattr(figures.memory, field.name), _NOTHING
    if figures.HasField("memory_events"):
        yield "memory_oom_total", figures.memory_events.oom, _NOTHING
    yield from _of_pids(figures)
    for entry in figures.io.usage:
        labels = {"major": str(entry.major), "minor": str(entry.minor)}
        yield "io_rbytes_bytes", entry.rbytes, labels
        yield "io_wbytes_bytes", entry.wbytes, labels
        yield "io_rios_total", entry.rios, labels
        yield "io_wios_total", entry.wios, labels


def _of_pids(figures: Any) -> Iterator[Sample]:
    if figures.HasField("pids"):
        yield "pids_current", figures.pids.current, _NOTHING
        yield "pids_limit", figures.pids.limit, _NOTHING
