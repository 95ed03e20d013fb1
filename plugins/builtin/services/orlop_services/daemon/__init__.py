# SPDX-License-Identifier: Apache-2.0
"""The command ``orlopd``. Its command line is containerd's, so that units, scripts and shims need no change.

Only the standard library is imported up here: shims start ``orlopd publish`` for events, and that has to be quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

from orlop_services.daemon.paths import DEFAULT_ADDRESS, DEFAULT_FILE

LEVELS: Final = ("trace", "debug", "info", "warn", "error", "fatal", "panic")
#: Go's programs take long options with one dash too, and some callers of containerd write them so.
_LONG: Final = ("-config", "-log-level", "-address", "-root", "-state", "-version", "-help", "-namespace", "-topic")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parsed = parser().parse_args(_with_two_dashes(sys.argv[1:] if arguments is None else arguments))
    if parsed.version:
        from orlop_services.daemon.version import REVISION, version

        sys.stdout.write(f"orlopd orlop {version()} {REVISION}".rstrip() + "\n")
        return 0
    if parsed.command == "publish":
        from orlop_services.daemon.publish import publish

        return publish(parsed)
    if parsed.command == "oci-hook":
        from orlop_services.daemon.oci_hook import oci_hook

        return oci_hook(parsed.program)
    # pydantic would import what any installed distribution offers as a plugin of *its* own, trusted by us or not.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    if parsed.command == "config":
        from orlop_services.daemon.config_commands import config

        return config(parsed)
    from orlop_services.daemon.run import run

    return run(parsed)


def _with_two_dashes(words: Sequence[str]) -> list[str]:
    # What follows oci-hook is another program's.
    own = words.index("oci-hook") if "oci-hook" in words else len(words)
    return [f"-{word}" if word.partition("=")[0] in _LONG else word for word in words[:own]] + list(words[own:])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="orlopd", description="The container runtime daemon. Without a command it runs until it is told to stop."
    )
    top.add_argument("-c", "--config", metavar="FILE", help=f"config file (default {DEFAULT_FILE}, if it is there)")
    top.add_argument("-l", "--log-level", choices=LEVELS, help="least severe messages to log")
    top.add_argument("-a", "--address", metavar="SOCKET", help=f"socket for clients (default {DEFAULT_ADDRESS})")
    top.add_argument("--root", metavar="DIR", help="directory of what must last")
    top.add_argument("--state", metavar="DIR", help="directory of what a reboot may take")
    top.add_argument("-v", "--version", action="store_true", help="print the version and exit")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    _add_config(commands.add_parser("config", help="print the configuration"))
    publish = commands.add_parser("publish", help="publish an event, a protobuf Any on standard input")
    publish.add_argument("--namespace", default="", help="namespace that the event belongs to")
    publish.add_argument("--topic", default="", help="topic of the event, such as /tasks/exit")
    hook = commands.add_parser("oci-hook", help="run a program as an OCI hook, with the container's state filled in")
    hook.add_argument("program", nargs=argparse.REMAINDER, help="the program and its arguments")
    return top


def _add_config(config: argparse.ArgumentParser) -> None:
    actions = config.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("default", help="print the defaults, of all installed plugins too, with explanations")
    actions.add_parser("dump", help="print what is in effect: the files merged over the defaults")
    actions.add_parser("migrate", help="print what the files say, merged, in the newest format")
