# SPDX-License-Identifier: Apache-2.0
"""Wait for processes on the event loop, whatever the loop does about signals."""

from __future__ import annotations

import asyncio
import os
import subprocess


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Return its exit status once it has ended, negative for a signal. One caller at a time."""
    if process.returncode is None:
        loop = asyncio.get_running_loop()
        end = asyncio.Event()
        pidfd = os.pidfd_open(process.pid)
        loop.add_reader(pidfd, end.set)
        try:
            await end.wait()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
    return process.wait()  # it has ended, so this does not block
