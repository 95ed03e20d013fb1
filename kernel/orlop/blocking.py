# SPDX-License-Identifier: Apache-2.0
"""The one door from async code to blocking code.

Nothing that waits for a disk, a lock or another process may run on the event loop. It passes through a `Pool`, bounded
and named after its plugin, so that one slow plugin cannot starve the others.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Pool:
    """A bounded pool of threads. Context variables (namespace, lease) follow the call.

    A cancelled caller stops waiting; the blocking call itself runs to its end.
    """

    def __init__(self, name: str, threads: int = 8) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *function* in a thread and return what it returns, or raise what it raises."""
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: context.run(function, *args, **kwargs))

    def close(self) -> None:
        """Let running calls end and free the threads. May be called twice."""
        self._executor.shutdown(wait=True, cancel_futures=True)


_shared = Pool("blocking", 16)


async def run_blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call *function* in the pool for short, odd calls. Plugins with much blocking work have a `Pool` of their own."""
    return await _shared.run(function, *args, **kwargs)
