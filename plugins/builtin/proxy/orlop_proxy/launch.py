# SPDX-License-Identifier: Apache-2.0
"""How the process of an isolated plugin is started and, where it will not end by itself, ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Final, Protocol

#: The program that hosts one plugin; see `orlop_proxy.child`.
CHILD: Final = (sys.executable, "-P", "-m", "orlop_proxy.child")


def search_path() -> str:
    """``PYTHONPATH`` for the program: directories of the config hold distributions that a new interpreter ignores."""
    return os.pathsep.join(filter(None, sys.path))


def start(command: list[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a program with pipes for all three streams, in a process group of its own."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        process_group=0,
    )


class Launch(Protocol):
    """One way to run the program. Its methods block."""

    def start(self) -> subprocess.Popen[bytes]:
        """Start it; what is left of the one before is cleared away first. Raises OSError."""

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End it at once, with all that belongs to it."""

    def close(self) -> None:
        """Remove what only served it. May be called twice."""


class Plain:
    """A child of the daemon and nothing more."""

    def start(self) -> subprocess.Popen[bytes]:
        return start(list(CHILD), os.environ | {"PYTHONPATH": search_path()})

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()

    def close(self) -> None:
        """There is nothing else."""


_: type[Launch] = Plain
