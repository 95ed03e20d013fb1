# SPDX-License-Identifier: Apache-2.0
"""``orlop-sdk new KIND NAME``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from orlop_sdk.scaffold.kinds import KINDS
from orlop_sdk.scaffold.make import create


def add_to(commands: argparse._SubParsersAction[Any]) -> None:
    """Add the subcommand to a program's; its ``run`` takes the parsed arguments and returns the exit status."""
    parser = commands.add_parser(
        "new",
        help="begin a plugin: a distribution that works, with tests",
        description="Make the folder NAME with a distribution orlop-NAME, whose plugin works and passes its tests.",
    )
    parser.add_argument("kind", metavar="KIND", choices=list(KINDS), help=", ".join(KINDS))
    parser.add_argument("name", metavar="NAME", help="id of the plugin; small letters, digits and -")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make it, and say what to do next. Raises as `create`."""
    name = create(arguments.kind, arguments.name, Path.cwd()).name
    print(f"{name}/ holds the distribution orlop-{name}. Next:\n")
    print(f"    pip install -e './{name}[test]' && pytest {name}")
    return 0
