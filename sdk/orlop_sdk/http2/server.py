# SPDX-License-Identifier: Apache-2.0
"""A gRPC server for unix sockets over the tables of `orlop_sdk.rpc.service`, which may change while it serves.

::

    server = Server(methods)
    await server.serve(listener)   # a bound socket
    ...
    await server.close()
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from typing import Final

from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.http2 import heads
from orlop_sdk.http2.admission import Admission
from orlop_sdk.http2.calls import Call, Limits
from orlop_sdk.http2.connection import Connection
from orlop_sdk.http2.headers import Fields

log = logging.getLogger(__name__)

_BACKLOG: Final = 128
# Seconds that handlers get to end once they are cancelled, and peers to read what they were told.
_LAST_MOMENT: Final = 5.0


class Server:
    """Answers every method that is in a table at the time of the call, on any number of listening sockets.

    ``methods`` maps full paths (``/package.Service/Method``) to methods. Handlers run concurrently, in the namespace
    and lease that the call's metadata name, and are cancelled when their client gives the call up, goes away, or set a
    deadline that has passed. At most *connections* clients are let in at a time; 0 stands for as many as the limit of
    descriptors (RLIMIT_NOFILE) allows, of which some are kept for other work in any case.
    """

    def __init__(self, methods: Mapping[str, RpcMethod], limits: Limits | None = None, *, connections: int = 0) -> None:
        self._methods = methods
        self._admission = Admission(connections)
        self._limits = limits or Limits()
        self._listeners: list[asyncio.Server] = []
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    async def serve(self, listener: socket.socket) -> None:
        """Accept from a socket that is bound already."""
        loop = asyncio.get_running_loop()
        self._listeners.append(await loop.create_unix_server(self.protocol, sock=listener, backlog=_BACKLOG))

    def protocol(self) -> Connection:
        """A new connection's protocol, to run over any other transport."""
        return Connection(self)

    async def close(self, grace: float = 5.0) -> None:
        """Stop listening, let calls under way end within *grace* seconds, and cancel the rest. May be called twice."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for connection in list(self._connections):
            connection.finish()
        if not await self._is_empty(grace):
            for connection in list(self._connections):
                connection.shut()
            if not await self._is_empty(_LAST_MOMENT):
                log.warning("grpc: %d connections do not end: handlers go on though cancelled", len(self._connections))
                for connection in list(self._connections):
                    connection.abort()

    async def _is_empty(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    # What connections use; see `orlop_sdk.http2.connection.Streams`.

    def parse(self, fields: Fields) -> heads.Head:
        """What a request's fields ask for."""
        return heads.parse(fields)

    def open(self, connection: Connection, id: int, parsed: heads.Head) -> Call:
        """A call for a request."""
        return Call(connection, id, parsed, self._methods, self._limits)

    def made(self, connection: Connection) -> None:
        """Keep track of a connection."""
        self._connections.add(connection)
        self._empty.clear()

    def refusal(self, transport: asyncio.BaseTransport) -> str:
        """Why the newest connection has to go; empty when there is room for it."""
        return self._admission.refusal(transport, len(self._connections))

    def gone(self, connection: Connection) -> None:
        """Forget a connection that has no task left."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()
