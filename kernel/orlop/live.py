# SPDX-License-Identifier: Apache-2.0
"""Changes which plugins run: on and off, with a new config, new ones, one change at a time.

Every change has the same course: make sure that it can be made, with nothing touched yet; stop the plugins concerned
and those that need them; exchange what the registry knows of them; bring up whatever waits. What needs a plugin that is
off then says so, and comes back with it, by the registry's ordinary rules.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec

from orlop.blocking import run_blocking
from orlop.config.check import checked
from orlop.config.settings import AT_START, ProxyPlugin
from orlop.discovery import AnyRegistration, Candidate
from orlop.errors import AlreadyExists, FailedPrecondition, InitError, NotFound, PluginInUse, Unavailable
from orlop.plugin import Change, Plugins
from orlop.registry import DISABLED, OK, WAITING, Entry

if TYPE_CHECKING:
    from orlop.kernel import Kernel

P = ParamSpec("P")
Verb = Callable[Concatenate["Live", P], Coroutine[Any, Any, Change]]

#: Where a plugin comes from that was added while the kernel ran.
_ADDED: Final = "added to the running program"
#: Most users to list one by one.
_LISTED: Final = 20

_log = logging.getLogger("orlop.live")


def _serial(verb: Verb[P]) -> Verb[P]:
    """One change at a time, each to its end: a caller who goes away must not leave half of it behind."""

    async def call(self: Live, /, *args: P.args, **kwargs: P.kwargs) -> Change:
        async def work() -> Change:
            async with self.lock:
                if not self.open:
                    raise Unavailable("plugins can be changed while the program runs only; it is starting or stopping")
                return await verb(self, *args, **kwargs)

        task = asyncio.create_task(work(), name=verb.__name__)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    functools.update_wrapper(call, verb)
    return call


class Live:
    """The running plugins of a kernel. See `orlop.plugin.Plugins`."""

    def __init__(self, kernel: Kernel) -> None:
        self.lock: Final = asyncio.Lock()
        self.open = False
        self._kernel = kernel
        self._registry = kernel.registry
        self.statuses: Final = self._registry.statuses
        self.instance: Final = self._registry.instance
        self.warnings: Final = lambda: list(self._registry.config_warnings)
        self._changes: set[asyncio.Task[Change]] = set()

    @_serial
    async def enable(self, uri: str) -> Change:
        """See `orlop.plugin.Plugins`."""
        entry = self._known(uri)
        return Change() if entry.state == OK else await self._start(await self._prepare(entry.candidate))

    @_serial
    async def disable(self, uri: str, *, by: str, cascade: bool = False, force: bool = False) -> Change:
        """See `orlop.plugin.Plugins`."""
        self._known(uri)
        how = f"by {by} at {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"
        warnings = await self._release(uri, cascade, force, for_good=True)
        change = await self._apply([uri], lambda: self._registry.disable(uri, how))
        return replace(change, warnings=warnings)

    @_serial
    async def reload(
        self, uri: str, config: Mapping[str, Any] | None = None, *, cascade: bool = False, force: bool = False
    ) -> Change:
        """See `orlop.plugin.Plugins`."""
        before = self._known(uri)
        if before.state == DISABLED:
            raise FailedPrecondition(f'plugin "{uri}": is {before.reason}; enable it instead')
        if config is None:
            files = await run_blocking(self._kernel.reread)
            fresh = files.registry.entries.get(uri, before)
            if fresh is before or fresh.state == DISABLED:
                fresh = await self._prepare(before.candidate, files=files)
        else:
            fresh = await self._prepare(before.candidate, config)
        warnings = await self._release(uri, cascade, force, for_good=False)
        try:
            change = await self._start(fresh)
        except InitError as error:
            if before.state != WAITING:  # it did not work before either
                raise
            await self._start(before)
            text = f"does not come up with the new config: {error.args[0]}; it runs with the old one again"
            raise InitError(text, plugin=uri, origin=error.origin) from error
        if config is None and uri in self._kernel.selected:
            self._kernel.selected[uri] = fresh.facts
        return replace(change, warnings=warnings)

    @_serial
    async def add(self, plugin: AnyRegistration, config: Mapping[str, Any] | None = None) -> Change:
        """See `orlop.plugin.Plugins`."""
        self._kernel.catalogue.types.setdefault(plugin.type.name, plugin.type)
        return await self._add(Candidate(plugin.type.name, plugin.id, _ADDED, lambda: plugin, plugin), config)

    @_serial
    async def add_module(self, uri: str, target: str, config: Mapping[str, Any] | None = None) -> Change:
        """See `orlop.plugin.Plugins`."""
        return await self._add(self._kernel.chosen(uri, target, _ADDED), config)

    @_serial
    async def add_proxy(self, name: str, table: Mapping[str, Any]) -> Change:
        """See `orlop.plugin.Plugins`."""
        proxy = checked(table, ProxyPlugin, f"proxy_plugins.{name}")
        return await self._add(self._kernel.derived(name, proxy, _ADDED))

    @_serial
    async def remove(self, uri: str, *, cascade: bool = False, force: bool = False) -> Change:
        """See `orlop.plugin.Plugins`."""
        entry = self._known(uri)
        if isinstance(entry.candidate.target, EntryPoint):
            raise FailedPrecondition(f'plugin "{uri}": comes with {entry.candidate.origin}; disable it instead')
        warnings = await self._release(uri, cascade, force, for_good=True)
        return replace(await self._apply([uri], lambda: self._registry.entries.pop(uri)), warnings=warnings)

    @_serial
    async def reload_config(self, *, dry_run: bool = False, force: bool = False) -> Change:
        """See `orlop.plugin.Plugins`."""
        files = await run_blocking(self._kernel.reread)
        plan, kept = self._plan(files), {}
        for uri in [uri for uri, what in plan.items() if what in ("stop", "restart") and not force]:
            if users := await self._users(uri):
                kept[uri] = _some(users)
                del plan[uri]
        old, new = self._kernel.config.settings, files.config.settings
        settings = tuple(key for key in AT_START if getattr(old, key) != getattr(new, key))
        warnings = list(files.config.findings.warnings)
        if dry_run:
            change = self._foreseen(plan)
        else:
            stopping = [uri for uri, what in plan.items() if what in ("stop", "restart")]
            change = await self._apply(stopping, lambda: self._adopt(files, plan, kept))
            entries = [self._registry.entries[uri] for uri, what in plan.items() if what in ("start", "restart")]
            warnings += [f"{entry.uri} is {entry.state}: {entry.reason}" for entry in entries if entry.state != OK]
        return replace(change, kept=kept, settings=settings, warnings=tuple(warnings))

    # ---- the course of a change -----------------------------------------------------------------------------------

    def _known(self, uri: str) -> Entry:
        if (entry := self._registry.entries.get(uri)) is None:
            raise NotFound(f'plugin "{uri}": there is none; a URI is <type>.<id>, as the list of plugins shows them')
        return entry

    async def _prepare(
        self, candidate: Candidate, table: Mapping[str, Any] | None = None, files: Kernel | None = None
    ) -> Entry:
        """A plugin ready to be initialised. Raises `LoadError`, `ConfigError`."""
        entry = Entry(candidate, await run_blocking(candidate.load))
        assert entry.registration is not None
        if table is None:
            entry.config = (files or self._kernel).config.typed(entry.registration)
        else:
            entry.config = checked(table, entry.registration.config, f'plugins."{entry.uri}"')
        self._kernel.skip_foreign(entry)
        return entry

    async def _add(self, candidate: Candidate, config: Mapping[str, Any] | None = None) -> Change:
        uri = candidate.uri
        if uri in self._registry.entries:
            raise AlreadyExists(f'plugin "{uri}": is there already ({self._known(uri).candidate.origin})')
        try:
            return await self._start(await self._prepare(candidate, config))
        except InitError:
            await self._apply([uri], lambda: self._registry.entries.pop(uri))
            raise

    async def _start(self, fresh: Entry) -> Change:
        """Put a plugin in the place of the one that has its name. Raises `InitError` when it does not come up."""
        change = await self._apply([fresh.uri], lambda: self._registry.entries.update({fresh.uri: fresh}))
        if fresh.state != OK:
            raise InitError(fresh.reason, plugin=fresh.uri, origin=fresh.candidate.origin)
        return change

    async def _apply(self, stop: Collection[str], exchange: Callable[[], object]) -> Change:
        registry = self._registry
        before = registry.instances()
        await registry.stop({*stop, *registry.dependents(stop)})
        exchange()
        await registry.initialise()
        await registry.start()
        after = registry.instances()
        started = [uri for uri in after if uri not in before]
        stopped = [uri for uri in reversed(before) if uri not in after]
        restarted = [uri for uri in after if uri in before and before[uri] is not after[uri]]
        _log.info("plugins started: %s, stopped: %s, restarted: %s", started, stopped, restarted)
        return Change(tuple(started), tuple(stopped), tuple(restarted))

    async def _release(self, uri: str, cascade: bool, force: bool, *, for_good: bool) -> tuple[str, ...]:
        """Raise `PluginInUse` unless a plugin may be stopped. Returns what was overruled, as warnings."""
        needing = self._registry.dependents([uri])
        # Those that only start anew lose nothing.
        users = [user for each in [uri, *(needing if for_good else ())] for user in await self._users(each)]
        where = self._kernel.config.origin("required_plugins")
        users += (
            [f"{where}: required_plugins"] if for_good and uri in self._kernel.config.settings.required_plugins else []
        )
        lines = [] if cascade or force else [f"{each} needs it; stop that, too (cascade)" for each in needing]
        lines += [] if force else [f"{user} is affected; take it away first, or insist (force)" for user in users]
        if lines:
            raise PluginInUse("is in use:\n  " + "\n  ".join(_some(lines)), plugin=uri)
        warnings = tuple(f"{uri} was stopped in spite of {user}" for user in _some(users))
        for warning in warnings:
            _log.warning("%s", warning, extra={"plugin": uri})
        return warnings

    async def _users(self, uri: str) -> list[str]:
        if self.instance(uri) is None:
            return []
        users: list[str] = []
        try:
            for answer in self._registry.hooks.hook.orlop_plugin_users(uri=uri):
                users += await answer if inspect.isawaitable(answer) else answer
        except Exception as error:  # noqa: BLE001  # who cannot tell may well be using it
            users.append(f"somebody who could not be asked ({error})")
        return users

    # ---- the config -------------------------------------------------------------------------------------------------

    def _plan(self, files: Kernel) -> dict[str, str]:
        """What to do about each plugin that the files say something new about, unless it was done live already."""
        plan = {}
        for uri in {**self._kernel.selected, **files.selected}:
            old, new, entry = self._kernel.selected.get(uri), files.selected.get(uri), self._registry.entries.get(uri)
            if old == new or (entry is not None and entry.state == OK and entry.facts == new):
                continue
            running = entry is not None and entry.state != DISABLED
            if new is None or new.disabled:
                plan[uri] = "stop" if running else "exchange"
            elif entry is not None and not running and old is not None and not old.disabled:
                plan[uri] = "keep off"
            else:
                plan[uri] = "restart" if running else "start"
        return plan

    def _adopt(self, files: Kernel, plan: Mapping[str, str], kept: Iterable[str]) -> None:
        entries = self._registry.entries
        for uri, what in plan.items():
            old, fresh = entries.pop(uri, None), files.registry.entries.get(uri)
            if fresh is not None:
                entries[uri] = fresh
            if what == "keep off" and old is not None:
                entries[uri].state, entries[uri].reason = DISABLED, old.reason
        for uri in kept:
            files.selected[uri] = self._kernel.selected.get(uri)
        self._kernel.follow(files)

    def _foreseen(self, plan: Mapping[str, str]) -> Change:
        start, stop, restart = ([uri for uri in plan if plan[uri] == what] for what in ("start", "stop", "restart"))
        stop = [*self._registry.dependents(stop), *stop]
        restart = [uri for uri in [*restart, *reversed(self._registry.dependents(restart))] if uri not in stop]
        return Change(tuple(start), tuple(stop), tuple(restart))


def _some(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _LISTED else [*lines[:_LISTED], f"and {len(lines) - _LISTED} more"]


_: type[Plugins] = Live
