# SPDX-License-Identifier: Apache-2.0
"""What the process is doing right now, for SIGUSR1: the stacks of all threads and of all asyncio tasks."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import threading
import traceback
from pathlib import Path

_log = logging.getLogger("orlop.daemon")


def stacks(loop: asyncio.AbstractEventLoop) -> str:
    """The stacks as text."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f'thread "{names.get(ident, ident)}":\n{"".join(traceback.format_stack(frame))}'
        for ident, frame in sys._current_frames().items()
    ]
    for task in asyncio.all_tasks(loop):
        # Compiled coroutines, which grpc has, have frames without lines; the standard library's printer fails on them.
        lines = (
            f'  File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}\n'
            for frame in task.get_stack()
        )
        parts.append(f"{task!r}:\n{''.join(lines)}")
    return "\n".join(parts)


def dump(loop: asyncio.AbstractEventLoop) -> None:
    """Write the stacks to the log and to ``orlopd.<pid>.stacks.log`` in the directory for temporary files."""
    text = stacks(loop)
    _log.info("stacks of all threads and tasks:\n%s", text)
    path = Path(tempfile.gettempdir()) / f"orlopd.{os.getpid()}.stacks.log"
    try:
        # Anybody may write in that directory, so a link that waits there must not be followed.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        _log.error("stacks: %s: %s", path, error.strerror)
