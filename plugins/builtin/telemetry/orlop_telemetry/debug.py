# SPDX-License-Identifier: Apache-2.0
"""A look inside the running daemon, at the paths where Go programs have theirs, so that ``ctr pprof`` finds some."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Final

from orlop.blocking import run_blocking
from orlop.plugin import Plugins
from orlop_sdk.serving.socketfile import SocketFile
from orlop_sdk.stacks import stacks
from orlop_telemetry.config import DebugConfig
from orlop_telemetry.http import Page, PageServer, Query

#: Types of objects in the account of memory, those of which there are most.
_TYPES: Final = 100


class DebugServer:
    """Serves the pages on a unix socket, or on a TCP port."""

    def __init__(self, config: DebugConfig, plugins: Plugins) -> None:
        self._config = config
        self._plugins = plugins
        self._file: SocketFile | None = None
        self._address = ""
        self._server = PageServer(
            {
                "/debug/vars": self._vars,
                "/debug/plugins": self._states,
                "/debug/pprof/cmdline": self._cmdline,
                "/debug/pprof/goroutine": self._stacks,
                "/debug/pprof/heap": self._heap,
            }
        )

    @property
    def address(self) -> str:
        return self._address

    async def start(self) -> None:
        wanted = self._config.address
        if not wanted.removeprefix("unix://").startswith("/"):
            self._address = await self._server.listen(wanted)
            return
        self._file = SocketFile(wanted, self._config.uid, self._config.gid)
        try:
            await self._server.serve(await run_blocking(self._file.listen))
            await run_blocking(self._file.publish)
        except BaseException:
            await self.close()
            raise
        self._address = f"unix://{self._file.path}"

    async def close(self) -> None:
        self._address = ""
        if self._file is not None:
            await run_blocking(self._file.remove)
        await self._server.close()

    async def _vars(self, _query: Query) -> Page:
        content = {
            "cmdline": sys.argv,
            "python": sys.version,
            "tasks": len(asyncio.all_tasks()),
            "threads": {str(thread.ident): thread.name for thread in threading.enumerate()},
            "garbage": gc.get_stats(),
            "plugins": dict(Counter(status.state for status in self._plugins.statuses())),
        }
        content |= await run_blocking(_process)
        return Page((json.dumps(content, indent=1) + "\n").encode(), "application/json; charset=utf-8")

    async def _states(self, _query: Query) -> Page:
        lines = [
            f"{status.uri} {status.state} {status.seconds:.6f} s {status.reason}".rstrip()
            for status in self._plugins.statuses()
        ]
        return Page(("\n".join(lines) + "\n").encode())

    async def _cmdline(self, _query: Query) -> Page:
        return Page("\0".join(sys.argv).encode(errors="surrogateescape"))

    async def _stacks(self, _query: Query) -> Page:
        # On the loop, which so shows itself at this page; those of tasks can be read nowhere else.
        return Page(stacks(asyncio.get_running_loop()).encode(errors="replace"))

    async def _heap(self, _query: Query) -> Page:
        return Page(await run_blocking(_account))


def _process() -> dict[str, Any]:
    """What the kernel says of this process; memory in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "memory": {name: int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM", "VmSize")},
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def _account() -> bytes:
    """Objects by type. What was there when the daemon became ready is not looked at, neither here nor by Python."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        name = f"{kind.__module__}.{kind.__qualname__}"
        counts[name] += 1
        sizes[name] += sys.getsizeof(each)
    lines = [f"{len(counts)} types, {counts.total()} objects since the start, {gc.get_freeze_count()} of before"]
    lines += [f"{count:8} {sizes[name]:10} bytes {name}" for name, count in counts.most_common(_TYPES)]
    return ("\n".join(lines) + "\n").encode()
