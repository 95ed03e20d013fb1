# SPDX-License-Identifier: Apache-2.0
"""The daemon's side of the zygote: starts it, asks it for shims, and starts another when it died."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orlop
import orlop_sdk
import orlop_shim
from orlop.blocking import run_blocking
from orlop.errors import Unavailable, from_code
from orlop_sdk.linux.open_files import at_former_limit
from orlop_shim.start import Request

# Seconds for a zygote to load what shims need, to fork one, and to end.
_START: Final = 20.0
_FORK: Final = 20.0
_STOP: Final = 5.0
_MOST: Final = 64 << 10
# How often a shim is asked for when zygotes die over it.
_TRIES: Final = 3
_PROGRAM: Final = "import sys; sys.path += sys.argv[1:-1]; from orlop_shim.zygote import main; main()"


class Reserve:
    """One zygote, which is there from the first use on, or from `start` on."""

    def __init__(self, environment: Mapping[str, str], log: logging.Logger) -> None:
        self._environment = environment
        self._log = log
        self._lock = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int:
        """The zygote's pid, or 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Have a zygote ready, if there is none. Raises `Unavailable`."""
        async with self._lock:
            if self._control is None:
                await self._start()

    async def fork(self, request: Request) -> str:
        """The address of a shim for this request. Raises `Unavailable`, and what the zygote says."""
        async with self._lock:
            for _ in range(_TRIES):
                try:
                    if self._control is None:
                        await self._start()
                    answer = await self._ask(json.dumps(request._asdict()).encode())
                except (OSError, TimeoutError, Unavailable) as error:
                    self._log.warning("the zygote of shims is gone, another is started: %s", error)
                    await self._stop()
                    continue
                if "error" in answer:
                    raise from_code(answer["code"], f'shim of "{request.id}": {answer["error"]}')
                return str(answer["address"])
        raise Unavailable(f'shim of "{request.id}": {_TRIES} zygotes died over it; see the log')

    async def close(self) -> None:
        """End the zygote; its shims live on. May be called twice."""
        async with self._lock:
            await self._stop()

    async def _start(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._control = ours
        try:
            self._process = await run_blocking(_start_blocking, its, self._environment)
        except OSError as error:
            await self._stop()
            raise Unavailable(f"zygote of shims: {error.strerror}") from error
        finally:
            its.close()
        try:
            await self._receive(_START)
        except (OSError, TimeoutError, Unavailable) as error:
            await self._stop()
            raise Unavailable(f"zygote of shims: did not start: {error or 'took too long'}") from error

    async def _ask(self, packet: bytes) -> dict[str, Any]:
        assert self._control is not None
        # Shorter than the socket's buffer, and the zygote has answered all before it.
        self._control.send(packet)
        answer: dict[str, Any] = json.loads(await self._receive(_FORK))
        return answer

    async def _receive(self, timeout: float) -> bytes:
        control = self._control
        assert control is not None
        loop = asyncio.get_running_loop()
        arrived: asyncio.Future[None] = loop.create_future()
        loop.add_reader(control.fileno(), _set_once, arrived)
        try:
            await asyncio.wait_for(arrived, timeout)
        finally:
            loop.remove_reader(control.fileno())
        packet = control.recv(_MOST)
        if not packet:
            raise Unavailable("it ended")
        return packet

    async def _stop(self) -> None:
        control, self._control = self._control, None
        process, self._process = self._process, None
        if control is not None:
            control.close()
        if process is not None:
            await run_blocking(_end_blocking, process)


def _set_once(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)


def _start_blocking(control: socket.socket, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # Without ``site``, and so without all that installed packages have it load. The blanks are room for the command
    # lines that its shims show.
    return subprocess.Popen(
        at_former_limit([sys.executable, "-S", "-c", _PROGRAM, *_places(), " " * 512]),
        stdin=control.fileno(),
        stdout=subprocess.DEVNULL,
        env=environment,
        process_group=0,
    )


def _places() -> list[str]:
    """The directories that the packages of a shim are in."""
    files = (orlop.__file__, orlop_sdk.__file__, orlop_shim.__file__)
    return list(dict.fromkeys(str(Path(file).parent.parent) for file in files))


def _end_blocking(process: subprocess.Popen[bytes]) -> None:
    """Wait for a zygote whose socket was closed."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP)
        return
    process.kill()
    process.wait()
