# SPDX-License-Identifier: Apache-2.0
"""Keeps the process of an isolated plugin running: started again when it ends, at growing intervals, never forked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orlop.blocking import run_blocking
from orlop.errors import InitError, OrlopError, SkipPlugin, Unavailable, from_code
from orlop_proxy.launch import Launch, Plain
from orlop_proxy.lines import forward, reader
from orlop_proxy.request import Request
from orlop_sdk.linux.process import ended


@dataclass(frozen=True, slots=True)
class Patience:
    """Times in seconds."""

    start: float = 60.0
    """Until the plugin has to be ready."""
    stop: float = 15.0
    """Until it has to have ended; then it is killed."""
    first: float = 0.1
    """Before it is started again for the first time; twice as long each time it then ends soon."""
    most: float = 30.0
    """Longest time before it is started again."""
    stable: float = 60.0
    """It has to run for this long until its earlier ends are forgotten."""


class Supervisor:
    """One plugin's process. *changed* is called whenever it is ready, and when it has ended."""

    def __init__(
        self,
        request: Request,
        log: logging.Logger,
        changed: Callable[[bool], None] = lambda ready: None,
        patience: Patience = Patience(),
        launch: Launch | None = None,
    ) -> None:
        self._request = request
        self._log = log
        self._changed = changed
        self._patience = patience
        self._runs = launch or Plain()
        self._process: subprocess.Popen[bytes] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._how = ""
        """How it ended, while it is down."""
        self._down = asyncio.Event()
        self.restarts = 0
        """How often it was started again after it had ended."""

    @property
    def pid(self) -> int | None:
        """The process that is ready, or None."""
        return self._process.pid if self._process is not None and not self._how else None

    async def start(self) -> dict[str, str]:
        """Start it and wait until it is ready; returns what the plugin exports.

        Raises what kept the plugin from coming up; nothing is left running then.
        """
        try:
            exports = await self._launch()
        except BaseException:
            await self.close()
            raise
        self._spawn(self._watch(), "watch")
        return exports

    def check(self) -> None:
        """Raise `Unavailable` unless it is ready."""
        if self._closing or self._how:
            raise self.down()

    def down(self) -> OrlopError:
        """What to tell callers while it is down."""
        what = "it was closed" if self._closing else f"its process {self._how or 'ended'}, and is being started again"
        return Unavailable(f'plugin "{self._request.uri}": {what}')

    async def gone(self, seconds: float) -> bool:
        """Whether the process that served a call is down, or will be within *seconds*."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._down.wait()
        return self._down.is_set()

    async def close(self) -> None:
        """End it, and wait until it has. May be called twice."""
        self._closing = True
        self._down.set()
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()  # tells it to end
            try:
                async with asyncio.timeout(self._patience.stop):
                    await _reaped(process)
            except TimeoutError:
                self._log.warning("its process did not end within %g seconds and is killed", self._patience.stop)
                await self._kill(process)
        await run_blocking(self._runs.close)
        for task in self._tasks:
            if task.get_name() != "log":  # that one ends by itself, with the last words
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self) -> None:
        """Start it again whenever it has ended."""
        pause = self._patience.first
        while True:
            assert self._process is not None
            began = time.monotonic()
            status = await _reaped(self._process)
            if self._closing:
                return
            self._how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            self._down.set()
            self._changed(False)
            if time.monotonic() - began > self._patience.stable:
                pause = self._patience.first
            while not await self._again(pause):
                pause = min(pause * 2, self._patience.most)
            pause = min(pause * 2, self._patience.most)

    async def _again(self, pause: float) -> bool:
        self._log.error("its process %s; it is started again in %g s", self._how, pause)
        await asyncio.sleep(pause)
        try:
            await self._launch()
        except (OrlopError, OSError) as error:
            self._how = f"does not start: {error}"
            return False
        self.restarts += 1
        self._log.info("its process runs again")
        return True

    async def _launch(self) -> dict[str, str]:
        starting = asyncio.ensure_future(run_blocking(self._popen))
        try:
            process = self._process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._process = await starting  # the thread went on; `close` ends what it started
            raise
        assert process.stdout is not None
        assert process.stderr is not None
        self._spawn(forward(process.stderr, self._say), "log")
        answers = await reader(process.stdout)
        try:
            async with asyncio.timeout(self._patience.start):
                line = await answers.readline()
        except TimeoutError:
            await self._kill(process)
            raise Unavailable(f"was not ready within {self._patience.start:g} seconds") from None
        if not line:
            status = await _reaped(process)
            raise Unavailable(f"its process ended with status {status} before it was ready; see the log")
        answer = json.loads(line)
        if "error" in answer:
            await _reaped(process)
            raise _failure(answer)
        self._how = ""
        self._down.clear()
        self._changed(True)
        exports: dict[str, str] = answer["exports"]
        return exports

    def _popen(self) -> subprocess.Popen[bytes]:
        process = self._runs.start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # how it ended says more
            process.stdin.write(self._request.to_json())
            process.stdin.flush()
        return process

    async def _kill(self, process: subprocess.Popen[bytes]) -> None:
        await run_blocking(self._runs.kill, process)
        await _reaped(process)

    def _say(self, line: bytes) -> None:
        """Pass its log records on, under the plugin's name."""
        if not line.strip():
            return
        level, text = logging.WARNING, line.decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            level, text = int(record["level"]), str(record["text"])
        self._log.log(level, "%s", text, extra={"plugin": self._request.uri})


async def _reaped(process: subprocess.Popen[bytes]) -> int:
    """Its exit status once it has ended, with our end of its standard input closed."""
    status = await ended(process)
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # it ended before it had read everything
            process.stdin.close()
    return status


def _failure(answer: dict[str, Any]) -> Exception:
    if answer.get("skipped"):
        return SkipPlugin(answer["error"])
    if "code" in answer:
        return from_code(answer["code"], answer["error"])
    return InitError(answer["error"])
