# SPDX-License-Identifier: Apache-2.0
"""How a client reaches a daemon: an address, and a channel that names the namespace with every call.

::

    channel = open_channel("/run/containerd/containerd.sock")
    stub = Stub(NamespacedChannel(channel, "default"), "containerd.services.images.v1.Images")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakKeyDictionary

import grpc.aio

from orlop import context
from orlop.blocking import run_blocking
from orlop.interfaces.rpc import GRPC_SERVICE, TTRPC_SERVICE, RpcMethod, RpcService
from orlop_sdk.rpc.channel import Channel, Metadata
from orlop_sdk.rpc.grpc_server import message_limits
from orlop_sdk.rpc.local import LocalChannel
from orlop_sdk.ttrpc.server import Server

if TYPE_CHECKING:
    from orlop.config import Config
    from orlop.kernel import Kernel

DEFAULT_ADDRESS: Final = "/run/containerd/containerd.sock"
DEFAULT_NAMESPACE: Final = "default"
#: Plugins that an embedded kernel has no use for: subcommands, what listens on sockets, and what watches that.
_COMMAND_TYPE: Final = "io.orlop.command.v1"
_SERVER_TYPE: Final = "io.containerd.server.v1"
_METRICS_TYPE: Final = "io.containerd.metrics.v1"


def default_address() -> str:
    """``CONTAINERD_ADDRESS``, or where containerd listens."""
    return os.environ.get("CONTAINERD_ADDRESS") or DEFAULT_ADDRESS


def default_namespace() -> str:
    """``CONTAINERD_NAMESPACE``, or ``default``."""
    return os.environ.get("CONTAINERD_NAMESPACE") or DEFAULT_NAMESPACE


def target(address: str) -> str:
    """The name grpc has for an address: a bare path and ``unix://`` are sockets, anything else passes as it is."""
    if address.startswith("unix://"):
        address = address.removeprefix("unix://")
    return f"unix:{os.path.abspath(address)}" if address.startswith(("/", "./", "../")) else address


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to an address. It connects with the first call; must be made on the loop that uses it."""
    options: list[tuple[str, Any]] = [
        *message_limits(),
        # Daemons come back within moments of a restart; grpc's own back-off would keep a client away for minutes.
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        # Channels to one address share their connections otherwise, so that closing a client would not hang up.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.aio.insecure_channel(target(address), options=options)


class NamespacedChannel:
    """A channel whose calls are made in one namespace, whatever the namespace of `orlop.context` is."""

    def __init__(self, channel: Channel | grpc.aio.Channel, namespace: str) -> None:
        self._channel = channel
        self._namespace = namespace

    def unary_unary(self, method: str, *codecs: Any) -> Callable[..., Any]:
        return self._wrap(self._channel.unary_unary(method, *codecs))

    def unary_stream(self, method: str, *codecs: Any) -> Callable[..., Any]:
        return self._wrap(self._channel.unary_stream(method, *codecs))

    def stream_unary(self, method: str, *codecs: Any) -> Callable[..., Any]:
        return self._wrap(self._channel.stream_unary(method, *codecs))

    def stream_stream(self, method: str, *codecs: Any) -> Callable[..., Any]:
        return self._wrap(self._channel.stream_stream(method, *codecs))

    def _wrap(self, start: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: Any, *, timeout: float | None = None, metadata: Metadata | None = None) -> Any:
            others = [pair for pair in metadata or () if pair[0] != context.NAMESPACE_HEADER]
            return start(request, timeout=timeout, metadata=[*others, (context.NAMESPACE_HEADER, self._namespace)])

        return call


class Connection(Protocol):
    """A way to a daemon that is made when it is needed, on the loop that needs it."""

    async def open(self) -> Channel | grpc.aio.Channel:
        """The channel; the same one until `close`."""
        ...

    async def close(self) -> None:
        """Give the channel up. May be called twice."""
        ...


class GrpcConnection:
    """To a daemon's socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel: grpc.aio.Channel | None = None

    async def open(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._channel = open_channel(self.address)
        return self._channel

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()


class EmbeddedConnection:
    """To a kernel in this process, with all its plugins: the client is its daemon.

    Nothing listens but a socket below the state directory, for shims to report on.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._kernel: Kernel | None = None
        self._events: Server | None = None

    async def open(self) -> LocalChannel:
        from orlop.kernel import Kernel

        if self._kernel is None:
            self._config.raise_faults()
            state = Path(self._config.settings.state)
            await run_blocking(state.mkdir, mode=0o711, parents=True, exist_ok=True)
            address = f"{state}/embedded.ttrpc"
            kernel = Kernel(
                self._config,
                properties={"ttrpc.address": address},
                leave_out=(_COMMAND_TYPE, _SERVER_TYPE, _METRICS_TYPE),
            )
            await kernel.start()
            self._kernel = kernel
            self._events = Server(ServedMethods(kernel.all(TTRPC_SERVICE)), same_user=True)
            try:
                await self._events.listen(address, mode=0o600)
            except BaseException:
                await self.close()
                raise
        return LocalChannel(ServedMethods(self._kernel.all(GRPC_SERVICE)))

    async def close(self) -> None:
        kernel, self._kernel = self._kernel, None
        events, self._events = self._events, None
        if events is not None:
            await events.close()
        if kernel is not None:
            await kernel.close()


class ServedMethods(Mapping[str, RpcMethod]):
    """The methods of all services in a live mapping: services come and go with their plugins."""

    def __init__(self, services: Mapping[str, RpcService]) -> None:
        self._services = services
        self._tables: WeakKeyDictionary[RpcService, Mapping[str, RpcMethod]] = WeakKeyDictionary()

    def __getitem__(self, path: str) -> RpcMethod:
        for service in self._services.values():
            method = self._table(service).get(path)
            if method is not None:
                return method
        raise KeyError(path)

    def _table(self, service: RpcService) -> Mapping[str, RpcMethod]:
        if service not in self._tables:
            self._tables[service] = service.methods()
        return self._tables[service]

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._table(service) for service in self._services.values())

    def __len__(self) -> int:
        return sum(len(self._table(service)) for service in self._services.values())


_: type[Channel] = NamespacedChannel
_grpc: type[Connection] = GrpcConnection
_embedded: type[Connection] = EmbeddedConnection
