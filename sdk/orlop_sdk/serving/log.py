# SPDX-License-Identifier: Apache-2.0
"""Log drivers as programs that any shim starts by ``binary://``, under containerd as under Orlop.

::

    main = main_for(DemoDriver)

Installed as a console script, ``demo-log = "orlop_demo:main"``, it takes what the driver's own URI would say::

    ctr run --log-uri 'binary:///opt/demo/bin/demo-log?uri=demo:///var/log/c1.log' ...

Under Orlop that is not needed: clients write ``demo:///var/log/c1.log`` and the daemon does the rest.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from orlop.errors import InvalidArgument
from orlop.interfaces.log import LogDriver, LogStreams
from orlop_sdk.logs.lines import chunks

# What shims hand over, by number.
_STDOUT: Final = 3
_STDERR: Final = 4
_READY: Final = 5


def main_for(make: Callable[[], LogDriver]) -> Callable[[], int]:
    """The ``main`` of a program that runs the driver which *make* returns; returns the exit status."""
    return partial(run, make)


def run(make: Callable[[], LogDriver]) -> int:
    """Log both streams until they end, by containerd's logger protocol.

    Descriptor 3 is the container's stdout and 4 its stderr; closing 5 says that the logger is ready. The arguments are
    pairs of key and value, in any order; only ``uri`` has a meaning.
    """
    # Shims send it when the container is deleted, with output still in the pipes. These end by themselves then.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        driver = make()
        uri = uri_of(driver, sys.argv[1:])
        driver.shim_uri(uri)
        return run_to_the_end(driver, uri, streams(os.environ), _tell)
    # Drivers are anybody's code, and nobody else would say why there is no log.
    except Exception as error:  # noqa: BLE001  # see above
        _tell(f"{type(error).__name__}: {error}")
        return 1


def run_to_the_end(driver: LogDriver, uri: str, streams: LogStreams, tell: Callable[[str], None]) -> int:
    """Run a driver until both streams have ended, even if it fails before; returns the exit status.

    Once a driver is ready, its container runs, and a container whose output nobody takes is ended by SIGPIPE or stands
    still, as its shim has it. So what comes after a failure is dropped, and *tell* is called with the reason and with
    how much that was. A failure before that is raised.
    """
    started = False

    def ready() -> None:
        nonlocal started
        started = True
        streams.ready()

    try:
        driver.run(uri, options_of(uri), replace(streams, ready=ready))
    except Exception as error:
        if not started:
            raise
        tell(f"{type(error).__name__}: {error}; output is being dropped")
        dropped = sum(len(data) for _, data in chunks(streams.stdout, streams.stderr))
        tell(f"{dropped} bytes of this container's output were dropped")
        return 1
    return 0


def _tell(words: str) -> None:
    print(f"{os.path.basename(sys.argv[0])}: {words}", file=sys.stderr)


def uri_of(driver: LogDriver, arguments: Sequence[str]) -> str:
    """The driver's URI among the arguments. Raises `InvalidArgument` when there is none."""
    found = dict(zip(arguments[::2], arguments[1::2], strict=False)).get("uri", "")
    if found.partition("://")[0] not in driver.schemes or "://" not in found:
        wanted = f"{driver.schemes[0]}://..."
        raise InvalidArgument(f'log URI "{found}": write binary:///path/of/this/program?uri={wanted}')
    return found


def options_of(uri: str) -> dict[str, str]:
    """The query of a URI; of several values for one key the last counts."""
    return dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True))


def streams(environment: Mapping[str, str], image: str = "") -> LogStreams:
    """What the shim handed over, and the name of the container's image where that is known."""
    return LogStreams(
        stdout=_STDOUT,
        stderr=_STDERR,
        container=environment.get("CONTAINER_ID", ""),
        namespace=environment.get("CONTAINER_NAMESPACE", ""),
        ready=_ready,
        image=image,
    )


def _ready() -> None:
    try:
        # A byte is what newer shims wait for; the close is enough for all others.
        os.write(_READY, b"1")
    finally:
        os.close(_READY)
