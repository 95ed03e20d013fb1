# SPDX-License-Identifier: Apache-2.0
"""Whether a server has room for one more connection, so that clients cannot use up what the process itself needs."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from typing import Any, Final

log = logging.getLogger(__name__)

#: The share of the descriptors that connections leave to everything else, and the most that are left (RLIMIT_NOFILE).
RESERVED: Final = 1 / 8
MOST_RESERVED: Final = 256
#: Seconds between log lines about connections that were refused.
_PAUSE: Final = 60.0


class Admission:
    """Lets in at most *most* connections at a time, 0 for any number, and none once descriptors run out."""

    def __init__(self, most: int = 0) -> None:
        self._most = most
        self._refused = 0
        self._told = float("-inf")

    def refusal(self, transport: asyncio.BaseTransport, connections: int) -> str:
        """Why a new connection has to go, which is one of *connections* now. Empty when there is room for it."""
        if self._most and connections > self._most:
            reason = f"more than {self._most} connections"
        elif is_short(_number(transport.get_extra_info("socket"))):
            reason = "the process has hardly any descriptors left (RLIMIT_NOFILE)"
        else:
            return ""
        self._tell(reason)
        return reason

    def _tell(self, reason: str) -> None:
        self._refused += 1
        if (now := time.monotonic()) >= self._told + _PAUSE:
            log.warning("refused %d connections: %s", self._refused, reason)
            self._refused, self._told = 0, now


def is_short(descriptor: int) -> bool:
    """Whether descriptors are short, now that a new one has this number: the kernel gives the lowest that is free."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit != resource.RLIM_INFINITY and descriptor >= limit - min(int(limit * RESERVED), MOST_RESERVED)


def _number(socket: Any) -> int:
    return int(socket.fileno()) if socket is not None else -1
