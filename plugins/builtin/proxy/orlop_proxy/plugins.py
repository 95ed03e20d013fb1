# SPDX-License-Identifier: Apache-2.0
"""The kinds of part that ``[proxy_plugins]`` may name, spelled as containerd spells them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from orlop.interfaces.content import CONTENT
from orlop.interfaces.differ import DIFFER
from orlop.interfaces.proxy import ProxyKind, proxy_kind
from orlop.interfaces.snapshotter import SNAPSHOTTER
from orlop.plugin import InitContext, NoConfig, ProxyTarget


class Connector:
    """A proxy kind made of a function that takes the plugin's name and the address."""

    def __init__(self, make: Callable[[str, str], Any]) -> None:
        self._make = make

    async def connect(self, name: str, target: ProxyTarget) -> Any:
        return self._make(name, target.address)


@proxy_kind("snapshot", exports={"target": SNAPSHOTTER.name})
async def snapshot(ctx: InitContext[NoConfig]) -> ProxyKind:
    """Snapshotters that serve ``containerd.services.snapshots.v1``."""
    from orlop_proxy.remote import ProxySnapshotter

    return Connector(lambda name, address: ProxySnapshotter(address, name))


@proxy_kind("content", exports={"target": CONTENT.name})
async def content(ctx: InitContext[NoConfig]) -> ProxyKind:
    """Content stores that serve ``containerd.services.content.v1``."""
    from orlop_proxy.remote import ProxyContentStore

    return Connector(lambda _name, address: ProxyContentStore(address))


@proxy_kind("diff", exports={"target": DIFFER.name})
async def diff(ctx: InitContext[NoConfig]) -> ProxyKind:
    """Differs that serve ``containerd.services.diff.v1``."""
    from orlop_proxy.remote import ProxyDiffer

    return Connector(lambda _name, address: ProxyDiffer(address))


_: type[ProxyKind] = Connector
