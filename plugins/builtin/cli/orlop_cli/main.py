# SPDX-License-Identifier: Apache-2.0
"""The ``orlop`` command: global options, and subcommands found by entry point.

Only the subcommand that is asked for is imported; ``orlop --help`` imports all, to print what each is for.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from orlop.config import from_data
from orlop.discovery import discover
from orlop.errors import OrlopError, Unavailable
from orlop.interfaces.introspection import COMMAND, CommandPlugin
from orlop.kernel import Kernel
from orlop.plugin import PluginStatus
from orlop_cli.console import Console, Usage
from orlop_cli.parser import CommandParser, global_parser, merged, split

#: Exit statuses. ``run`` and ``exec`` return the container's own.
_FAILED: Final = 1
_USAGE: Final = 2
_INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 for a failure that is printed, 2 for wrong usage.

    ``run`` and ``exec`` return the container's own status. Raises `SystemExit` where argparse ends the program.
    """
    debug = False
    try:
        before, rest = _read(sys.argv[1:] if arguments is None else arguments)
        debug = before.debug
        status = _dispatch(before, rest)
        # What the interpreter would flush at its end must fail here, where it is handled.
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of our output is gone (``orlop ps | head``). Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (OrlopError, OSError) as error:
        return _failed(error, debug)
    except Exception as error:  # noqa: BLE001  # a subcommand may be anyone's; whoever types it gets a line, not a dump
        flaw = OrlopError(f"{type(error).__name__}: {error}; this is a flaw, --debug shows where")
        flaw.__cause__ = error
        return _failed(flaw, debug)


def _read(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    before, rest = split(argv)
    if any(word in ("-h", "--help") for word in before):
        before, rest = [], ["help"]
    return global_parser(version("orlop-cli")).parse_args(before), rest


def _dispatch(before: argparse.Namespace, words: list[str]) -> int:
    if not words or words == ["help"]:
        _help()
        return 0 if words else _USAGE
    if words[0] == "help":
        words = [words[1], "--help"]
    name = words[0]
    plugin = _load([name])[name]
    parser = CommandParser(
        f"orlop {name}", description=plugin.summary, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    plugin.configure(parser)
    arguments = parser.parse_args(words[1:])
    options = merged(before, arguments)
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.WARNING, format="%(name)s: %(message)s")
    console = Console(options.address, options.namespace, options.format)
    try:
        return plugin.run(arguments, console)
    except Unavailable as error:
        from orlop_cli.unreachable import explain

        raise explain(error, options.address) from error


def _load(names: Sequence[str]) -> dict[str, CommandPlugin]:
    """The subcommands of these names. Raises `Usage` for one that nobody offers, `Unavailable` for a broken one."""
    kernel = _bring_up(names)
    found = dict(kernel.all(COMMAND))
    for name in names:
        if name not in found:
            offered = sorted(item.id for item in kernel.catalogue.candidates.values() if item.type == COMMAND.name)
            if name in offered:
                status = _status(kernel, name)
                raise Unavailable(f'command "{name}": {status.reason} ({status.origin})')
            raise Usage(f'unknown command "{name}"; valid: {", ".join(offered)}')
    return found


def _bring_up(names: Sequence[str]) -> Kernel:
    kernel = Kernel(
        from_data({"root": "/nonexistent/root", "state": "/nonexistent/state"}),
        only=[f"{COMMAND.name}.{name}" for name in names],
        leave_out=(),
    )
    # A subcommand that cannot be imported is not there, and its status says why: no log line beside that.
    logging.getLogger("orlop").setLevel(logging.CRITICAL)
    try:
        asyncio.run(kernel.start())
    finally:
        logging.getLogger("orlop").setLevel(logging.NOTSET)
    return kernel


def _status(kernel: Kernel, name: str) -> PluginStatus:
    return next(each for each in kernel.registry.statuses() if (each.type, each.id) == (COMMAND.name, name))


def _help() -> None:
    global_parser().print_help()
    print("\ncommands:")
    names = sorted(item.id for item in discover().candidates.values() if item.type == COMMAND.name)
    kernel = _bring_up(names)
    working = kernel.all(COMMAND)
    for name in names:
        if name in working:
            summary = working[name].summary
        else:
            summary = f"(broken: {_status(kernel, name).reason})"
        print(f"  {name:<12} {summary}")
    print("\norlop COMMAND --help tells more about one.")


def _failed(error: OrlopError | OSError, debug: bool) -> int:
    if debug or logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.getLogger("orlop").error("%s", type(error).__name__, exc_info=error.__cause__ or error)
    text = str(error)
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or text
    for line in text.splitlines() or [type(error).__name__]:
        print(f"orlop: {line}", file=sys.stderr)
    return _USAGE if isinstance(error, Usage) else _FAILED


if __name__ == "__main__":
    sys.exit(main())
