# SPDX-License-Identifier: Apache-2.0
"""The ``orlop-sdk`` command, for authors of plugins.

::

    orlop-sdk new snapshotter demo                      # a folder with a plugin that works
    orlop-sdk check orlop_demo:demo                     # does it do what its interface says?
    orlop-sdk serve snapshot orlop_demo:demo --socket /run/demo.sock --root /var/lib/demo
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from orlop.errors import OrlopError
from orlop_sdk.scaffold import command as scaffold

_TARGET = "module:attribute of a registration, a plugin's URI, or its id"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 for a failure, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.WARNING, format="%(name)s: %(message)s")
    try:
        status = int(options.run(options))
        # What the interpreter would flush at its end must fail here, where it is handled.
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of our output is gone (``orlop-sdk check x | head``). Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OrlopError as error:
        if options.debug:
            logging.getLogger("orlop").error("%s", type(error).__name__, exc_info=error)
        for line in str(error).splitlines() or [type(error).__name__]:
            print(f"orlop-sdk: {line}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("orlop-sdk", description="Tools for authors of plugins.", allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", help="tell what happens, and where an error comes from")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    scaffold.add_to(commands)
    serve = commands.add_parser("serve", help="run a plugin as a proxy plugin, for containerd or Orlop")
    serve.add_argument("kind", choices=("snapshot", "content", "diff", "sandbox"))
    serve.add_argument("target", help=_TARGET)
    serve.add_argument("--socket", required=True, help="where to listen; the daemon's config names the same path")
    serve.add_argument("--root", type=Path, required=True, help="directory for everything that the plugin keeps")
    serve.add_argument("--config", type=Path, help="a config file of the daemon's format, for the plugin's table")
    serve.add_argument(
        "--stores", default="", metavar="SOCKET", help="the daemon whose content a differ reads and writes"
    )
    serve.set_defaults(run=_serve)
    check = commands.add_parser("check", help="run the conformance suite of a plugin's interface")
    check.add_argument("target", help=f"{_TARGET}; or KIND=SOCKET of a proxy plugin that runs, such as snapshot=/run/x")
    check.add_argument("--config", type=Path, help="a config file of the daemon's format, for the plugin's table")
    check.add_argument(
        "--set", action="append", default=[], metavar="NAME=yes|no", help="what yours can or cannot do; see the suite"
    )
    check.add_argument("-k", dest="words", default="", metavar="WORDS", help="only checks with these words")
    check.add_argument("--stores", default="", metavar="SOCKET", help="diff=SOCKET: the daemon whose content it uses")
    check.add_argument(
        "--sample", action="append", default=[], metavar="TYPE=IN:OUT", help="stream: a media type and two files"
    )
    check.add_argument("--uri", default="", help="log: where to log to; {place} stands for a new directory")
    check.add_argument("--read", default="", metavar="MODULE:FUNCTION", help="log: gives what was logged to a URI")
    check.set_defaults(run=_check)
    return parser


def _serve(options: argparse.Namespace) -> int:
    from orlop_sdk.serving.program import ServeOptions, serve

    logging.getLogger("orlop_sdk.serving").setLevel(logging.INFO)
    asyncio.run(
        serve(
            ServeOptions(
                options.kind,
                options.target,
                options.socket,
                options.root.absolute(),
                options.config,
                options.stores,
            )
        )
    )
    return 0


def _check(options: argparse.Namespace) -> int:
    try:
        from orlop_sdk.testing.check import CheckOptions, check
    except ModuleNotFoundError as error:
        raise OrlopError(f"check: {error.name} is not installed; pip install orlop-sdk[testing]") from error
    return check(
        CheckOptions(
            target=options.target,
            config=options.config,
            settings=tuple(options.set),
            words=options.words,
            stores=options.stores,
            samples=tuple(options.sample),
            uri=options.uri,
            read=options.read,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
