# SPDX-License-Identifier: Apache-2.0
"""``orlop version``: this program's version and the daemon's."""

from __future__ import annotations

import argparse
from importlib.metadata import version as distribution_version
from typing import Any

from orlop.errors import OrlopError
from orlop.interfaces.introspection import CommandPlugin, command
from orlop.plugin import InitContext
from orlop_cli.console import Console


class VersionCommand:
    """``version``."""

    @property
    def summary(self) -> str:
        return "print the versions of this command and of the daemon"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--client", action="store_true", help="do not ask the daemon")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        mine = distribution_version("orlop-cli")
        if arguments.client:
            console.result(f"client {mine}", {"client": mine})
            return 0
        try:
            server = console.run(_server(console))
        except OrlopError as error:
            console.result(f"client {mine}", {"client": mine})
            raise error
        console.result(f"client {mine}\nserver {server}", {"client": mine, "server": server})
        return 0


async def _server(console: Console) -> str:
    async with console.client() as client:
        return (await client.introspection.version()).version


@command("version")
async def version(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop version``."""
    return VersionCommand()
