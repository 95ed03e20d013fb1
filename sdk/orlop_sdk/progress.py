# SPDX-License-Identifier: Apache-2.0
"""Notices a peer that begins to say something and does not come to its end, so that it cannot hold us for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

#: Seconds that a peer gets to complete what it began: its greeting, a frame, a header block.
PATIENCE = 30.0


class Progress:
    """Calls *late* once *pending* has had the same number for `PATIENCE` seconds.

    *pending* gives a number that changes with every step the peer makes, and None when nothing is incomplete.
    """

    def __init__(self, pending: Callable[[], int | None], late: Callable[[], None]) -> None:
        self._pending = pending
        self._late = late
        self._timer: asyncio.TimerHandle | None = None
        self._seen: int | None = None
        self._strikes = 0

    def look(self) -> None:
        """Call this after every step. It costs next to nothing while a look is due anyway."""
        if self._timer is None and (pending := self._pending()) is not None:
            self._again(pending)

    def stop(self) -> None:
        """Look no more. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self, pending: int) -> None:
        self._seen, self._strikes = pending, 0
        self._wait()

    def _wait(self) -> None:
        # Twice half of the time: should this process have stood still, the second half is for what came meanwhile.
        self._timer = asyncio.get_running_loop().call_later(PATIENCE / 2, self._check)

    def _check(self) -> None:
        self._timer = None
        pending = self._pending()
        if pending is None:
            return
        if pending != self._seen:
            self._again(pending)
            return
        self._strikes += 1
        if self._strikes == 2:
            self._late()
        else:
            self._wait()
