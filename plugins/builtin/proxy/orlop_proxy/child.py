# SPDX-License-Identifier: Apache-2.0
"""The process that an isolated plugin runs in: a kernel with that plugin alone, served on a private socket.

Standard input brings one line of JSON (`orlop_proxy.request.Request`) and then only its end, which tells that the
daemon is gone. Standard output takes one line: that the plugin is ready, or why it is not. Standard error takes log
records, a line of JSON each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from orlop.config import from_data
from orlop.discovery import AnyRegistration, Catalogue, discover
from orlop.errors import OrlopError
from orlop.interfaces.content import CONTENT
from orlop.interfaces.differ import DIFFER
from orlop.interfaces.metadata import METADATA
from orlop.interfaces.snapshotter import SNAPSHOTTER
from orlop.interfaces.stream import STREAM_PROCESSOR
from orlop.kernel import Kernel
from orlop.registry import OK, SKIPPED
from orlop.trust import Lock
from orlop_proxy.request import Request
from orlop_sdk.serving.proxy import Parts, serve
from orlop_sdk.serving.remote_metadata import remote_metadata
from orlop_sdk.serving.stream_socket import serve_streams

#: Seconds that the plugin has to close once the daemon is gone.
_GRACE: Final = 10.0
_PARTS: Final = {SNAPSHOTTER.name: "snapshotter", CONTENT.name: "content", DIFFER.name: "differ"}


def main() -> int:
    """Serve until the daemon closes standard input, or SIGTERM; returns the exit status."""
    # What a plugin prints must not be taken for an answer.
    answers = os.dup(1)
    os.dup2(2, 1)
    request = Request.from_json(sys.stdin.buffer.readline())
    _log_as_json(request.log_level)
    threading.Thread(target=_end_with_daemon, name="daemon", daemon=True).start()
    with open(answers, "w") as answer:
        return asyncio.run(_run(request, answer))


async def _run(request: Request, answer: Any) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with _hosted(request) as exports:
            _tell(answer, {"exports": dict(exports)})
            await stop.wait()
    except OrlopError as error:
        _tell(answer, {"error": str(error), "code": error.code})
        return 1
    except _Off as off:
        _tell(answer, {"error": str(off), "skipped": off.skipped})
        return 1
    return 0


class _Off(Exception):
    """The plugin did not come up."""

    def __init__(self, reason: str, *, skipped: bool) -> None:
        super().__init__(reason)
        self.skipped = skipped


@asynccontextmanager
async def _hosted(request: Request) -> AsyncIterator[dict[str, str]]:
    """The plugin in a kernel, and served; gives what it exports."""
    settings = dict(request.settings)
    locked = settings.get("plugin_trust") == "locked" and settings.get("plugin_lock")
    catalogue = discover(settings.get("plugin_dirs", ()), Lock(Path(locked)) if locked else None)
    plugins: list[AnyRegistration] = []
    if request.stores:
        plugins.append(remote_metadata(request.stores))
        without = [each.uri for each in catalogue.candidates.values() if each.type == METADATA.name]
        settings["disabled_plugins"] = [*settings.get("disabled_plugins", ()), *without]
    kernel = Kernel(from_data(settings), properties=request.properties, only=_only(request, catalogue), plugins=plugins)
    async with kernel:
        status = next((each for each in kernel.registry.statuses() if each.uri == request.uri), None)
        if status is None:
            raise _Off("is not installed where it was to run", skipped=False)
        if status.state != OK:
            raise _Off(status.reason, skipped=status.state == SKIPPED)
        async with _served(request, kernel.registry.instance(request.uri)):
            yield dict(status.exports)


def _only(request: Request, catalogue: Catalogue) -> Sequence[str]:
    """The plugin, and all of those types that it follows and that can be had here."""
    followed = [each.uri for each in catalogue.candidates.values() if each.type in request.followed]
    configured = [f"{STREAM_PROCESSOR.name}.{id}" for id in request.settings.get("stream_processors", ())]
    return [request.uri, *followed, *(configured if STREAM_PROCESSOR.name in request.followed else ())]


def _served(request: Request, instance: Any) -> AbstractAsyncContextManager[None]:
    if request.type == STREAM_PROCESSOR.name:
        return serve_streams(request.address, instance)
    return serve(request.address, Parts(**{_PARTS[request.type]: instance}))


def _tell(answer: Any, message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the daemon is gone, and soon so are we
        answer.write(json.dumps(message) + "\n")
        answer.flush()


def _end_with_daemon() -> None:
    """End this process with the daemon, however that ended: the kernel closes our standard input."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return json.dumps({"level": record.levelno, "name": record.name, "text": text})


def _log_as_json(level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


if __name__ == "__main__":
    sys.exit(main())
