# SPDX-License-Identifier: Apache-2.0
"""Plugins that watch containers by themselves, and the types that containerd's names for them need."""

from __future__ import annotations

from typing import Final

from orlop import InitContext, PluginConfig
from orlop.config import GoDuration, seconds
from orlop.interfaces.event import EVENT
from orlop.interfaces.introspection import Part
from orlop.interfaces.metadata import METADATA
from orlop.interfaces.task import TASKS
from orlop.plugin import PluginType

CONTAINER_MONITOR: Final = PluginType(
    "io.containerd.monitor.container.v1", Part, group="orlop.container_monitor.v1", many=True
)
"""Parts that keep containers as their records say."""
TASK_MONITOR: Final = PluginType("io.containerd.monitor.task.v1", Part, group="orlop.task_monitor.v1", many=True)
"""Parts that watch what running containers use."""
_DEFAULT_INTERVAL: Final = 10.0


class RestartConfig(PluginConfig):
    """Restarting containers."""

    interval: GoDuration = "10s"
    """Time between two looks at the containers that have a restart label."""


class TaskMonitorConfig(PluginConfig):
    """Watching running containers."""

    no_prometheus: bool = False
    """Whether to keep what it counts out of the figures for Prometheus."""


@CONTAINER_MONITOR.plugin(
    "restart",
    config=RestartConfig,
    requires=(METADATA, TASKS.exact("tasks-service")),
    capabilities=("no", "always", "on-failure", "unless-stopped"),
)
async def restart(ctx: InitContext[RestartConfig]) -> Part:
    """Keeps containers running, or stopped, as their restart labels say."""
    from orlop_runtime.restart import RestartMonitor

    interval = seconds(ctx.config.interval)
    return RestartMonitor(
        ctx.get(METADATA), ctx.get(TASKS, "tasks-service"), interval if interval > 0 else _DEFAULT_INTERVAL
    )


@TASK_MONITOR.plugin("cgroups", config=TaskMonitorConfig, requires=(EVENT,))
async def cgroups(ctx: InitContext[TaskMonitorConfig]) -> Part:
    """Notices containers that exceed their memory limit."""
    from orlop_runtime.memory import MemoryMonitor

    return MemoryMonitor(ctx.get(EVENT), show=not ctx.config.no_prometheus)
