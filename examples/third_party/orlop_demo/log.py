# SPDX-License-Identifier: Apache-2.0
"""A log driver: ``demo:///path/to/file`` gets a line for each line of a container, with its time and stream.

2026-01-02T03:04:05Z stdout hello
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orlop.errors import InvalidArgument
from orlop.interfaces.log import LogDriver, LogStreams, log_driver
from orlop.plugin import InitContext, NoConfig


class DemoDriver:
    """See `orlop.interfaces.log.LogDriver`."""

    @property
    def schemes(self) -> tuple[str, ...]:
        """What its URIs begin with."""
        return ("demo",)

    def shim_uri(self, uri: str) -> str | None:
        """Check the URI; no shim knows the scheme, so that it is left to the helper."""
        path_of(uri)
        return None

    def run(self, uri: str, options: Mapping[str, str], streams: LogStreams) -> None:
        """Copy both streams until they end, each in a thread of its own."""
        target = os.open(path_of(uri), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        threads = [
            threading.Thread(target=copy_lines, args=(source, target, name))
            for source, name in ((streams.stdout, "stdout"), (streams.stderr, "stderr"))
        ]
        for thread in threads:
            thread.start()
        streams.ready()
        for thread in threads:
            thread.join()
        os.close(target)


def copy_lines(source: int, target: int, name: str) -> None:
    """Copy line by line. A line is one write to a file that is appended to, so that threads do not mix theirs."""
    with open(os.dup(source), "rb") as lines:
        for line in lines:
            head = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {name} ".encode()
            os.write(target, head + line.rstrip(b"\n") + b"\n")


def path_of(uri: str) -> Path:
    """The file that a URI means. Raises `InvalidArgument`."""
    parts = urlsplit(uri)
    if parts.netloc or not parts.path.startswith("/") or parts.path.endswith("/") or parts.query:
        raise InvalidArgument(
            f'log URI "{uri}": needs the absolute path of a file and nothing else; write demo:///path'
        )
    return Path(unquote(parts.path))


def read(uri: str) -> dict[str, bytes]:
    """What was logged to a URI, by stream: for ``orlop-sdk check``, and for tests."""
    found = {"stdout": b"", "stderr": b""}
    with path_of(uri).open("rb") as lines:
        for line in lines:
            _, name, text = line.split(b" ", 2)
            found[name.decode()] += text
    return found


@log_driver("demo", exports={"schemes": "demo"})
async def demo(ctx: InitContext[NoConfig]) -> LogDriver:
    """Register the driver."""
    return DemoDriver()


_: type[LogDriver] = DemoDriver
