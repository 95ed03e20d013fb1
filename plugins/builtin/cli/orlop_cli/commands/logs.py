# SPDX-License-Identifier: Apache-2.0
"""``orlop logs``: what a detached container wrote, read where its log URI points."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

from orlop.errors import NotFound, Unimplemented
from orlop.interfaces.introspection import CommandPlugin, command
from orlop.plugin import InitContext
from orlop_cli.commands.containers import LOG_LABEL
from orlop_cli.console import Console
from orlop_sdk.client import Client

_CHUNK: Final = 1 << 16
#: How often a followed file is looked at (seconds).
_PAUSE: Final = 0.2


class LogsCommand:
    """``logs``."""

    @property
    def summary(self) -> str:
        return "print what a detached container wrote"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
        parser.add_argument("container")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        console.run(self._logs(arguments, console))
        return 0

    async def _logs(self, arguments: argparse.Namespace, console: Console) -> None:
        async with console.client() as client:
            container = await client.container(arguments.container)
            uri = (await container.refresh()).labels.get(LOG_LABEL, "")
            with _open(arguments.container, uri) as file:
                _copy(file)
                while arguments.follow and await _runs(client, arguments.container):
                    await asyncio.sleep(_PAUSE)
                    _copy(file)
                _copy(file)


def _open(container: str, uri: str) -> BinaryIO:
    if not uri:
        raise NotFound(f'container "{container}": its output was not logged; orlop run --detach does that')
    parts = urlsplit(uri)
    if parts.scheme not in ("file", "json-file"):
        raise Unimplemented(f'container "{container}": its output went to {uri}; look there')
    path = Path(parts.path)
    if not path.exists():
        raise NotFound(f'container "{container}": {path} is not on this host')
    return path.open("rb")


def _copy(file: BinaryIO) -> None:
    while chunk := file.read(_CHUNK):
        sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


async def _runs(client: Client, id: str) -> bool:
    with client.scope():
        return any(state.id == id and state.status != "stopped" for state in await client.tasks.states())


@command("logs")
async def logs(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop logs``."""
    return LogsCommand()
