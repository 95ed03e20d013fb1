# SPDX-License-Identifier: Apache-2.0
"""The command line: global options, and parsers for subcommands that take those as well.

``orlop --format json ps`` and ``orlop ps --format json`` are the same. After the subcommand only the long forms count,
since many subcommands have an ``-a`` of their own. Where a subcommand passes the rest of the line on to a container,
everything there is the container's.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

_VALUED: Final = ("-a", "--address", "-n", "--namespace", "--format")
_PREFIX: Final = "global_"


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """Where the daemon is, and how to print. Empty strings mean the client's defaults."""

    address: str = ""
    namespace: str = ""
    format: str = "table"
    debug: bool = False


class CommandParser(argparse.ArgumentParser):
    """The parser of a subcommand, which takes the global options too; so do the parsers of its own subcommands."""

    def __init__(self, prog: str | None = None, **options: Any) -> None:
        # A plugin's own --format, say, wins over ours.
        options |= {"allow_abbrev": False, "conflict_handler": "resolve"}
        super().__init__(prog, **options)
        group = self.add_argument_group("global options")
        for flag, settings in _GLOBAL.items():
            group.add_argument(f"--{flag}", dest=f"{_PREFIX}{flag}", default=argparse.SUPPRESS, **settings)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and end the program."""
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help tells what there is\n")


_GLOBAL: Final[dict[str, dict[str, Any]]] = {
    "address": {"metavar": "SOCKET", "help": "where the daemon listens ($CONTAINERD_ADDRESS)"},
    "namespace": {"metavar": "NAME", "help": "$CONTAINERD_NAMESPACE, or default"},
    "format": {"choices": ("table", "json"), "help": "how to print results (table)"},
    "debug": {"action": "store_true", "help": "tell what happens, and where an error comes from"},
}


def global_parser(version: str = "") -> argparse.ArgumentParser:
    """The parser of what comes before the subcommand."""
    parser = argparse.ArgumentParser("orlop", usage="orlop [OPTION ...] COMMAND ...", allow_abbrev=False)
    short = {"address": ["-a"], "namespace": ["-n"]}
    defaults = {
        "address": os.environ.get("CONTAINERD_ADDRESS", ""),
        "namespace": os.environ.get("CONTAINERD_NAMESPACE", ""),
        "format": "table",
        "debug": False,
    }
    for flag, settings in _GLOBAL.items():
        parser.add_argument(*short.get(flag, ()), f"--{flag}", default=defaults[flag], **settings)
    parser.add_argument("--version", action="version", version=f"orlop {version}")
    return parser


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Global options, and the rest from the first word on that is neither an option nor an option's value."""
    for index, word in enumerate(argv):
        value_of_previous = index > 0 and argv[index - 1] in _VALUED
        if not word.startswith("-") and not value_of_previous:
            return list(argv[:index]), list(argv[index:])
    return list(argv), []


def merged(before: argparse.Namespace, after: argparse.Namespace) -> GlobalOptions:
    """The global options; what comes after the subcommand counts more."""
    given = {flag: getattr(after, f"{_PREFIX}{flag}", getattr(before, flag)) for flag in _GLOBAL}
    return GlobalOptions(**given)
