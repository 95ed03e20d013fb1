# SPDX-License-Identifier: Apache-2.0
"""``orlop logs``: what a detached container wrote, read where its log URI points."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

from orlop.errors import NotFound, Unimplemented
from orlop.interfaces.introspection import CommandPlugin, command
from orlop.plugin import InitContext
from orlop_cli.commands.containers import LOG_LABEL
from orlop_cli.console import Console, Usage
from orlop_sdk.client.client import Client

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
        parser.add_argument("-n", "--tail", type=int, metavar="LINES", help="begin with so many of the last lines")
        parser.add_argument("container")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        if arguments.tail is not None and arguments.tail < 0:
            raise Usage("logs: --tail is a number of lines, 0 or more")
        console.run(self._logs(arguments, console))
        return 0

    async def _logs(self, arguments: argparse.Namespace, console: Console) -> None:
        async with console.client() as client:
            container = await client.container(arguments.container)
            with _open(arguments.container, container.record.labels.get(LOG_LABEL, "")) as log:
                if arguments.tail is not None:
                    log.skip(arguments.tail)
                log.copy()
                if arguments.follow:
                    await _follow(log, asyncio.create_task(_ended(client, arguments.container)))


async def _follow(log: _Log, end: asyncio.Task[None]) -> None:
    while not end.done():
        await asyncio.wait([end], timeout=_PAUSE)
        log.copy()
    end.result()


async def _ended(client: Client, id: str) -> None:
    try:
        await (await (await client.container(id)).task()).wait()
    except NotFound:
        return  # removed, which is an end, too


class _Log:
    """A log file and what to do with its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def skip(self, lines: int) -> None:
        """Go to the last *lines* lines of what there is now."""
        size = position = self._file.seek(0, os.SEEK_END)
        tail = b""
        # One newline more than lines: the one before the first of them.
        while position > 0 and tail.count(b"\n") <= lines:
            step = min(_CHUNK, position)
            position -= step
            self._file.seek(position)
            tail = self._file.read(step) + tail
        pieces = tail.split(b"\n")[-(lines + tail.endswith(b"\n")) :] if lines else []
        self._file.seek(size - len(b"\n".join(pieces)))

    def copy(self) -> None:
        """Print what is there and was not printed yet."""
        while chunk := self._file.read(_CHUNK):
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


class _JsonLog(_Log):
    """Docker's format: an object a line, with the text and which stream it came from."""

    def copy(self) -> None:
        while line := self._file.readline():
            if not line.endswith(b"\n"):
                self._file.seek(-len(line), os.SEEK_CUR)  # still being written
                break
            entry = json.loads(line)
            stream = sys.stderr if entry.get("stream") == "stderr" else sys.stdout
            stream.buffer.write(str(entry.get("log", "")).encode())
            stream.buffer.flush()


def _open(container: str, uri: str) -> _Log:
    if not uri:
        raise NotFound(f'container "{container}": its output was not logged; orlop run --detach does that')
    parts = urlsplit(uri)
    kinds: dict[str, type[_Log]] = {"file": _Log, "json-file": _JsonLog}
    if parts.scheme not in kinds:
        raise Unimplemented(f'container "{container}": its output went to {uri}; look there')
    path = Path(unquote(parts.path))
    if not path.exists():
        raise NotFound(f'container "{container}": {path} is not on this host')
    return kinds[parts.scheme](path.open("rb"))


@command("logs")
async def logs(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop logs``."""
    return LogsCommand()
