# SPDX-License-Identifier: Apache-2.0
"""What the process is doing right now, for SIGUSR1: the stacks of all threads and of all asyncio tasks."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from pathlib import Path

from orlop_sdk.stacks import stacks

_log = logging.getLogger("orlop.daemon")


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
