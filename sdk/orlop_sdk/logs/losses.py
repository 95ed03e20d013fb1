# SPDX-License-Identifier: Apache-2.0
"""What a log driver could not keep: counted, and told in its log, but not for each line of it."""

from __future__ import annotations

import time
from logging import Logger
from typing import Final

# Seconds between two words of it.
_TELL: Final = 5.0


class Losses:
    """The losses of one container. *name* is what the log calls it, *kind* what is counted besides bytes."""

    def __init__(self, name: object, log: Logger, kind: str) -> None:
        self._name = name
        self._log = log
        self._kind = kind
        self._count = 0
        self._bytes = 0
        self._told = -_TELL

    def add(self, count: int, size: int, why: str) -> None:
        """Count what was dropped. That it begins is told, and *why*, unless something was told just now."""
        if not self._count and self._is_due():
            self._log.warning("%s: output is being dropped: %s", self._name, why)
            self._told = time.monotonic()
        self._count += count
        self._bytes += size

    def tell(self, *, now: bool = False) -> str:
        """Tell how much was dropped since this was told last, if it is time for that, or *now*.

        Returns the words; nothing where there was nothing to tell.
        """
        if not self._count or not (now or self._is_due()):
            return ""
        words = f"{self._count} {self._kind} ({self._bytes} bytes) of this container's output were dropped"
        self._log.warning("%s: %s", self._name, words)
        self._count = self._bytes = 0
        self._told = time.monotonic()
        return words

    def _is_due(self) -> bool:
        return time.monotonic() - self._told >= _TELL
