# SPDX-License-Identifier: Apache-2.0
"""Run a snapshotter, content store, differ or sandbox controller as a process of its own: a proxy plugin.

A whole program::

    import asyncio
    from pathlib import Path
    from orlop_sdk.serving.proxy import run

    async def main() -> None:
        await run("/run/demo/demo.sock", snapshotter=DemoSnapshotter(Path("/var/lib/demo")))

    asyncio.run(main())

and in the daemon's config, containerd's or Orlop's::

    [proxy_plugins.demo]
      type = "snapshot"
      address = "/run/demo/demo.sock"
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc.aio

from orlop.blocking import run_blocking
from orlop.errors import InvalidArgument, Unavailable
from orlop.interfaces.content import ContentStore
from orlop.interfaces.differ import Differ
from orlop.interfaces.rpc import RpcMethod
from orlop.interfaces.sandbox import SandboxController
from orlop.interfaces.snapshotter import Snapshotter
from orlop_sdk.rpc.grpc_server import TableHandler, message_limits
from orlop_sdk.serving.content import ContentService
from orlop_sdk.serving.diff import DiffService
from orlop_sdk.serving.sandbox import SandboxControllerService
from orlop_sdk.serving.snapshots import SnapshotsService
from orlop_sdk.serving.socketfile import SocketFile

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that calls in progress get when the server closes.
GRACE: Final = 2.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What one socket offers; any of them."""

    snapshotter: Snapshotter | None = None
    content: ContentStore | None = None
    differ: Differ | None = None
    sandbox: SandboxController | None = None

    def methods(self) -> dict[str, RpcMethod]:
        """The remote calls that answer for them. Raises `InvalidArgument` when there are none."""
        methods: dict[str, RpcMethod] = {}
        if self.snapshotter is not None:
            methods |= SnapshotsService(_AnyName(self.snapshotter)).methods()
        if self.content is not None:
            methods |= ContentService(self.content).methods()
        if self.differ is not None:
            methods |= DiffService(self.differ).methods()
        if self.sandbox is not None:
            methods |= SandboxControllerService(_AnyName(self.sandbox)).methods()
        if not methods:
            raise InvalidArgument(
                "proxy plugin: nothing to serve; give a snapshotter, content store, differ or sandbox controller"
            )
        return methods


@asynccontextmanager
async def serve(address: str, parts: Parts) -> AsyncIterator[None]:
    """Serve on the unix socket *address* (a path, with or without ``unix://``) for as long as the body runs.

    The socket belongs to the user of this process, mode 0660. The parts are not closed. Raises `Unavailable` when
    another process listens there, `InvalidArgument` for a path that no socket can have.
    """
    async with serve_methods(address, parts.methods()):
        yield


@asynccontextmanager
async def serve_methods(address: str, methods: Mapping[str, RpcMethod]) -> AsyncIterator[None]:
    """`serve` for methods of any service (`orlop.interfaces.rpc.RpcService`)."""
    file = SocketFile(address, os.geteuid(), os.getegid())
    server = grpc.aio.server(options=message_limits())
    server.add_generic_rpc_handlers((TableHandler(methods),))
    path = await run_blocking(file.prepare)
    try:
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise Unavailable(f'address "{address}": cannot listen there: {error}') from error
        await server.start()
        await run_blocking(file.publish)
        log.info("proxy plugin: serving on %s", address)
        yield
    finally:
        # The file goes first: who comes now shall find no socket rather than one nobody answers.
        await run_blocking(file.remove)
        await server.stop(GRACE)


async def run(
    address: str,
    *,
    snapshotter: Snapshotter | None = None,
    content: ContentStore | None = None,
    differ: Differ | None = None,
    sandbox: SandboxController | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then close the parts: the ``main`` of such a program. Raises as `serve`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with serve(address, Parts(snapshotter, content, differ, sandbox)):
            await stop.wait()
    finally:
        for part in (snapshotter, content):
            if part is not None:
                await part.close()


class _AnyName(Mapping[str, T]):
    """Containerd sends the name that its config gives the plugin, which is no business of the part's."""

    def __init__(self, part: T) -> None:
        self._part = part

    def __getitem__(self, name: str) -> T:
        return self._part

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
