# SPDX-License-Identifier: Apache-2.0
"""The ``orlop`` command as tests call it: with pipes, on a terminal, and in the background."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.ctr import Result, environment, eventually, read_some, text

PROGRAM = (str(Path(sys.executable).parent / "orlop"),)
TIMEOUT = 40.0
"""Seconds that one call may take."""


class Terminal:
    """A call on a terminal of its own, and what it shows."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        self._own, others = pty.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(others)
        # setsid makes the terminal the controlling one, so that its keys send signals; env undoes what a runner in the
        # background ignores, which children would inherit.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "env", "--default-signal", *command],
            stdin=others,
            stdout=others,
            stderr=others,
            env=env,
        )
        self._others = others
        self.shown = ""
        os.set_blocking(self._own, False)

    def resize(self, lines: int, columns: int) -> None:
        """Make it another size."""
        fcntl.ioctl(self._own, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: str) -> None:
        """Type on it."""
        os.write(self._own, keys.encode())

    def expect(self, words: str) -> str:
        """Wait until it shows these words, and give what came before; what comes after is for the next call."""
        eventually(lambda: self._read() and words in self.shown, lambda: f"no {words!r} in {self.shown!r}", TIMEOUT)
        before, _, self.shown = self.shown.partition(words)
        return before

    def wait(self) -> int:
        """The exit status."""
        eventually(lambda: self._read() and self.process.poll() is not None, lambda: repr(self.shown), TIMEOUT)
        self._read()
        return self.process.returncode

    def attributes(self) -> list[Any]:
        """How the terminal is set, raw or not."""
        return termios.tcgetattr(self._others)

    def close(self) -> None:
        """End the call if it runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._others)
        os.close(self._own)

    def _read(self) -> bool:
        while piece := read_some(self._own):
            self.shown += text(piece)
        return True


class Orlop:
    """Calls ``orlop`` with one daemon's address and one namespace."""

    def __init__(
        self, address: Path, namespace: str, program: Sequence[str] = PROGRAM, env: Mapping[str, str] | None = None
    ) -> None:
        self.namespace = namespace
        self.program = program
        self.env = environment() | {
            "CONTAINERD_ADDRESS": str(address),
            "CONTAINERD_NAMESPACE": namespace,
            "TERM": "xterm",
            "COLUMNS": "100",
            **(env or {}),
        }

    def run(self, *args: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None) -> Result:
        """Make a call, whatever comes of it. It must never end in a traceback."""
        done = subprocess.run(
            [*self.program, *args],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=self.env | dict(env or {}),
            timeout=TIMEOUT,
            check=False,
        )
        result = Result(args, done.returncode, text(done.stdout), text(done.stderr), done.stdout)
        assert "Traceback" not in result.err, result.err
        return result

    def ok(self, *args: str, stdin: bytes | None = None) -> str:
        """Make a call that has to succeed, and give its standard output."""
        result = self.run(*args, stdin=stdin)
        assert result.code == 0, f"orlop {result}"
        return result.out

    def json(self, *args: str) -> Any:
        """What a successful call prints as JSON."""
        return json.loads(self.ok("--format", "json", *args))

    def fails(self, *args: str, code: int = 1, stdin: bytes | None = None) -> str:
        """Make a call that has to fail with one line, and give that line without the program's name."""
        result = self.run(*args, stdin=stdin)
        assert result.code == code, f"orlop {result}"
        (line,) = result.err.splitlines()
        assert line.startswith("orlop"), line
        return line.partition(": ")[2]

    @contextmanager
    def terminal(self, *args: str) -> Iterator[Terminal]:
        """A call on a terminal of 24 lines of 80 characters."""
        terminal = Terminal([*self.program, *args], self.env)
        try:
            yield terminal
        finally:
            terminal.close()

    @contextmanager
    def background(self, *args: str) -> Iterator[subprocess.Popen[bytes]]:
        """A call that runs until the block ends, with pipes for all streams."""
        process = subprocess.Popen(
            [*self.program, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()
