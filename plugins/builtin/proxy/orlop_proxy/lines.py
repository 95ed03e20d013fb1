# SPDX-License-Identifier: Apache-2.0
"""What other processes print, read as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import IO, Any, Final

_PIECE: Final = 1 << 16


async def reader(file: IO[bytes]) -> asyncio.StreamReader:
    """A pipe's end to read from."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), file)
    return stream


async def forward(file: IO[bytes], say: Callable[[bytes], Any]) -> None:
    """Hand each line to *say*, without its end, until there are no more; a line of over 64 KiB loses its beginning."""
    lines, rest = await reader(file), b""
    while data := await lines.read(_PIECE):
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            say(line)
        rest = rest[-_PIECE:]
    say(rest)
