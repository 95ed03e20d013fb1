# SPDX-License-Identifier: Apache-2.0
"""The shim's own log: lines as containerd's shims write them, into the FIFO ``log`` of the bundle.

A daemon that reads it copies the lines into its own log; without a reader they are lost, and nobody waits.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress


class Log:
    """Writes nowhere until it is open."""

    def __init__(self) -> None:
        self._fd = -1
        self._debug = False

    def open(self, bundle: str, *, debug: bool) -> None:
        """Write to the log of a bundle. Without a FIFO there, or a reader of it, lines go nowhere."""
        self._debug = debug
        with suppress(OSError):
            self._fd = os.open(os.path.join(bundle, "log"), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)

    def resume(self, fd: int, *, debug: bool) -> None:
        """Write to what another worker has opened; -1 stands for nothing."""
        self._fd, self._debug = fd, debug

    def fileno(self) -> int:
        """What it writes to; -1 for nothing."""
        return self._fd

    def debug(self, text: str) -> None:
        """What only matters to who looks for a mistake."""
        if self._debug:
            self._write("debug", text)

    def info(self, text: str) -> None:
        """What is as it should be."""
        self._write("info", text)

    def warning(self, text: str) -> None:
        """What went wrong without harm."""
        self._write("warning", text)

    def error(self, text: str) -> None:
        """What went wrong."""
        self._write("error", text)

    def _write(self, level: str, text: str) -> None:
        if self._fd < 0:
            return
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f'time="{moment}" level={level} msg={json.dumps(text, ensure_ascii=False)}\n'
        with suppress(OSError):
            os.write(self._fd, line.encode(errors="replace"))
