# SPDX-License-Identifier: Apache-2.0
"""The daemon's life: read the config, set up the host, start the kernel, wait for a signal, close."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from orlop.config import Config, load
from orlop.errors import OrlopError
from orlop.interfaces.rpc import SERVER
from orlop.kernel import Kernel
from orlop.registry import FAILED
from orlop_sdk.linux.open_files import raise_limit
from orlop_services.daemon import host, logs
from orlop_services.daemon.paths import DEFAULT_ADDRESS
from orlop_services.daemon.reload import on_hangup
from orlop_services.daemon.stacks import dump
from orlop_services.daemon.version import REVISION, version

GRPC: Final = f"{SERVER.name}.grpc"
TTRPC: Final = f"{SERVER.name}.ttrpc"
#: Seconds after which a start that is not done yet shows what its threads are at.
_LATE: Final = 60.0
#: Seconds that plugins get to close before the process ends anyway.
_CLOSING: Final = 30.0

_log = logging.getLogger("orlop.daemon")


def read_config(arguments: argparse.Namespace) -> Config:
    """The config with the command line's overrides. Raises `ConfigError` later, with all faults: see `Kernel.start`."""
    overrides: dict[tuple[str | int, ...], Any] = {}
    for key in ("root", "state"):
        if getattr(arguments, key) is not None:
            overrides[key,] = getattr(arguments, key)
    if arguments.log_level is not None:
        overrides["debug", "level"] = arguments.log_level
    if arguments.address is not None:
        overrides["plugins", GRPC, "address"] = arguments.address
    path = Path(arguments.config) if arguments.config is not None else None
    config = load(path, overrides)
    if arguments.address is not None and not config.section(TTRPC):
        overrides["plugins", TTRPC, "address"] = f"{arguments.address}.ttrpc"
        config = load(path, overrides)
    return config


def properties(config: Config) -> dict[str, str]:
    """The facts that plugins may ask for."""
    grpc = config.section(GRPC).get("address", DEFAULT_ADDRESS)
    ttrpc = config.section(TTRPC).get("address", f"{DEFAULT_ADDRESS}.ttrpc")
    return {
        "version": version(),
        "revision": REVISION,
        "grpc.address": str(grpc),
        "ttrpc.address": str(ttrpc),
        # Programs that the daemon starts read it, too, so it must not depend on their directory.
        "config.path": str(config.files[0].absolute()) if config.files else "",
    }


def run(arguments: argparse.Namespace) -> int:
    """Run the daemon until a signal ends it, and return the exit status."""
    began = time.monotonic()
    # Starting makes many objects and hardly any garbage.
    gc.disable()
    # The daemon never forks, and grpc's preparations for that would cost time and log lines when it starts programs.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    config = read_config(arguments)
    debug = config.settings.debug
    logs.configure(debug.level, debug.format, traced=debug.log_trace_id)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # Nothing here calls select(2), and each container and client takes a descriptor.
    raise_limit()
    # From a thread of its own: a plugin that blocks while it is imported, or made, lets nothing else run.
    faulthandler.dump_traceback_later(_LATE, repeat=True, file=2)
    try:
        kernel = Kernel(config, properties=properties(config))
        # All faults of the config, those of plugins' tables too, before anything on the host changes.
        kernel.select()
        locks = host.prepare(config)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(kernel, began))
    except OrlopError as error:
        sys.stderr.writelines(f"orlopd: {line}\n" for line in str(error).splitlines())
        return 1
    finally:
        faulthandler.cancel_dump_traceback_later()
    _log.info("stopped; %d locks released", len(locks))
    return 0


def _loop_factory() -> Any:
    import uvloop

    return uvloop.new_event_loop


async def _serve(kernel: Kernel, began: float) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    on_hangup(kernel, loop)
    # Not the loop's handler: it would wait for the loop, and a loop that hangs is what one wants to see.
    signal.signal(signal.SIGUSR1, lambda *_: dump(loop))
    try:
        if await _start(kernel, stop):
            faulthandler.cancel_dump_traceback_later()
            # What is there now stays: no collection needs to look through it again.
            gc.freeze()
            gc.enable()
            host.notify("READY=1")
            _log.info("ready after %.3f s", time.monotonic() - began)
            await stop.wait()
        host.notify("STOPPING=1")
        _log.info("stopping")
    finally:
        await _close(kernel, loop)


async def _start(kernel: Kernel, stop: asyncio.Event) -> bool:
    """Start the kernel; False when a signal came first. Raises what kept it, or a server, from starting."""
    starting, stopping = asyncio.create_task(kernel.start()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if not starting.done():
            starting.cancel()
    if stop.is_set():
        await asyncio.gather(starting, return_exceptions=True)
        return False
    await starting
    servers = [entry for entry in kernel.registry.entries.values() if entry.candidate.type == SERVER.name]
    if failed := [entry for entry in servers if entry.state == FAILED]:
        raise OrlopError("\n".join(f"{entry.uri}: {entry.reason}" for entry in failed))
    for entry in servers:
        if entry.instance is not None:
            _log.info("%s listens on %s", entry.candidate.id, getattr(entry.instance, "address", ""))
    return True


async def _close(kernel: Kernel, loop: asyncio.AbstractEventLoop) -> None:
    try:
        async with asyncio.timeout(_CLOSING):
            await kernel.close()
    except TimeoutError:
        _log.error("plugins did not close within %g s; stopping without them", _CLOSING)
        dump(loop)
        logging.shutdown()
        # An orderly end would wait for the threads of whatever hangs.
        os._exit(1)
