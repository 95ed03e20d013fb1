# SPDX-License-Identifier: Apache-2.0
"""The real ``ctr`` as tests call it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CTR = "/usr/bin/ctr"
TIMEOUT = 20.0
"""Seconds that one call may take."""


@dataclass(frozen=True)
class Result:
    """How one call ended."""

    args: tuple[str, ...]
    code: int
    out: str
    err: str
    raw: bytes = b""
    """Standard output as it was."""

    def lines(self) -> list[str]:
        """The lines of standard output."""
        return self.out.splitlines()

    def __str__(self) -> str:
        return f"ctr {' '.join(self.args)}: exit {self.code}\n{self.out}{self.err}"


def environment() -> dict[str, str]:
    """This process's environment without what would point ``ctr`` at other daemons or defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CONTAINERD_")}


class Ctr:
    """Calls ``ctr`` with one daemon's address and one namespace."""

    def __init__(self, address: Path, namespace: str, program: str = CTR) -> None:
        self.address = address
        self.namespace = namespace
        self.program = program

    def command(self, *args: str) -> list[str]:
        """The argument list of a call."""
        return [self.program, "--address", str(self.address), "--namespace", self.namespace, *args]

    def run(self, *args: str, stdin: bytes | None = None, timeout: float = TIMEOUT) -> Result:
        """Make a call, whatever comes of it. Without *stdin* it reads from /dev/null."""
        done = subprocess.run(
            self.command(*args),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=environment(),
            timeout=timeout,
            check=False,
        )
        return Result(args, done.returncode, text(done.stdout), text(done.stderr), done.stdout)

    def ok(self, *args: str, stdin: bytes | None = None, timeout: float = TIMEOUT) -> str:
        """Make a call that has to succeed, and give its standard output."""
        result = self.run(*args, stdin=stdin, timeout=timeout)
        assert result.code == 0, str(result)
        return result.out

    def on_terminal(self, *args: str, keys: bytes = b"", timeout: float = TIMEOUT) -> Result:
        """Make a call on a terminal. See `on_terminal`."""
        code, shown = on_terminal(self.command(*args), environment(), keys=keys, timeout=timeout)
        return Result(args, code, shown, "")

    @contextmanager
    def background(self, *args: str, out: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        """A call that runs until the block ends; everything it prints goes to *out*."""
        process = subprocess.Popen(
            self.command(*args), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment()
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def remove_tasks(self) -> None:
        """End and remove every task of the namespace, ready or not. A daemon without a task service has none."""
        for id in self.run("tasks", "ls", "-q").out.split():
            self.run("tasks", "resume", id)
            self.run("tasks", "kill", "--all", "--signal", "SIGKILL", id)
            self.run("tasks", "rm", "--force", id)


def on_terminal(
    command: Sequence[str], env: Mapping[str, str], *, keys: bytes = b"", timeout: float = TIMEOUT
) -> tuple[int, str]:
    """Run a command on a terminal of 24 by 80, type *keys* once something was printed; its status, and what was shown.

    With no keys nothing is waited for.
    """
    own, others = pty.openpty()
    fcntl.ioctl(others, termios.TIOCSWINSZ, b"\x18\x00\x50\x00\x00\x00\x00\x00")
    process = subprocess.Popen(
        command, stdin=others, stdout=others, stderr=others, env=dict(env), start_new_session=True
    )
    os.close(others)
    shown = b""
    deadline = time.monotonic() + timeout
    try:
        os.set_blocking(own, False)
        while time.monotonic() < deadline:
            ended = process.poll() is not None
            piece = read_some(own)
            shown += piece
            if piece and keys:
                os.write(own, keys)
                keys = b""
            if ended and not piece:
                break
            if not piece:
                time.sleep(0.02)
        assert process.poll() is not None, f"{' '.join(command)} did not end; it showed {text(shown)}"
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(own)
    return process.returncode, text(shown)


def read_some(descriptor: int) -> bytes:
    """What can be read at once; empty when that is nothing, or when the other side of the terminal is closed."""
    try:
        return os.read(descriptor, 65536)
    except (BlockingIOError, OSError):
        return b""


def text(data: bytes) -> str:
    return data.decode(errors="replace")


def eventually(claim: Callable[[], bool], what: str | Callable[[], str], seconds: float = 20.0) -> None:
    """Wait until *claim* holds; fail with *what* when it does not within the time."""
    deadline = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)


async def until(claim: Callable[[], bool], what: str = "what a test waits for", seconds: float = 20.0) -> None:
    """The same on the event loop, which goes on meanwhile."""
    deadline = time.monotonic() + seconds
    while not claim():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.01)


def columns(result: Result | str) -> list[Sequence[str]]:
    """The words of each line of a table, its heading left out."""
    lines = (result if isinstance(result, str) else result.out).splitlines()
    return [line.split() for line in lines[1:]]
