# SPDX-License-Identifier: Apache-2.0
"""Processes and figures of tasks, and ``containerd.v1.types.Process`` and its relatives."""

from __future__ import annotations

from typing import Final

from orlop.values import Metric, ProcessInfo, ProcessState, Stdio, TaskStatus
from orlop_sdk.api.types import metrics_pb2
from orlop_sdk.api.types.task import task_pb2
from orlop_sdk.convert.common import any_from_wire, any_to_wire, time_from_wire, time_to_wire

_TO_WIRE: Final[dict[TaskStatus, task_pb2.Status]] = {
    TaskStatus.UNKNOWN: task_pb2.Status.UNKNOWN,
    TaskStatus.CREATED: task_pb2.Status.CREATED,
    TaskStatus.RUNNING: task_pb2.Status.RUNNING,
    TaskStatus.STOPPED: task_pb2.Status.STOPPED,
    TaskStatus.PAUSED: task_pb2.Status.PAUSED,
    TaskStatus.PAUSING: task_pb2.Status.PAUSING,
}
_FROM_WIRE: Final[dict[int, TaskStatus]] = {number: status for status, number in _TO_WIRE.items()}


def status_to_wire(status: TaskStatus) -> task_pb2.Status:
    """The enum's number of a status."""
    return _TO_WIRE[status]


def status_from_wire(number: int) -> TaskStatus:
    """The status of an enum's number; one that nobody knows is `TaskStatus.UNKNOWN`."""
    return _FROM_WIRE.get(number, TaskStatus.UNKNOWN)


def process_to_wire(state: ProcessState) -> task_pb2.Process:
    """``Process`` of a state, named as clients expect: by exec id, and by container id for the first process.

    The container's id is left out, as by containerd; who asked knows it.
    """
    return task_pb2.Process(
        id=state.exec_id or state.id,
        pid=state.pid,
        status=_TO_WIRE[state.status],
        stdin=state.stdio.stdin,
        stdout=state.stdio.stdout,
        stderr=state.stdio.stderr,
        terminal=state.stdio.terminal,
        exit_status=state.exit_status,
        exited_at=time_to_wire(state.exited_at),
    )


def process_from_wire(message: task_pb2.Process, container: str = "") -> ProcessState:
    """The state in a ``Process``. Daemons leave its container id out; *container* is it then."""
    id = message.container_id or container or message.id
    return ProcessState(
        id=id,
        exec_id="" if message.id == id else message.id,
        pid=message.pid,
        status=status_from_wire(message.status),
        stdio=Stdio(message.stdin, message.stdout, message.stderr, message.terminal),
        exit_status=message.exit_status,
        exited_at=time_from_wire(message.exited_at),
    )


def process_info_to_wire(info: ProcessInfo) -> task_pb2.ProcessInfo:
    """The message of one process inside a container."""
    return task_pb2.ProcessInfo(pid=info.pid, info=any_to_wire(info.info))


def process_info_from_wire(message: task_pb2.ProcessInfo) -> ProcessInfo:
    """One process inside a container."""
    return ProcessInfo(message.pid, any_from_wire(message.info))


def metric_to_wire(metric: Metric) -> metrics_pb2.Metric:
    """``containerd.types.Metric``."""
    return metrics_pb2.Metric(timestamp=time_to_wire(metric.timestamp), id=metric.id, data=any_to_wire(metric.data))


def metric_from_wire(message: metrics_pb2.Metric) -> Metric:
    """A container's figures."""
    return Metric(message.id, time_from_wire(message.timestamp), any_from_wire(message.data))
