# SPDX-License-Identifier: Apache-2.0
"""Lines out of what a container writes."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable
from typing import Final, NamedTuple

from orlop.interfaces.log import LogStreams

_CHUNK: Final = 64 << 10


class Piece(NamedTuple):
    """A line, or a part of one that is too long to go in one piece."""

    text: bytes
    """Without the newline."""
    ended: bool
    """Whether the line ends with it."""


class Lines:
    """Cuts what one stream says into lines, and those of more than *longest* bytes into pieces of them."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that are complete now."""
        if b"\n" not in data and self._held + len(data) <= self._longest:
            # Long lines come in many parts, which are put together once.
            self._keep(data)
            return []
        *lines, rest = (self._take() + data).split(b"\n")
        pieces: list[Piece] = []
        for line in lines:
            if len(line) <= self._longest:
                pieces.append(Piece(line, True))
            else:
                last = self._cut(line, pieces)
                pieces.append(Piece(last, True))
        self._keep(rest if len(rest) <= self._longest else self._cut(rest, pieces))
        return pieces

    def end(self) -> list[Piece]:
        """The last line, if the stream did not end with a newline."""
        rest = self._take()
        return [Piece(rest, True)] if rest else []

    def _keep(self, part: bytes) -> None:
        self._parts.append(part)
        self._held += len(part)

    def _take(self) -> bytes:
        text = b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        return text

    def _cut(self, text: bytes, pieces: list[Piece]) -> bytes:
        """Append pieces, and return what is left, which is short enough."""
        at = 0
        while len(text) - at > self._longest:
            cut = _before_character(text, at + self._longest)
            pieces.append(Piece(text[at:cut], False))
            at = cut
        return text[at:]


def copy(streams: LogStreams, longest: int, take: Callable[[str, list[Piece]], None]) -> None:
    """Read both streams until they have ended, and hand over the pieces of lines of ``stdout`` and of ``stderr``."""
    # poll(2) takes any kind of file, unlike epoll(7).
    with selectors.PollSelector() as selector:
        for fd, name in ((streams.stdout, "stdout"), (streams.stderr, "stderr")):
            selector.register(fd, selectors.EVENT_READ, (name, Lines(longest)))
        while selector.get_map():
            for key, _ in selector.select():
                name, lines = key.data
                data = os.read(key.fd, _CHUNK)
                pieces = lines.feed(data) if data else lines.end()
                if pieces:
                    take(name, pieces)
                if not data:
                    selector.unregister(key.fd)


def _before_character(text: bytes, most: int) -> int:
    """Where to cut so that no character is: UTF-8 continues with bytes of the form 10xxxxxx."""
    for cut in range(most, most - 4, -1):
        if text[cut] & 0xC0 != 0x80:
            return cut
    return most
