# SPDX-License-Identifier: Apache-2.0
"""What a plugin is: a type, a registration, a config model, and a context to be initialised in.

All of it is data. Importing a module that registers a plugin has no effect; nothing happens until the registry calls
the factory. A whole plugin::

    class Config(PluginConfig):
        root_path: ConfigPath = None
        '''Where snapshots are kept; the plugin's own root when unset.'''

    @snapshotter("demo", config=Config, capabilities=("rebase",))
    async def demo(ctx: InitContext[Config]) -> Snapshotter:
        return DemoSnapshotter(ctx.config.root_path or ctx.root)

and in its ``pyproject.toml``::

    [project.entry-points."orlop.snapshotter.v1"]
    demo = "orlop_demo:demo"

The entry point's group says the type and its name is the plugin's id, so that a disabled plugin is known, and
reported, without importing it.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

T = TypeVar("T")
C = TypeVar("C", bound="PluginConfig")


class PluginConfig(BaseModel):
    """Base of a plugin's config model: its ``[plugins."<uri>"]`` table, typed.

    Models are frozen and closed; the docstring below a field is its documentation everywhere. Spell keys as
    containerd does; a key that is no Python identifier gets an alias.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_by_alias=True, validate_by_name=True
    )


def _unset(value: object) -> object:
    return None if value == "" else value


def _absolute(path: Path | None) -> Path | None:
    if path is not None and not path.is_absolute():
        raise ValueError(f'"{path}" is no absolute path; write one, such as "/var/lib/{path.name or "orlop"}"')
    return path


ConfigPath = Annotated[Path | None, BeforeValidator(_unset), AfterValidator(_absolute)]
"""A field that holds an absolute path. None when unset; containerd's files say ``""`` for that."""


class NoConfig(PluginConfig):
    """The model of a plugin without settings."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a plugin needs: any plugin of a type, or exactly one by id. An *optional* one only orders the two."""

    type: str
    id: str = ""
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.type}.{self.id}" if self.id else self.type


@dataclass(frozen=True)
class PluginType(Generic[T]):
    """A kind of plugin and the interface its instances implement.

    Third parties declare types of their own the same way, under the entry-point group ``orlop.plugin_type.v1``.
    """

    name: str
    """For example ``io.containerd.snapshotter.v1``; the plugin's URI is ``<name>.<id>``."""
    interface: type[T]
    """A runtime-checkable protocol."""
    group: str
    """Entry-point group of its plugins, for example ``orlop.snapshotter.v1``."""
    many: bool = False
    """Whether more than one plugin of this type may be active."""

    def plugin(
        self,
        id: str,
        *,
        config: type[C] = NoConfig,  # type: ignore[assignment]  # the default binds C to NoConfig
        requires: Sequence[PluginType[Any] | Requirement] = (),
        platforms: Sequence[str] = (),
        capabilities: Sequence[str] = (),
        exports: Mapping[str, str] | None = None,
    ) -> Callable[[Callable[[InitContext[C]], Awaitable[T]]], Registration[C, T]]:
        """Decorate a factory, which gives its `Registration`.

        *platforms* (``linux/amd64``) limit where it runs, none means everywhere; *capabilities* and *exports* are
        shown to clients.
        """

        def register(factory: Callable[[InitContext[C]], Awaitable[T]]) -> Registration[C, T]:
            return Registration(
                type=self,
                id=id,
                config=config,
                requires=tuple(need.any() if isinstance(need, PluginType) else need for need in requires),
                factory=factory,
                platforms=tuple(platforms),
                capabilities=tuple(capabilities),
                exports=dict(exports or {}),
            )

        return register

    def any(self) -> Requirement:
        """Requires at least one working plugin of this type."""
        return Requirement(self.name)

    def exact(self, id: str, *, optional: bool = False) -> Requirement:
        """Requires the plugin of this type with that id."""
        return Requirement(self.name, id, optional)

    def optional(self) -> Requirement:
        """Initialised after all plugins of this type, however many work."""
        return Requirement(self.name, optional=True)


@dataclass(frozen=True)
class Registration(Generic[C, T]):
    """One plugin, declared. See `PluginType.plugin`."""

    type: PluginType[T]
    id: str
    factory: Callable[[InitContext[C]], Awaitable[T]]
    config: builtins.type[C]
    requires: tuple[Requirement, ...] = ()
    platforms: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """``<type>.<id>``: the name of the plugin in config, logs and clients."""
        return f"{self.type.name}.{self.id}"


@dataclass(frozen=True, slots=True)
class ProxyTarget:
    """One table of ``[proxy_plugins]`` or ``[stream_processors]``, as its proxy kind gets it."""

    address: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """What the registry knows of one plugin."""

    type: str
    id: str
    state: str
    """``disabled``, ``skipped``, ``failed``, ``ok``, or ``waiting`` before its turn."""
    reason: str = ""
    """Why it is not ok, with the remedy."""
    cause: str = ""
    """URI of the plugin at the root of the chain when the reason lies elsewhere."""
    origin: str = ""
    """Who declared it: ``dist 1.0 (entry point name = module:attr)`` or ``file:line``."""
    requires: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    exports: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """Time its factory took."""

    @property
    def uri(self) -> str:
        """The plugin's name everywhere: ``<type>.<id>``."""
        return f"{self.type}.{self.id}"


@dataclass(frozen=True, slots=True)
class Change:
    """What a change of the running plugins did, or, as a plan, would do. Plugins are named by URI, in order."""

    started: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    kept: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Plugins that the config changes but that stay as they are, each with what uses it."""
    settings: tuple[str, ...] = ()
    """Keys of the config's top level that have changed and count after a restart of the daemon only."""
    warnings: tuple[str, ...] = ()


@runtime_checkable
class Plugins(Protocol):
    """The running plugins: what is there, how it is, and verbs to change it.

    **Changes** happen one at a time, in the order of the calls, and each runs to its end even if its caller is
    cancelled. What is not concerned goes on meanwhile. A plugin *needs* another if it took its instance with
    `InitContext.get`, or requires what nothing else offers; one that follows it through `InitContext.all` does not
    notice. Plugins that could not run for want of another come up with it.

    **Refusals**: a plugin that others need is not stopped unless *cascade* says to stop those first (they are started
    again where they can), and one that data or running tasks depend on (hook ``orlop_plugin_users``) or that the config
    requires is not stopped unless *force* says so, which implies *cascade*. The error is `PluginInUse`, and names them.
    Every refusal, and every fault of a config (`ConfigError`), comes before anything is changed.

    Not to be awaited in a factory, in ``start()`` or in ``close()``, which are parts of changes themselves.
    """

    def statuses(self) -> list[PluginStatus]:
        """All plugins, in the order of their initialisation."""

    def instance(self, uri: str) -> object | None:
        """The live instance, or None unless the plugin is ok."""

    def warnings(self) -> list[str]:
        """What the config's reader warned about, with file and line."""

    async def enable(self, uri: str) -> Change:
        """Bring up a plugin that is disabled, or try again one that failed or was skipped.

        Raises `InitError` with the reason when it does not come up.
        """

    async def disable(self, uri: str, *, by: str, cascade: bool = False, force: bool = False) -> Change:
        """Stop a plugin and keep it off until it is enabled, or the daemon restarts. *by* says who does, in reasons."""

    async def reload(
        self, uri: str, config: Mapping[str, Any] | None = None, *, cascade: bool = False, force: bool = False
    ) -> Change:
        """Start a plugin anew with that table as its config, or with what the config files say now.

        Raises `InitError` when it does not come up with it; it runs with the old config again then.
        """

    async def add(self, plugin: Registration[Any, Any], config: Mapping[str, Any] | None = None) -> Change:
        """Bring up a plugin of this process. One that does not come up (`InitError`) is not added."""

    async def add_module(self, uri: str, target: str, config: Mapping[str, Any] | None = None) -> Change:
        """As `add`, from ``module:attribute``, as under ``[plugin_modules]``."""

    async def add_proxy(self, name: str, table: Mapping[str, Any]) -> Change:
        """As `add`, from what would be the table ``[proxy_plugins.<name>]``."""

    async def remove(self, uri: str, *, cascade: bool = False, force: bool = False) -> Change:
        """Stop a plugin and forget it. Raises `FailedPrecondition` for one that an installed distribution declares."""

    async def reload_config(self, *, dry_run: bool = False, force: bool = False) -> Change:
        """Read the config files again and make the running plugins follow what has changed in them.

        Changes that were made live stay where the files do not say something new. A plugin that cannot be stopped for
        its users' sake is kept as it is; other plugins that need a changed one are restarted. A *dry_run* returns the
        plan.
        """


class InitContext(Generic[C]):
    """What a factory gets: its config, its directories, and the plugins it required.

    ``properties`` are facts of the program that embeds the kernel (the daemon gives ``version``, ``revision``,
    ``grpc.address``, ``ttrpc.address`` and ``config.path``, which is empty when there is no config file).
    """

    def __init__(
        self,
        registration: Registration[C, Any],
        config: C,
        *,
        root: Path,
        state: Path,
        resolver: Resolver,
        properties: Mapping[str, str],
        timeouts: Mapping[str, float],
    ) -> None:
        self.uri: Final = registration.uri
        self.id: Final = registration.id
        self.config: Final = config
        self.properties: Final = properties
        self.log: Final = logging.getLogger(f"orlop.{registration.uri}")
        self.exports: Final[dict[str, str]] = dict(registration.exports)
        self.plugins: Final = resolver.plugins
        """All plugins, to look at and to change."""
        self.hooks: Final[Any] = resolver.hooks
        """Caller of the hooks in `orlop.hooks`: ``ctx.hooks.orlop_adjust_spec(...)``."""
        self.daemon_root: Final = root
        """The root that all plugins share; only for layouts that other programs rely on."""
        self.daemon_state: Final = state
        """The state directory that all plugins share; only for layouts that other programs rely on."""
        self._resolver = resolver
        self._timeouts = timeouts

    @property
    def root(self) -> Path:
        """The plugin's own directory for what must last (``<root>/<uri>``), made on first use, mode 0700."""
        return _directory(self.daemon_root / self.uri)

    @property
    def state(self) -> Path:
        """The plugin's own directory for what a reboot may take (``<state>/<uri>``), made on first use, mode 0711."""
        return _directory(self.daemon_state / self.uri, 0o711)

    def get(self, type: PluginType[T], id: str = "") -> T:
        """The one working plugin of *type*, or the one with that id. Must have been required.

        Raises `orlop.errors.RequirementError` with the root cause when it is not there.
        """
        return self._resolver.get(type, id)

    def all(self, type: PluginType[T]) -> Mapping[str, T]:
        """All working plugins of *type* by id. A live view: it follows plugins that come and go."""
        return self._resolver.all(type)

    def timeout(self, name: str, default: float) -> float:
        """Seconds from the config's ``[timeouts]`` table (``io.containerd.timeout.shim.load``); 0 means none."""
        return self._timeouts.get(name, default)

    def export(self, key: str, value: str) -> None:
        """Tell clients a fact that is known at initialisation only (a snapshotter's ``root``)."""
        self.exports[key] = value


class Resolver(Protocol):
    """How an `InitContext` reaches the registry."""

    @property
    def plugins(self) -> Plugins:
        """All plugins."""

    @property
    def hooks(self) -> Any:
        """Caller of all hooks."""

    def get(self, type: PluginType[T], id: str) -> T:
        """See `InitContext.get`."""

    def all(self, type: PluginType[T]) -> Mapping[str, T]:
        """See `InitContext.all`."""


def _directory(path: Path, mode: int = 0o700) -> Path:
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    return path


TYPE_GROUP: Final = "orlop.plugin_type.v1"
"""Entry-point group in which distributions declare plugin types."""
