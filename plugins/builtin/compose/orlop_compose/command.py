# SPDX-License-Identifier: Apache-2.0
"""``orlop compose``: make a build, or write the lock of what is installed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from orlop.errors import InvalidArgument
from orlop.interfaces.introspection import CommandPlugin, command
from orlop.plugin import InitContext


class ComposeCommand:
    """``compose FILE`` and ``compose lock``."""

    @property
    def summary(self) -> str:
        return "compose a build out of distributions, or lock what is installed"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("what", metavar="FILE|lock", help="what to build, as TOML; or the word lock")
        parser.add_argument(
            "-o", "--output", type=Path, help="directory for the artefacts (dist), file for the lock (-)"
        )
        parser.add_argument(
            "--relock", action="store_true", help="resolve dependencies anew, whatever FILE's lock says"
        )

    def run(self, arguments: argparse.Namespace, console: Any) -> int:
        if arguments.what == "lock":
            return _lock(arguments.output)
        try:
            from orlop_compose.build import build
        except ModuleNotFoundError as error:
            raise InvalidArgument(
                f'composing needs {error.name}, which is not installed; pip install "orlop-compose[build]"'
            ) from error
        made = build(Path(arguments.what), arguments.output or Path("dist"), console.remark, relock=arguments.relock)
        for path in made:
            print(path)
        return 0


def _lock(output: Path | None) -> int:
    from orlop_compose.trust import installed, lock

    text = lock(installed())
    if output is None or str(output) == "-":
        sys.stdout.write(text)
    else:
        output.write_text(text)
    return 0


@command("compose")
async def compose(_ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop compose``."""
    return ComposeCommand()
