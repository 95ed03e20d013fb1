# SPDX-License-Identifier: Apache-2.0
"""How a client reaches a daemon: an address, and a channel that names the namespace with every call.

::

    channel = open_channel("/run/containerd/containerd.sock")
    stub = Stub(NamespacedChannel(channel, "default"), "containerd.services.images.v1.Images")
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import grpc.aio

from orlop import context
from orlop_sdk.rpc.channel import Channel, Metadata
from orlop_sdk.rpc.grpc_server import message_limits

DEFAULT_ADDRESS: Final = "/run/containerd/containerd.sock"
DEFAULT_NAMESPACE: Final = "default"


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
    """A channel whose calls are made in a namespace, unless `orlop.context` or their metadata name another."""

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
            pairs = list(metadata or ())
            if not any(key == context.NAMESPACE_HEADER for key, _ in pairs):
                pairs.append((context.NAMESPACE_HEADER, self._namespace))
            return start(request, timeout=timeout, metadata=pairs)

        return call


_: type[Channel] = NamespacedChannel
