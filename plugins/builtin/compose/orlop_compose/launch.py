# SPDX-License-Identifier: Apache-2.0
"""Starts one of the commands of a composed build.

A copy of this module is part of every build. One file holds all commands, so the first word may be the name of one
(``./build orlop ps``), and so may the file's own name; otherwise it is the daemon.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

_DAEMON: Final = "orlopd"


def main() -> object:
    """Run the command that was meant, and return what it returns."""
    own = __name__.partition(".")[0]
    commands = {point.name: point for point in entry_points(group="console_scripts") if point.module != f"{own}.launch"}
    name = Path(sys.argv[0]).name
    if sys.argv[1:] and sys.argv[1] in commands:
        name = sys.argv.pop(1)
    elif name not in commands:
        name = _DAEMON
    if name not in commands:
        sys.stderr.write(f"{sys.argv[0]}: this build has no {name}; name one of {', '.join(sorted(commands))}\n")
        return 2
    return _run(commands[name])


def _run(command: EntryPoint) -> object:
    return command.load()()
