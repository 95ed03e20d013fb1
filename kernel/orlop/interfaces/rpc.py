# SPDX-License-Identifier: Apache-2.0
"""Services and the servers that mount them.

A *service* says which remote calls it answers, whatever the transport: a table of `RpcMethod`. A *server* mounts the
tables of all services it finds, and takes services that come and go while it runs. So a service is written once and
answers over gRPC, over ttrpc, and in one process without any socket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

from orlop.plugin import PluginType


class RpcMessage(Protocol):
    """What a request or response must offer: the two calls every protobuf message class has."""

    def SerializeToString(self) -> bytes:
        """The message as bytes."""

    @classmethod
    def FromString(cls, data: bytes, /) -> RpcMessage:
        """The message in these bytes."""


@dataclass(frozen=True, slots=True)
class RpcMethod:
    """One remote call.

    ``handler`` takes and returns messages and runs with the caller's namespace and lease in `orlop.context`:

    ========================  ========================================================================
    unary                     ``async def (request) -> response``
    server streaming          ``def (request) -> AsyncIterator[response]`` (an async generator)
    client streaming          ``async def (requests: AsyncIterator) -> response``
    both                      ``def (requests: AsyncIterator) -> AsyncIterator[response]``
    ========================  ========================================================================

    A handler raises the errors of `orlop.errors`; the transport turns them into its status codes.
    """

    handler: Callable[..., Any]
    """See above."""
    request: type[Any]
    """Message class of a request."""
    response: type[Any]
    """Message class of a response."""
    client_streaming: bool = False
    """Whether there are several requests."""
    server_streaming: bool = False
    """Whether there are several responses."""


@runtime_checkable
class RpcService(Protocol):
    """One or more protobuf services, as a table.

    **Concurrency**: handlers run concurrently on the event loop and may be cancelled at any ``await`` when the client
    goes away.
    """

    def methods(self) -> Mapping[str, RpcMethod]:
        """Full path (``/containerd.services.version.v1.Version/Version``) to method. Called once, at mounting."""


@runtime_checkable
class Server(Protocol):
    """Listens somewhere and mounts what others export.

    **Lifecycle**: the factory checks configuration only. `start` is called when every plugin had its turn, and
    returns once the socket listens; the daemon reports itself ready after all servers did. `close` stops listening and
    gives calls in progress a moment to end; it may be called twice.
    """

    @property
    def address(self) -> str:
        """Where it listens: ``unix:///path`` or ``tcp://host:port``; empty before `start`."""

    async def start(self) -> None:
        """Listen. Raises `orlop.errors.Unavailable` naming the address when that fails."""

    async def close(self) -> None:
        """Stop listening and close all connections."""


GRPC_SERVICE: Final = PluginType("io.containerd.grpc.v1", RpcService, group="orlop.grpc.v1", many=True)
"""Services for clients of the daemon's gRPC socket."""
TTRPC_SERVICE: Final = PluginType("io.containerd.ttrpc.v1", RpcService, group="orlop.ttrpc.v1", many=True)
"""Services for shims, on the ttrpc socket."""
SERVER: Final = PluginType("io.containerd.server.v1", Server, group="orlop.server.v1", many=True)
"""The listening ends."""
