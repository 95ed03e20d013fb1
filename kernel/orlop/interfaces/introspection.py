# SPDX-License-Identifier: Apache-2.0
"""Small roles around the daemon itself."""

from __future__ import annotations

from typing import Any, Final, Protocol, runtime_checkable

from orlop.plugin import PluginType
from orlop.values import AnyMessage


@runtime_checkable
class PluginInformer(Protocol):
    """Optional power of any instance: answer ``Introspection.PluginInfo`` with more than the registry knows."""

    async def plugin_info(self, options: AnyMessage | None) -> AnyMessage | None:
        """Whatever the plugin wants to tell, typed."""


@runtime_checkable
class Part(Protocol):
    """A plugin nobody calls: it does its work by itself, from `start` to `close` (monitors, helpers)."""

    async def start(self) -> None:
        """Begin. Called after every plugin had its turn, and before the servers listen."""

    async def close(self) -> None:
        """End, and wait for what is in progress. May be called twice."""


@runtime_checkable
class CommandPlugin(Protocol):
    """A subcommand of the ``orlop`` command, found by entry point like everything else."""

    @property
    def summary(self) -> str:
        """One line for ``orlop --help``."""

    def configure(self, parser: Any) -> None:
        """Add arguments to an `argparse.ArgumentParser` made for this subcommand."""

    def run(self, arguments: Any, console: Any) -> int:
        """Do it and return the exit status. ``console`` is the command's: client, output, progress.

        Raises the errors of `orlop.errors`, which the command prints.
        """


INTERNAL: Final = PluginType("io.containerd.internal.v1", Part, group="orlop.internal.v1", many=True)
"""Parts that stand by themselves."""
COMMAND: Final = PluginType("io.orlop.command.v1", CommandPlugin, group="orlop.command.v1", many=True)
command = COMMAND.plugin
"""Decorator that declares a subcommand. The daemon never loads this group."""
