# SPDX-License-Identifier: Apache-2.0
"""A directory for programs that are installed while the daemon runs (``ctr install``): shims, runtimes, helpers.

Its ``bin`` comes first on the search path of what the daemon starts, and its ``lib`` on that of their libraries.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from orlop.blocking import run_blocking
from orlop.errors import SkipPlugin
from orlop.plugin import PluginConfig

_MODE: Final = 0o711
_PATHS: Final = {"PATH": "bin", "LD_LIBRARY_PATH": "lib"}


class OptConfig(PluginConfig):
    """Where it is."""

    path: str = "/opt/containerd"
    """The directory; bin and lib are made in it."""


class Opt:
    """The directory, on the search paths from `start` on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    async def make(cls, path: Path) -> Opt:
        """Make the directories. Raises `SkipPlugin` where that cannot be done, as on a read-only system."""
        try:
            await run_blocking(_make, path)
        except OSError as error:
            raise SkipPlugin(f'path = "{path}": {error.strerror}; choose a directory that can be written') from error
        return cls(path)

    async def start(self) -> None:
        for variable, name in _PATHS.items():
            before = os.environ.get(variable, "").split(os.pathsep)
            first = str(self._path / name)
            os.environ[variable] = os.pathsep.join([first, *(entry for entry in before if entry not in ("", first))])

    async def close(self) -> None:
        for variable, name in _PATHS.items():
            rest = [
                entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry != str(self._path / name)
            ]
            os.environ[variable] = os.pathsep.join(rest)


def _make(path: Path) -> None:
    for directory in (path, path / "bin", path / "lib"):
        directory.mkdir(mode=_MODE, parents=True, exist_ok=True)
