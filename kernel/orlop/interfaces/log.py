# SPDX-License-Identifier: Apache-2.0
"""Log drivers: where a container's output goes, by the scheme of a URI.

A shim understands ``fifo``, ``file`` and ``binary`` itself. For any other scheme the daemon gives the shim a
``binary://`` URI of a small helper, which loads the driver's plugin alone and calls `LogDriver.run`. So a driver
written once works under every shim, and a driver that hangs or dies harms nobody but its own container's log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from orlop.plugin import PluginType


@dataclass(frozen=True, slots=True)
class LogStreams:
    """What a driver works on: two readable descriptors, and who is writing."""

    stdout: int
    """Read end of the container's standard output."""
    stderr: int
    """Read end of its standard error; nothing comes of a container with a terminal."""
    container: str
    """Its id."""
    namespace: str
    """The namespace that it belongs to."""
    ready: Callable[[], None]
    """To be called once, when the driver is set up; the container starts only then."""
    image: str = ""
    """Name of its image; empty when there is none, when a daemon does not tell, and for further processes in it."""


@runtime_checkable
class LogDriver(Protocol):
    """Handles the log URIs of its schemes."""

    @property
    def schemes(self) -> tuple[str, ...]:
        """URI schemes, without ``://``. The empty string is a bare path."""

    def shim_uri(self, uri: str) -> str | None:
        """The URI to hand to the shim when shims know the scheme themselves; None to go through the helper.

        Raises `InvalidArgument` for a URI this driver cannot use, so that the mistake shows at create.
        """

    def run(self, uri: str, options: Mapping[str, str], streams: LogStreams) -> None:
        """Copy both streams until they end. Runs in a process of its own and may block.

        *options* is the URI's query. Not called for URIs that `shim_uri` answers.
        """


LOG_DRIVER: Final = PluginType("io.orlop.log.v1", LogDriver, group="orlop.log.v1", many=True)
log_driver = LOG_DRIVER.plugin
"""Decorator that declares a log driver plugin. Export ``schemes``: the schemes, comma separated."""
