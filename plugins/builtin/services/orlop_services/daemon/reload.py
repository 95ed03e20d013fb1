# SPDX-License-Identifier: Apache-2.0
"""What SIGHUP does: the config is read again, and the running plugins follow it; see `orlop.plugin.Plugins`."""

from __future__ import annotations

import asyncio
import logging
import signal

from orlop.errors import OrlopError
from orlop.kernel import Kernel
from orlop.plugin import Change
from orlop_services.daemon import host

_log = logging.getLogger("orlop.daemon")


def on_hangup(kernel: Kernel, loop: asyncio.AbstractEventLoop) -> None:
    """Reload the config at each SIGHUP from now on."""
    running: set[asyncio.Task[None]] = set()

    def begin() -> None:
        task = loop.create_task(_reload(kernel))
        running.add(task)
        task.add_done_callback(running.discard)

    loop.add_signal_handler(signal.SIGHUP, begin)


async def _reload(kernel: Kernel) -> None:
    host.notify("RELOADING=1")
    try:
        change = await kernel.plugins.reload_config()
    except OrlopError as error:
        for line in str(error).splitlines():
            _log.error("config not reloaded, nothing is changed: %s", line)
    else:
        _tell(change)
    finally:
        host.notify("READY=1")


def _tell(change: Change) -> None:
    for warning in change.warnings:
        _log.warning("%s", warning)
    for uri, users in change.kept.items():
        _log.warning("%s stays as it is until the daemon restarts, for it is used by %s", uri, ", ".join(users))
    if change.settings:
        _log.warning("these count after a restart of the daemon only: %s", ", ".join(change.settings))
    _log.info(
        "config reloaded; started: %s; stopped: %s; restarted: %s",
        *(", ".join(uris) or "none" for uris in (change.started, change.stopped, change.restarted)),
    )
