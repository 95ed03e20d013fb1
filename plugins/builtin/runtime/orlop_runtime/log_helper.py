# SPDX-License-Identifier: Apache-2.0
"""``orlop-log``: runs one log driver in a process of its own, started by a shim as a ``binary://`` logger.

The protocol is containerd's: descriptor 3 is the container's stdout, 4 its stderr, and closing 5 says that the logger
is ready. The environment names the container, the arguments are the URI's query as pairs of key and value in any order:
``driver`` (the plugin's URI), ``uri`` (what the client wrote), and optional ones: ``config`` (the daemon's config file)
and ``image`` (the name of the container's image).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orlop.errors import InvalidArgument

if TYPE_CHECKING:
    from orlop.config import Config
    from orlop.interfaces.log import LogDriver


def main() -> int:
    """Run the driver that the arguments name, until both streams end; returns the exit status."""
    # Shims send it when the container is deleted, with output still in the pipes. These end by themselves then.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # pydantic would import what any installed distribution offers as a plugin of *its* own, trusted by us or not.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    try:
        from orlop_sdk.serving.log import run_to_the_end, streams

        arguments = pairs(sys.argv[1:])
        # What the driver has to say while it runs; the daemon has told already what there is to say about the config.
        logging.getLogger(f"orlop.{arguments['driver']}").addHandler(_Teller())
        driver = asyncio.run(find(arguments["driver"], arguments.get("config", "")))
        return run_to_the_end(driver, arguments["uri"], streams(os.environ, arguments.get("image", "")), tell)
    except KeyError as error:
        tell(f"no {error} given; shims start this program, not people")
        return 2
    # Drivers are anybody's code, and nobody else would say why there is no log.
    except Exception as error:  # noqa: BLE001  # see above
        tell(f"{type(error).__name__}: {error}")
        return 1


class _Teller(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tell(record.getMessage(), record.levelname.lower())


def tell(words: str, level: str = "error") -> None:
    """Say it on stderr, and in the daemon's log: the shim works in the bundle, whose FIFO ``log`` the daemon reads."""
    print(f"orlop-log: {words}", file=sys.stderr)
    with contextlib.suppress(OSError):
        fd = os.open("log", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.write(fd, f"level={level} msg={json.dumps(f'orlop-log: {words}')}\n".encode())
        finally:
            os.close(fd)


def pairs(arguments: Sequence[str]) -> dict[str, str]:
    """Keys and values that follow one another. Raises `InvalidArgument` for a key without value."""
    if len(arguments) % 2:
        raise InvalidArgument(f"arguments {list(arguments)}: must be pairs of key and value")
    return dict(zip(arguments[::2], arguments[1::2], strict=True))


async def find(plugin: str, config: str) -> LogDriver:
    """The driver, brought up in a kernel of its own with nothing else in it.

    Raises the kernel's errors, which say why there is none.
    """
    from orlop.interfaces.log import LOG_DRIVER
    from orlop.kernel import Kernel

    kernel = Kernel(_config(config), only={plugin}, leave_out=())
    await kernel.start()
    id = plugin.removeprefix(f"{LOG_DRIVER.name}.")
    return kernel.get(LOG_DRIVER, id)


def _config(path: str) -> Config:
    from orlop.config import from_data, load

    # Without a file, nothing of /etc is read: the daemon did not use it either.
    return load(Path(path)) if path else from_data({})


if __name__ == "__main__":
    sys.exit(main())
