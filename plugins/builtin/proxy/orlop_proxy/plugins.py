# SPDX-License-Identifier: Apache-2.0
"""The kinds of part that ``[proxy_plugins]`` may name, spelled as containerd spells them, and the isolator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from orlop.interfaces.content import CONTENT, ContentStore
from orlop.interfaces.differ import DIFFER, Differ
from orlop.interfaces.isolation import Isolator, isolator
from orlop.interfaces.proxy import ProxyKind, proxy_kind
from orlop.interfaces.sandbox import SANDBOX_CONTROLLER, SandboxController
from orlop.interfaces.snapshotter import SNAPSHOTTER, Snapshotter
from orlop.interfaces.stream import STREAM_PROCESSOR
from orlop.plugin import InitContext, NoConfig, PluginConfig, ProxyTarget, Registration

if TYPE_CHECKING:
    from orlop.interfaces.observer import Figure
    from orlop_proxy.contained import Contained
    from orlop_proxy.isolation import ProcessIsolator


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f'"{path}" is no absolute path')
    return path


Absolute = Annotated[Path, AfterValidator(_absolute)]


class Containers(PluginConfig):
    """What containers of plugins have in common."""

    runtime: str = ""
    """OCI runtime, by name or path; runc, or else crun, when empty."""
    network: bool = False
    """Whether they use the host's network; otherwise they have none."""
    memory: int = Field(0, ge=0)
    """Most bytes of memory for each; 0 for no limit."""
    writable: tuple[Absolute, ...] = ()
    """Further directories of the host that they may write to."""
    readonly: tuple[Absolute, ...] = ()
    """Further files and directories of the host that they may read."""
    devices: tuple[Absolute, ...] = ()
    """Character devices that they may use, such as /dev/fuse."""
    mounts: bool = False
    """Whether snapshotters make mounts in these directories that the host has to see, as those with FUSE do."""


class ContainerConfig(Containers):
    """The containers of plugins with ``isolated = "container"``. The plugin's own directories are writable anyway."""


class PluginContainer(Containers):
    """The table ``container`` of a proxy plugin. The directory of its socket is writable anyway."""

    args: tuple[str, ...] = Field(min_length=1)
    """The program and its arguments."""
    env: tuple[Annotated[str, Field(pattern="^[^=]+=")], ...] = ()
    """Environment variables, NAME=value."""
    rootfs: Absolute | None = None
    """Directory with its root file system, read-only for it; the host's programs and this Python when unset."""


Make = Callable[[str, str, "Contained | None"], Any]


class Connector:
    """A proxy kind made of a function that takes the plugin's name, the address, and what ends with the instance.

    The function imports the client: a daemon without proxies never pays for grpc.
    """

    def __init__(self, ctx: InitContext[NoConfig], make: Make) -> None:
        self._ctx = ctx
        self._make = make

    async def connect(self, name: str, target: ProxyTarget) -> Any:
        container = None
        if table := target.options.get("container"):
            from orlop_proxy.contained import contained

            container = contained(name, target.address, table, self._ctx.state, self._ctx.log)
        instance = self._make(name, target.address, container)
        if container:
            container.start()
        return instance


class OnDemand:
    """The isolator ``process``, loaded when the first plugin is isolated: on most hosts none ever is."""

    def __init__(self) -> None:
        self._isolator: ProcessIsolator | None = None

    async def isolate(self, plugin: Registration[Any, Any], ctx: InitContext[Any], settings: Mapping[str, Any]) -> Any:
        if self._isolator is None:
            self._isolator = self._load()
        return await self._isolator.isolate(plugin, ctx, settings)

    def figures(self) -> list[Figure]:
        """See `orlop.interfaces.observer.Figures`."""
        return self._isolator.figures() if self._isolator is not None else []

    def _load(self) -> ProcessIsolator:
        from orlop_proxy.isolation import ProcessIsolator

        return ProcessIsolator()


@proxy_kind("snapshot", exports={"target": SNAPSHOTTER.name})
async def snapshot(ctx: InitContext[NoConfig]) -> ProxyKind:
    """Snapshotters that serve ``containerd.services.snapshots.v1``."""

    def make(name: str, address: str, container: Contained | None) -> Snapshotter:
        from orlop_proxy.remote import ProxySnapshotter

        return ProxySnapshotter(address, name, container)

    return Connector(ctx, make)


@proxy_kind("content", exports={"target": CONTENT.name})
async def content(ctx: InitContext[NoConfig]) -> ProxyKind:
    """Content stores that serve ``containerd.services.content.v1``."""

    def make(_name: str, address: str, container: Contained | None) -> ContentStore:
        from orlop_proxy.remote import ProxyContentStore

        return ProxyContentStore(address, container)

    return Connector(ctx, make)


@proxy_kind("diff", exports={"target": DIFFER.name})
async def diff(ctx: InitContext[NoConfig]) -> ProxyKind:
    """Differs that serve ``containerd.services.diff.v1``."""

    def make(_name: str, address: str, container: Contained | None) -> Differ:
        from orlop_proxy.remote import ProxyDiffer

        return ProxyDiffer(address, container)

    return Connector(ctx, make)


@proxy_kind("sandbox", exports={"target": SANDBOX_CONTROLLER.name})
async def sandbox(ctx: InitContext[NoConfig]) -> ProxyKind:
    """Sandbox controllers that serve ``containerd.services.sandbox.v1.Controller``."""

    def make(name: str, address: str, container: Contained | None) -> SandboxController:
        from orlop_proxy.remote import ProxySandboxController

        return ProxySandboxController(address, name, container)

    return Connector(ctx, make)


_ISOLABLE = (SNAPSHOTTER, CONTENT, DIFFER, STREAM_PROCESSOR)


class OnDemandContainers(OnDemand):
    """The isolator ``container``, loaded when the first plugin is isolated."""

    def __init__(self, config: ContainerConfig) -> None:
        super().__init__()
        self._config = config

    def _load(self) -> ProcessIsolator:
        from orlop_proxy.isolation import ContainerIsolator

        return ContainerIsolator(self._config)


@isolator("process", exports={"types": ",".join(type.name for type in _ISOLABLE)})
async def process(ctx: InitContext[NoConfig]) -> Isolator:
    """Plugins with ``isolated = true``: each in a process of its own."""
    return OnDemand()


@isolator("container", config=ContainerConfig, exports={"types": ",".join(type.name for type in _ISOLABLE)})
async def container(ctx: InitContext[ContainerConfig]) -> Isolator:
    """Plugins with ``isolated = "container"``: each in a container of its own."""
    return OnDemandContainers(ctx.config)


_: type[ProxyKind] = Connector
_isolator: type[Isolator] = OnDemand
_containers: type[Isolator] = OnDemandContainers
