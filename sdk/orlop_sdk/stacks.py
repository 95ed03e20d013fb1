# SPDX-License-Identifier: Apache-2.0
"""What the process is doing right now: the stacks of all threads and of all asyncio tasks."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback


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
