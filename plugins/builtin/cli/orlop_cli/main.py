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

from orlop.config import from_data
from orlop.discovery import discover
from orlop.errors import InvalidArgument, OrlopError, code_of
from orlop.interfaces.introspection import COMMAND, CommandPlugin
from orlop.kernel import Kernel
from orlop_cli.console import Console


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 for a failure that is printed, 2 for wrong usage.

    ``run`` and ``exec`` return the container's own status.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    options, rest = _global_parser(add_help=False).parse_known_args(_before_command(argv))
    rest += argv[len(_before_command(argv)) :]
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.WARNING, format="%(name)s: %(message)s")
    try:
        name = next(iter(rest), "")
        if name in ("", "-h", "--help", "help"):
            _help()
            return 0 if name else 2
        plugin = _load([name])[name]
        parser = argparse.ArgumentParser(
            f"orlop {name}", description=plugin.summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        plugin.configure(parser)
        console = Console(options.address, options.namespace, options.format)
        return plugin.run(parser.parse_args(rest[1:]), console)
    except OrlopError as error:
        return _failed(error, options.debug)
    except BrokenPipeError:
        # The reader of our output is gone (``orlop ps | head``). Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _global_parser(add_help: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("orlop", add_help=add_help, allow_abbrev=False)
    parser.add_argument(
        "-a", "--address", default=os.environ.get("CONTAINERD_ADDRESS", ""), help="socket ($CONTAINERD_ADDRESS)"
    )
    parser.add_argument(
        "-n", "--namespace", default=os.environ.get("CONTAINERD_NAMESPACE", ""), help="$CONTAINERD_NAMESPACE or default"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table", help="how to print results")
    parser.add_argument("--debug", action="store_true", help="tell what happens, and where an error comes from")
    return parser


def _before_command(argv: Sequence[str]) -> list[str]:
    """The global options: everything up to the first word that is neither an option nor an option's value."""
    taken: list[str] = []
    for word in argv:
        value_of_previous = bool(taken) and taken[-1] in ("-a", "--address", "-n", "--namespace", "--format")
        if not word.startswith("-") and not value_of_previous:
            break
        taken.append(word)
    return taken


def _load(names: Sequence[str]) -> dict[str, CommandPlugin]:
    """The subcommands of these names. Raises `InvalidArgument` for one that nobody offers."""
    kernel = Kernel(
        from_data({"root": "/nonexistent/root", "state": "/nonexistent/state"}),
        only=[f"{COMMAND.name}.{name}" for name in names],
        leave_out=(),
    )
    asyncio.run(kernel.start())
    found = dict(kernel.all(COMMAND))
    for name in names:
        if name not in found:
            offered = sorted(item.id for item in kernel.catalogue.candidates.values() if item.type == COMMAND.name)
            if name in offered:
                kernel.get(COMMAND, name)  # raises with the reason
            raise InvalidArgument(f'unknown command "{name}"; valid: {", ".join(offered)}')
    return found


def _help() -> None:
    _global_parser().print_help()
    print("\ncommands:")
    for name in sorted(item.id for item in discover().candidates.values() if item.type == COMMAND.name):
        try:
            summary = _load([name])[name].summary
        except OrlopError as error:
            summary = f"(broken: {error})"
        print(f"  {name:<12} {summary}")
    print("\norlop COMMAND --help tells more about one.")


def _failed(error: OrlopError, debug: bool) -> int:
    if debug:
        logging.getLogger("orlop").error("%s", type(error).__name__, exc_info=error)
    for line in str(error).splitlines() or [type(error).__name__]:
        print(f"orlop: {line}", file=sys.stderr)
    return 2 if code_of(error) == InvalidArgument.code and "unknown command" in str(error) else 1


if __name__ == "__main__":
    sys.exit(main())
