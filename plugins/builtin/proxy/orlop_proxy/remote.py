# SPDX-License-Identifier: Apache-2.0
"""Parts in other processes, each with a connection of its own that ends with it.

A connection is made with the first call, and again whenever it was lost; calls raise `orlop.errors.Unavailable` in the
meantime. Namespace and lease of the caller travel along.
"""

from __future__ import annotations

from typing import Final

from orlop.interfaces.content import ContentStore
from orlop.interfaces.differ import Differ
from orlop.interfaces.sandbox import SandboxController
from orlop.interfaces.snapshotter import Cleaner, Snapshotter
from orlop_sdk.client.connection import open_channel
from orlop_sdk.client.content import RemoteContentStore
from orlop_sdk.client.sandboxes import RemoteSandboxController
from orlop_sdk.client.snapshots import RemoteDiffer, RemoteSnapshotter


class ProxySnapshotter(RemoteSnapshotter):
    """The snapshotter at an address. It is told the plugin's *name*, which most ignore."""

    def __init__(self, address: str, name: str) -> None:
        self._channel = open_channel(address)
        super().__init__(self._channel, name)

    async def close(self) -> None:
        await self._channel.close()


#: Clients commit by the digest that they are told after each write, so every write waits for its answer.
WINDOW: Final = 1


class ProxyContentStore(RemoteContentStore):
    """The content store at an address."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        super().__init__(self._channel, WINDOW)

    async def close(self) -> None:
        await self._channel.close()


class ProxyDiffer(RemoteDiffer):
    """The differ at an address."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        super().__init__(self._channel)

    async def close(self) -> None:
        """Close the connection. May be called twice."""
        await self._channel.close()


class ProxySandboxController(RemoteSandboxController):
    """The sandbox controller at an address. It is told the plugin's *name*, which most ignore."""

    def __init__(self, address: str, name: str) -> None:
        self._channel = open_channel(address)
        super().__init__(self._channel, name)

    async def close(self) -> None:
        """Close the connection. May be called twice."""
        await self._channel.close()


_snapshotter: type[Snapshotter] = ProxySnapshotter
_cleaner: type[Cleaner] = ProxySnapshotter
_content: type[ContentStore] = ProxyContentStore
_differ: type[Differ] = ProxyDiffer
_sandbox: type[SandboxController] = ProxySandboxController
