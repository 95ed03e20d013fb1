# SPDX-License-Identifier: Apache-2.0
"""Proxy kinds: how a part that lives in another process becomes a plugin of this one.

``[proxy_plugins.NAME]`` in the config names a ``type`` and an ``address``. The proxy kind whose id is that type (or
whose target is) connects to the address and returns an instance of the target's interface, which is then the plugin
``<target type>.NAME`` like any other.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, runtime_checkable

from orlop.plugin import PluginType, ProxyTarget


@runtime_checkable
class ProxyKind(Protocol):
    """Connects to one kind of remote part.

    The registration's export ``target`` is the plugin type whose interface `connect` returns, for example
    ``io.containerd.snapshotter.v1``; ``[proxy_plugins]`` may name that instead of the kind's id.
    """

    async def connect(self, name: str, target: ProxyTarget) -> Any:
        """An instance of the target type's interface that talks to ``target.address``.

        Does not wait for the other side to be there: calls raise `Unavailable` while it is not, and work again once
        it is back. The instance has ``async close()``.
        """


PROXY: Final = PluginType("io.orlop.proxy.v1", ProxyKind, group="orlop.proxy.v1", many=True)
proxy_kind = PROXY.plugin
"""Decorator that declares a proxy kind."""
