# SPDX-License-Identifier: Apache-2.0
"""Lines out of what a container writes."""

from __future__ import annotations

import fcntl
import os
import selectors
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from orlop.interfaces.log import LogStreams

#: Bytes that a pipe of a container holds, so that the container writes on while a driver works.
PIPE: Final = 256 << 10
_CHUNK: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Pieces:
    """Lines, and parts of those that are too long to go in one piece, in their order."""

    texts: list[bytes]
    """Without newlines."""
    unended: set[int] = field(default_factory=set)
    """Which of them, by index, are a part of a line that goes on in the next one."""

    def __bool__(self) -> bool:
        return bool(self.texts)


class Lines:
    """Cuts what one stream says into lines, and those of more than *longest* bytes into pieces of them."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> Pieces:
        """The pieces that are complete now."""
        if b"\n" not in data and self._held + len(data) <= self._longest:
            # Long lines come in many parts, which are put together once.
            self._keep(data)
            return Pieces([])
        # No step for each line: there are a million of them in a second.
        texts = (self._take() + data).split(b"\n")
        rest = texts.pop()
        pieces = Pieces(texts)
        if texts and max(map(len, texts)) > self._longest:
            pieces = Pieces([])
            for text in texts:
                pieces.texts.append(self._cut(text, pieces))
        self._keep(rest if len(rest) <= self._longest else self._cut(rest, pieces))
        return pieces

    def end(self) -> Pieces:
        """The last line, if the stream did not end with a newline."""
        rest = self._take()
        return Pieces([rest] if rest else [])

    def _keep(self, part: bytes) -> None:
        self._parts.append(part)
        self._held += len(part)

    def _take(self) -> bytes:
        text = b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        return text

    def _cut(self, text: bytes, pieces: Pieces) -> bytes:
        """Append pieces, and return what is left, which is short enough."""
        at = 0
        while len(text) - at > self._longest:
            cut = _before_character(text, at + self._longest)
            pieces.unended.add(len(pieces.texts))
            pieces.texts.append(text[at:cut])
            at = cut
        return text[at:]


def copy(streams: LogStreams, longest: int, take: Callable[[str, Pieces], None]) -> None:
    """Read both streams until they have ended, and hand over the pieces of lines of ``stdout`` and of ``stderr``.

    Where they are pipes, they are made to hold `PIPE` bytes each if the host's limits allow it.
    """
    both = {streams.stdout: ("stdout", Lines(longest)), streams.stderr: ("stderr", Lines(longest))}
    for fd in both:
        _widen(fd)
    for fd, data in chunks(*both):
        name, lines = both[fd]
        pieces = lines.feed(data) if data else lines.end()
        if pieces:
            take(name, pieces)


def chunks(*fds: int) -> Iterator[tuple[int, bytes]]:
    """What comes from several descriptors, with which of them it was; empty at the end of each, the last time."""
    # poll(2) takes any kind of file, unlike epoll(7).
    with selectors.PollSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                data = os.read(key.fd, _CHUNK)
                if not data:
                    selector.unregister(key.fd)
                yield key.fd, data


def _widen(fd: int) -> None:
    with suppress(OSError):
        if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < PIPE:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE)


def _before_character(text: bytes, most: int) -> int:
    """Where to cut so that no character is: UTF-8 continues with bytes of the form 10xxxxxx."""
    for cut in range(most, most - 4, -1):
        if text[cut] & 0xC0 != 0x80:
            return cut
    return most
