# SPDX-License-Identifier: Apache-2.0
"""The kinds of part that ``[proxy_plugins]`` may name, spelled as containerd spells them, and the isolator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orlop.interfaces.content import CONTENT, ContentStore
from orlop.interfaces.differ import DIFFER, Differ
from orlop.interfaces.isolation import Isolator, isolator
from orlop.interfaces.proxy import ProxyKind, proxy_kind
from orlop.interfaces.sandbox import SANDBOX_CONTROLLER, SandboxController
from orlop.interfaces.snapshotter import SNAPSHOTTER, Snapshotter
from orlop.interfaces.stream import STREAM_PROCESSOR
from orlop.plugin import InitContext, NoConfig, ProxyTarget, Registration


class Connector:
    """A proxy kind made of a function that takes the plugin's name and the address.

    The function imports the client: a daemon without proxies never pays for grpc.
    """

    def __init__(self, make: Callable[[str, str], Any]) -> None:
        self._make = make

    async def connect(self, name: str, target: ProxyTarget) -> Any:
        return self._make(name, target.address)


class OnDemand:
    """The isolator ``process``, loaded when the first plugin is isolated: on most hosts none ever is."""

    async def isolate(self, plugin: Registration[Any, Any], ctx: InitContext[Any], settings: Mapping[str, Any]) -> Any:
        from orlop_proxy.isolation import ProcessIsolator

        return await ProcessIsolator().isolate(plugin, ctx, settings)


@proxy_kind("snapshot", exports={"target": SNAPSHOTTER.name})
async def snapshot(ctx: InitContext[NoConfig]) -> ProxyKind:
    """Snapshotters that serve ``containerd.services.snapshots.v1``."""

    def make(name: str, address: str) -> Snapshotter:
        from orlop_proxy.remote import ProxySnapshotter

        return ProxySnapshotter(address, name)

    return Connector(make)


@proxy_kind("content", exports={"target": CONTENT.name})
async def content(ctx: InitContext[NoConfig]) -> ProxyKind:
    """Content stores that serve ``containerd.services.content.v1``."""

    def make(_name: str, address: str) -> ContentStore:
        from orlop_proxy.remote import ProxyContentStore

        return ProxyContentStore(address)

    return Connector(make)


@proxy_kind("diff", exports={"target": DIFFER.name})
async def diff(ctx: InitContext[NoConfig]) -> ProxyKind:
    """Differs that serve ``containerd.services.diff.v1``."""

    def make(_name: str, address: str) -> Differ:
        from orlop_proxy.remote import ProxyDiffer

        return ProxyDiffer(address)

    return Connector(make)


@proxy_kind("sandbox", exports={"target": SANDBOX_CONTROLLER.name})
async def sandbox(ctx: InitContext[NoConfig]) -> ProxyKind:
    """Sandbox controllers that serve ``containerd.services.sandbox.v1.Controller``."""

    def make(name: str, address: str) -> SandboxController:
        from orlop_proxy.remote import ProxySandboxController

        return ProxySandboxController(address, name)

    return Connector(make)


_ISOLABLE = (SNAPSHOTTER, CONTENT, DIFFER, STREAM_PROCESSOR)


@isolator("process", exports={"types": ",".join(type.name for type in _ISOLABLE)})
async def process(ctx: InitContext[NoConfig]) -> Isolator:
    """Plugins with ``isolated = true``: each in a process of its own."""
    return OnDemand()


_: type[ProxyKind] = Connector
_isolator: type[Isolator] = OnDemand
