# SPDX-License-Identifier: Apache-2.0
"""What one worker leaves to the next besides plain values: open descriptors."""

from __future__ import annotations

from orlop_sdk.hints import Final

_NONE: Final = -1


class Bag:
    """Descriptors on their way to another worker."""

    def __init__(self, fds: list[int]) -> None:
        self.fds: Final = fds
        #: Pipes that fill while nobody looks: places of their descriptors, and how many bytes they held when they
        #: were not full.
        self.looks: Final[list[tuple[int, int]]] = []

    def put(self, fd: int) -> int:
        """Put one in; its place. -1, which stands for none, stays what it is."""
        if fd < 0:
            return _NONE
        self.fds.append(fd)
        return len(self.fds) - 1

    def take(self, place: int) -> int:
        """The descriptor at a place; -1 for none."""
        return self.fds[place] if place >= 0 else _NONE
