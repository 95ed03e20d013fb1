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
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from orlop.config import Config
from orlop.discovery import AnyRegistration, Candidate, Catalogue, discover
from orlop.errors import ConfigError, InitError, LoadError, NotFound, PluginError
from orlop.interfaces.proxy import PROXY
from orlop.plugin import InitContext, PluginConfig, PluginType, ProxyTarget, Registration
from orlop.registry import OK, SKIPPED, WAITING, LiveMapping, Registry, View, closure
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
        self.config: Final = config
        self.registry: Final = Registry(self._context)
        self.catalogue = Catalogue()
        self._properties = dict(properties or {})
        self._only = only
        self._plugins = plugins
        self._leave_out = leave_out
        self._selected = False

    async def start(self) -> None:
        """Bring everything up.

        Raises `ConfigError` with all faults of the config before anything is initialised, and `InitError` when a
        plugin that the config requires is not ok; what did come up is closed again then.
        """
        if not self._selected:
            self.select()
        await self.registry.initialise()
        try:
            self._check_required()
            await self.registry.start()
            self._check_required()
        except PluginError:
            await self.close()
            raise

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
                self.registry.disable(candidate.uri, str(where))
        for fault in self.catalogue.faults:
            _log.error("%s", fault)
        self._load()
        self._configure()
        self.config.raise_faults()
        self._selected = True

    async def close(self) -> None:
        """Close all plugins in reverse order. May be called twice."""
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
        for uri, target in settings.plugin_modules.items():
            where = str(self.config.origin("plugin_modules", uri))
            try:
                if lock is not None:
                    raise LoadError(
                        'may not be used with plugin_trust = "locked"; name it by an entry point', plugin=uri
                    )
                catalogue.choose(uri, target, where)
            except LoadError as error:
                self.config.findings.faults.append(f"{where}: plugin_modules: {error}")
        for registration in self._plugins:
            catalogue.register(registration, "the embedding program")
        for name, proxy in settings.proxy_plugins.items():
            remote = ProxyTarget(proxy.address, proxy.model_dump())
            self._derive(catalogue, ("proxy_plugins", name), proxy.type, remote)
        for name, processor in settings.stream_processors.items():
            program = ProxyTarget(processor.path, processor.model_dump())
            self._derive(catalogue, ("stream_processors", name), _STREAM_KIND, program)
        return catalogue

    def _lock(self) -> Lock | None:
        """The lock that the config asks for. Raises `ConfigError` when it cannot be used: nothing is trusted then."""
        # Read as it was written: the settings are defaults when some other key is wrong.
        trust, name = (str(self.config.document.get((key,), "")) for key in ("plugin_trust", "plugin_lock"))
        if trust in ("", "open"):
            return None
        where = self.config.origin("plugin_lock" if name else "plugin_trust")
        try:
            return Lock(Path(where.file).parent / name)
        except LoadError as error:
            self.config.findings.faults.append(f"{where}: {error}")
            raise ConfigError(self.config.findings.faults) from error

    def _derive(self, catalogue: Catalogue, key: tuple[str, str], kind: str, target: ProxyTarget) -> None:
        """Add the plugin that a table of the config describes, made by a proxy kind."""
        where = self.config.origin(*key)
        kinds = {id: uri for uri, id in _ids(catalogue, PROXY.name)}
        try:
            loaded = {id: catalogue.candidates[uri].load() for id, uri in kinds.items()}
        except LoadError as error:
            self.config.findings.faults.append(f"{where}: {'.'.join(key)}: {error}")
            return
        chosen = next((id for id, item in loaded.items() if kind in (id, item.exports.get("target"))), None)
        if chosen is None or loaded[chosen].exports.get("target") not in catalogue.types:
            valid = ", ".join(sorted(kinds)) or "none are installed"
            self.config.findings.faults.append(f'{where}: {".".join(key)}: unknown kind "{kind}"; valid: {valid}')
            return
        type = catalogue.types[loaded[chosen].exports["target"]]
        registration = _proxied(type, key[1], chosen, target)
        catalogue.add(Candidate(type.name, key[1], str(where), lambda: registration))

    def _load(self) -> None:
        wanted = None if self._only is None else closure(self._only, self.registry)
        for uri in list(self.registry.entries):
            if wanted is not None and uri not in wanted:
                del self.registry.entries[uri]
        mine = f"{host.system().lower()}/{_ARCHITECTURES.get(host.machine(), host.machine())}"
        for entry in self.registry.entries.values():
            if entry.state == WAITING and entry.registration is None:
                self.registry.load(entry.uri)
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

    def _check_required(self) -> None:
        lines = []
        for uri in self.config.settings.required_plugins:
            entry = self.registry.entries.get(uri)
            if entry is None:
                lines.append(f"{self.config.origin('required_plugins')}: {uri} is required, but not installed")
            elif entry.state != OK:
                lines.append(
                    f"{self.config.origin('required_plugins')}: {uri} is required, but {entry.state}: {entry.reason}"
                )
        if lines:
            raise InitError("\n".join(lines))

    def _context(self, registration: AnyRegistration, config: PluginConfig, view: View) -> InitContext[Any]:
        settings = self.config.settings
        return InitContext(
            registration,
            config,
            root=Path(settings.root),
            state=Path(settings.state),
            resolver=view,
            properties=self._properties,
            timeouts=self.config.timeouts,
        )


_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def _ids(catalogue: Catalogue, type: str) -> list[tuple[str, str]]:
    return [(uri, candidate.id) for uri, candidate in catalogue.candidates.items() if candidate.type == type]


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
