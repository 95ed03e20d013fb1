# SPDX-License-Identifier: Apache-2.0
"""A kernel: one config, one catalogue, one registry, from start to close.

The daemon is a small program around this class. Any other program can embed it the same way and use the parts in its
own process, without a socket::

    async with Kernel(from_data({"root": "/tmp/r", "state": "/tmp/s"})) as kernel:
        store = kernel.get(CONTENT, "content")
"""

from __future__ import annotations

import logging
import platform as host
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from orlop.config import Config
from orlop.config.settings import ProxyPlugin, StreamProcessor
from orlop.discovery import AnyRegistration, Candidate, Catalogue, discover
from orlop.errors import ConfigError, InitError, LoadError, NotFound, PluginError
from orlop.interfaces.isolation import ISOLATION
from orlop.interfaces.proxy import PROXY
from orlop.live import Live
from orlop.plugin import InitContext, PluginConfig, PluginType, ProxyTarget, Registration
from orlop.registry import OK, SKIPPED, WAITING, Entry, Facts, LiveMapping, Registry, View, closure
from orlop.trust import Lock

T = TypeVar("T")

#: The proxy kind that serves all of ``[stream_processors]``.
_STREAM_KIND: Final = "stream_processor"

_log = logging.getLogger("orlop.kernel")


class Kernel:
    """Everything between a config and working plugins.

    *properties* are facts for all plugins (`InitContext.properties`). *only* limits what is brought up to these URIs
    and what they require. *plugins* are registrations of the embedding program, beside those that are installed.
    *leave_out* are types that are never brought up (the daemon leaves out the command line's).
    """

    def __init__(
        self,
        config: Config,
        *,
        properties: Mapping[str, str] | None = None,
        only: Collection[str] | None = None,
        plugins: Sequence[AnyRegistration] = (),
        leave_out: Collection[str] = ("io.orlop.command.v1",),
    ) -> None:
        self.config = config
        self.registry: Final = Registry(self._context)
        self.plugins: Final = Live(self)
        self.registry.plugins = self.plugins
        self.catalogue = Catalogue()
        self.selected: dict[str, Facts | None] = {}
        self._again: Final[Callable[[Config], Kernel]] = lambda config: Kernel(
            config, properties=properties, only=only, plugins=plugins, leave_out=leave_out
        )
        self._properties = dict(properties or {})
        self._only = only
        self._plugins = plugins
        self._leave_out = leave_out
        # Where plugins keep things does not change while they run.
        self._root, self._state = Path(config.settings.root), Path(config.settings.state)

    async def start(self) -> None:
        """Bring everything up.

        Raises `ConfigError` with all faults of the config before anything is initialised, and `InitError` when a
        plugin that the config requires is not ok; what did come up is closed again then.
        """
        if not self.selected:
            self.select()
        async with self.plugins.lock:
            await self.registry.initialise()
            try:
                self._check_required()
                await self.registry.start()
                self._check_required()
            except PluginError:
                await self.registry.close()
                raise
            self.plugins.open = True

    def select(self) -> None:
        """Discover, choose and load plugins and validate their config, without initialising any.

        For who wants the faults of a config before anything happens; `start` does it otherwise. Raises `ConfigError`.
        """
        self.catalogue = self._discover()
        for candidate in self.catalogue.candidates.values():
            if candidate.type in self._leave_out:
                continue
            self.registry.add(candidate)
            if (where := self.config.disabled(candidate.uri)) is not None:
                self.registry.disable(candidate.uri, f"in {where}")
        for fault in self.catalogue.faults:
            _log.error("%s", fault)
        self._load()
        self._configure()
        self.config.raise_faults()
        self.selected = {uri: entry.facts for uri, entry in self.registry.entries.items()}

    def reread(self) -> Kernel:
        """A kernel like this one with the config that the files hold now: selected, and not for starting.

        Blocks. Raises `ConfigError`, also when a plugin that the config requires would not run.
        """
        fresh = self._again(self.config.reread())
        fresh.select()
        if lines := fresh.unmet(WAITING):
            raise ConfigError(lines)
        return fresh

    def follow(self, files: Kernel) -> None:
        """Take over the config of such a kernel."""
        files.catalogue.types.update(self.catalogue.types)
        self.config, self.catalogue, self.selected = files.config, files.catalogue, files.selected
        self.registry.config_warnings[:] = files.config.findings.warnings

    async def close(self) -> None:
        """Close all plugins in reverse order. May be called twice."""
        async with self.plugins.lock:
            self.plugins.open = False
            await self.registry.close()

    def get(self, type: PluginType[T], id: str = "") -> T:
        """The working plugin of *type* with that id, or the only one. Raises `NotFound` with the reason."""
        found = LiveMapping[T](self.registry, type.name)
        if id in found:
            return found[id]
        if not id and len(found) == 1:
            return next(iter(found.values()))
        uri = f"{type.name}.{id}".rstrip(".")
        states = [status for status in self.registry.statuses() if status.uri.startswith(uri) and status.state != OK]
        reason = "; ".join(f"{status.uri} is {status.state}: {status.reason}" for status in states)
        raise NotFound(f'plugin "{uri}": {reason or "not installed, or there are several"}')

    def all(self, type: PluginType[T]) -> Mapping[str, T]:
        """All working plugins of *type* by id: a live view."""
        return LiveMapping[T](self.registry, type.name)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # ---- choosing ---------------------------------------------------------------------------------------------------

    def _discover(self) -> Catalogue:
        settings = self.config.settings
        lock = self._lock()
        catalogue = discover(settings.plugin_dirs, lock)
        for registration in self._plugins:
            catalogue.register(registration, "the embedding program")
        makers: dict[str, tuple[Callable[..., Candidate], Mapping[str, Any]]] = {
            "plugin_modules": (self.chosen, settings.plugin_modules),
            "proxy_plugins": (self.derived, settings.proxy_plugins),
            "stream_processors": (self.derived, settings.stream_processors),
            "plugins": (self._isolated, {k: t["isolated"] for k, t in settings.plugins.items() if t.get("isolated")}),
        }
        for key, (make, tables) in makers.items():
            for name, table in tables.items():
                where = str(self.config.origin(key, name))
                try:
                    candidate = make(name, table, where, catalogue)
                    # A plugin is exchanged when named by its URI, or by the id of a stream processor as containerd's.
                    if key != "proxy_plugins":
                        catalogue.candidates.pop(candidate.uri, None)
                    catalogue.add(candidate)
                except LoadError as error:
                    self.config.findings.faults.append(f"{where}: {key}.{name}: {error.args[0]}")
        return catalogue

    def chosen(self, uri: str, target: str, where: str, catalogue: Catalogue | None = None) -> Candidate:
        """The plugin *uri* from ``module:attribute``. Raises `LoadError`."""
        if self.config.settings.plugin_trust == "locked":
            raise LoadError('may not be used with plugin_trust = "locked"; name it by an entry point', plugin=uri)
        return (catalogue or self.catalogue).chosen(uri, target, where)

    def _lock(self) -> Lock | None:
        """The lock that the config asks for. Raises `ConfigError` when it cannot be used: nothing is trusted then."""
        # Read as it was written: the settings are defaults when some other key is wrong.
        trust, name = (str(self.config.document.get((key,), "")) for key in ("plugin_trust", "plugin_lock"))
        if trust in ("", "open"):
            return None
        where = self.config.origin("plugin_lock" if name else "plugin_trust")
        try:
            return Lock(Path(name))
        except LoadError as error:
            raise ConfigError([*self.config.findings.faults, f"{where}: {error}"]) from error

    def derived(
        self, name: str, table: ProxyPlugin | StreamProcessor, where: str, catalogue: Catalogue | None = None
    ) -> Candidate:
        """The plugin that a proxy kind makes of a table. Raises `LoadError`."""
        catalogue = catalogue or self.catalogue
        kind, address = (table.type, table.address) if isinstance(table, ProxyPlugin) else (_STREAM_KIND, table.path)
        kinds = {item.id: item.load() for item in catalogue.candidates.values() if item.type == PROXY.name}
        chosen = next((id for id, item in kinds.items() if kind in (id, item.exports.get("target"))), None)
        if chosen is None or kinds[chosen].exports.get("target") not in catalogue.types:
            valid = ", ".join(sorted(kinds)) or "none are installed"
            raise LoadError(f'unknown kind "{kind}"; valid: {valid}')
        target = ProxyTarget(address, table.model_dump())
        type = catalogue.types[kinds[chosen].exports["target"]]
        registration = _proxied(type, name, chosen, target)
        return Candidate(type.name, name, where, lambda: registration, target)

    def _isolated(self, uri: str, how: object, where: str, catalogue: Catalogue) -> Candidate:
        """The plugin *uri*, made by the isolator that ``isolated`` in its table names. Raises `LoadError`."""
        id = "process" if how is True else str(how)
        inner, offer = (catalogue.candidates.get(each) for each in (uri, f"{ISOLATION.name}.{id}"))
        if inner is None or offer is None or inner.type not in offer.load().exports.get("types", "").split(","):
            raise LoadError(f'isolated: there is no isolator "{id}" for it; drop the key, or install one')

        def load() -> AnyRegistration:
            plugin = inner.load()

            async def make(ctx: InitContext[Any]) -> Any:
                return await ctx.get(ISOLATION, id).isolate(plugin, ctx, self.config.document.data)

            return replace(plugin, factory=make, requires=(*plugin.requires, ISOLATION.exact(id)))

        return Candidate(inner.type, inner.id, inner.origin, load, (inner.target, id))

    def _load(self) -> None:
        wanted = None if self._only is None else closure(self._only, self.registry)
        for uri in list(self.registry.entries):
            if wanted is not None and uri not in wanted:
                del self.registry.entries[uri]
        for entry in self.registry.entries.values():
            if entry.state == WAITING and entry.registration is None:
                self.registry.load(entry.uri)
            self.skip_foreign(entry)

    def skip_foreign(self, entry: Entry) -> None:
        """Mark a waiting plugin that is not for this host."""
        mine = f"{host.system().lower()}/{_ARCHITECTURES.get(host.machine(), host.machine())}"
        platforms = entry.registration.platforms if entry.registration else ()
        if entry.state == WAITING and platforms and mine not in platforms:
            entry.state, entry.cause = SKIPPED, entry.uri
            entry.reason = f"skip plugin: runs on {', '.join(platforms)}, this host is {mine}"

    def _configure(self) -> None:
        registrations = {uri: entry.registration for uri, entry in self.registry.entries.items() if entry.registration}
        typed = self.config.validate(registrations.values(), self.catalogue.candidates)
        for uri, config in typed.items():
            self.registry.entries[uri].config = config
        self.registry.config_warnings[:] = self.config.findings.warnings
        for warning in self.config.findings.warnings:
            _log.warning("%s", warning)

    def unmet(self, *fine: str) -> list[str]:
        """The plugins that the config requires and that are in no state of *fine*, each with the reason."""
        where, lines = self.config.origin("required_plugins"), []
        for uri in self.config.settings.required_plugins:
            entry = self.registry.entries.get(uri)
            if entry is None or entry.state not in fine:
                how = f"{entry.state}: {entry.reason}" if entry is not None else "not installed"
                lines.append(f"{where}: {uri} is required, but {how}")
        return lines

    def _check_required(self) -> None:
        if lines := self.unmet(OK):
            raise InitError("\n".join(lines))

    def _context(self, registration: AnyRegistration, config: PluginConfig, view: View) -> InitContext[Any]:
        return InitContext(
            registration,
            config,
            root=self._root,
            state=self._state,
            resolver=view,
            properties=self._properties,
            timeouts=self.config.timeouts,
        )


_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def _proxied(type: PluginType[Any], id: str, kind: str, target: ProxyTarget) -> AnyRegistration:
    async def connect(context: InitContext[PluginConfig]) -> Any:
        proxy = context.get(PROXY, kind)
        context.export("address", target.address)
        return await proxy.connect(id, target)

    options = target.options
    return Registration(
        type=type,
        id=id,
        factory=connect,
        config=PluginConfig,
        requires=(PROXY.exact(kind),),
        platforms=tuple(filter(None, (options.get("platform", ""),))),
        capabilities=tuple(options.get("capabilities", ())),
        exports=options.get("exports", {}),
    )
