# SPDX-License-Identifier: Apache-2.0
"""Parts in other processes, each with a connection of its own that ends with it.

A connection is made with the first call, and again whenever it was lost; calls raise `orlop.errors.Unavailable` in the
meantime. Namespace and lease of the caller travel along.
"""

from __future__ import annotations

from typing import Final, Protocol

import grpc.aio

from orlop.interfaces.content import ContentStore
from orlop.interfaces.differ import Differ
from orlop.interfaces.sandbox import SandboxController
from orlop.interfaces.snapshotter import Cleaner, Snapshotter
from orlop_sdk.client.connection import open_channel
from orlop_sdk.client.content import RemoteContentStore
from orlop_sdk.client.sandboxes import RemoteSandboxController
from orlop_sdk.client.snapshots import RemoteDiffer, RemoteSnapshotter


class _Connected:
    """The connection of an instance, and what else ends with that."""

    _channel: grpc.aio.Channel
    _beside: Closes | None

    def _connect(self, address: str, beside: Closes | None) -> grpc.aio.Channel:
        self._channel, self._beside = open_channel(address), beside
        return self._channel

    async def close(self) -> None:
        """Close the connection. May be called twice."""
        await self._channel.close()
        if self._beside is not None:
            await self._beside.close()


class Closes(Protocol):
    """What has an end."""

    async def close(self) -> None:
        """End it. May be called twice."""


class ProxySnapshotter(_Connected, RemoteSnapshotter):
    """The snapshotter at an address. It is told the plugin's *name*, which most ignore."""

    def __init__(self, address: str, name: str, beside: Closes | None = None) -> None:
        super().__init__(self._connect(address, beside), name)


#: Clients commit by the digest that they are told after each write, so every write waits for its answer.
WINDOW: Final = 1


class ProxyContentStore(_Connected, RemoteContentStore):
    """The content store at an address."""

    def __init__(self, address: str, beside: Closes | None = None) -> None:
        super().__init__(self._connect(address, beside), WINDOW)


class ProxyDiffer(_Connected, RemoteDiffer):
    """The differ at an address."""

    def __init__(self, address: str, beside: Closes | None = None) -> None:
        super().__init__(self._connect(address, beside))


class ProxySandboxController(_Connected, RemoteSandboxController):
    """The sandbox controller at an address. It is told the plugin's *name*, which most ignore."""

    def __init__(self, address: str, name: str, beside: Closes | None = None) -> None:
        super().__init__(self._connect(address, beside), name)


_snapshotter: type[Snapshotter] = ProxySnapshotter
_cleaner: type[Cleaner] = ProxySnapshotter
_content: type[ContentStore] = ProxyContentStore
_differ: type[Differ] = ProxyDiffer
_sandbox: type[SandboxController] = ProxySandboxController
