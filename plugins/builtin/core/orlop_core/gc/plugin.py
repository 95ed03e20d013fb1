# SPDX-License-Identifier: Apache-2.0
"""Declares the garbage collection scheduler."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from orlop.config import GoDuration, seconds
from orlop.interfaces.metadata import GC, METADATA, Scheduler
from orlop.plugin import InitContext, PluginConfig

_MOST_PAUSE = 0.5


def _clamp(value: float) -> float:
    return min(max(value, 0.0), _MOST_PAUSE)


class SchedulerConfig(PluginConfig):
    """Settings of the garbage collection scheduler."""

    pause_threshold: Annotated[float, AfterValidator(_clamp)] = 0.02
    """The share of time that may go into collecting, 0 to 0.5: a collection of 10 ms is followed by 490 ms without one.
    0: no such limit."""
    deletion_threshold: Annotated[int, Field(ge=0)] = 0
    """Collect at once after so many deletions. 0: deletions wait for the next collection that is due."""
    mutation_threshold: Annotated[int, Field(ge=0)] = 100
    """Collect when due after so many changes, even if none of them deleted anything. 0: never for that reason."""
    schedule_delay: GoDuration = "0s"
    """How long a collection that is to run at once waits for more to come, for example ``10ms``."""
    startup_delay: GoDuration = "100ms"
    """When the first collection runs, counted from the start of the daemon."""


@GC.plugin("scheduler", config=SchedulerConfig, requires=(METADATA,))
async def scheduler(ctx: InitContext[SchedulerConfig]) -> Scheduler:
    """A scheduler for the metadata store; it begins when the daemon starts its plugins."""
    from orlop_core.gc.scheduler import CollectionScheduler, Rule

    config = ctx.config
    ctx.export("PauseThreshold", f"{config.pause_threshold:g}")
    ctx.export("DeletionThreshold", str(config.deletion_threshold))
    ctx.export("MutationThreshold", str(config.mutation_threshold))
    ctx.export("ScheduleDelay", config.schedule_delay)
    rule = Rule(
        pause_threshold=config.pause_threshold,
        deletion_threshold=config.deletion_threshold,
        mutation_threshold=config.mutation_threshold,
        schedule_delay=seconds(config.schedule_delay),
        startup_delay=seconds(config.startup_delay),
    )
    return CollectionScheduler(ctx.get(METADATA), rule)
