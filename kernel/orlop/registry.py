# SPDX-License-Identifier: Apache-2.0
"""The registry: brings plugins up in the order of their needs, knows how each one is and why, and takes them down.

Every plugin is in one of five states::

    waiting    its turn has not come
    ok         initialised; its instance is to be had
    failed     it could not be loaded or initialised, or needs one that failed
    skipped    this host, or a disabled plugin that it needs, does not let it run
    disabled   switched off in the config; its code was never imported

When one plugin is off, those that need it say so with the *root cause*, and only the root cause is logged as an error.
Nothing here assumes that the set of plugins stays as it is: states are looked up when they are asked for, and each call
of `initialise` looks again at those whose reason lay outside themselves. How the set may change is for `orlop.live`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any, Final, NamedTuple, TypeVar, cast

import pluggy

from orlop import conformance, errors, graph, hooks
from orlop.discovery import AnyRegistration, Candidate
from orlop.errors import DependencyCycle, DuplicatePlugin, InitError, PluginError, RequirementError, SkipPlugin
from orlop.plugin import InitContext, PluginConfig, Plugins, PluginStatus, PluginType, Requirement

T = TypeVar("T")

WAITING: Final = "waiting"
OK: Final = "ok"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"
DISABLED: Final = "disabled"

_log = logging.getLogger("orlop.registry")


class Facts(NamedTuple):
    """What a config says of a plugin: what to load, how to configure it, and whether it is off."""

    target: object
    config: PluginConfig | None
    disabled: bool


@dataclass
class Entry:
    """One plugin and how it is."""

    candidate: Candidate
    registration: AnyRegistration | None = None
    config: PluginConfig | None = None
    state: str = WAITING
    reason: str = ""
    cause: str = ""
    instance: Any = None
    exports: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    holds: set[str] = field(default_factory=set)
    """URIs of the plugins whose instances it took with `InitContext.get`."""
    hindered: bool = False
    """Whether what keeps it from running lies outside, so that a change elsewhere may let it run."""

    @property
    def uri(self) -> str:
        """The plugin's name everywhere: ``<type>.<id>``."""
        return self.candidate.uri

    @property
    def facts(self) -> Facts:
        """What makes it another plugin when it changes."""
        return Facts(self.candidate.target, self.config, self.state == DISABLED)

    def status(self) -> PluginStatus:
        """A copy for everyone to see."""
        registration = self.registration
        return PluginStatus(
            type=self.candidate.type,
            id=self.candidate.id,
            state=self.state,
            reason=self.reason,
            cause=self.cause,
            origin=self.candidate.origin,
            requires=tuple(map(str, registration.requires)) if registration else (),
            platforms=registration.platforms if registration else (),
            capabilities=registration.capabilities if registration else (),
            exports=self.exports or (dict(registration.exports) if registration else {}),
            seconds=self.seconds,
        )


#: Makes the init context of a registration; the kernel knows directories, properties and timeouts.
ContextMaker = Callable[[AnyRegistration, PluginConfig, "View"], InitContext[Any]]


class Registry:
    """All plugins of one kernel. See the module for the states."""

    def __init__(self, context: ContextMaker) -> None:
        self.entries: Final[dict[str, Entry]] = {}
        self.hooks: Final[pluggy.PluginManager] = hooks.manager()
        self.config_warnings: Final[list[str]] = []
        self.plugins: Plugins
        self._context = context
        self._order: list[str] = []
        self._started: set[str] = set()

    # ---- looking ----------------------------------------------------------------------------------------------------

    def statuses(self) -> list[PluginStatus]:
        """All plugins: in the order of their initialisation, then those that had none."""
        rest = sorted(uri for uri in self.entries if uri not in self._order)
        return [self.entries[uri].status() for uri in [*self._order, *rest]]

    def instance(self, uri: str) -> object | None:
        """The live instance, or None unless the plugin is ok."""
        entry = self.entries.get(uri)
        return entry.instance if entry is not None and entry.state == OK else None

    def instances(self) -> dict[str, object]:
        """All live instances, in the order of their initialisation."""
        return {uri: self.entries[uri].instance for uri in self._order if self.entries[uri].state == OK}

    def dependents(self, uris: Collection[str]) -> list[str]:
        """The working plugins that cannot stay when these stop, directly or not, in the order to stop them in.

        Those are the ones that took such a plugin's instance, and those that require what nothing else offers.
        """
        gone = set(uris)
        while more := {entry.uri for entry in self.entries.values() if self._loses(entry, gone)} - gone:
            gone |= more
        return [uri for uri in reversed(self._order) if uri in gone - set(uris)]

    def _loses(self, entry: Entry, gone: set[str]) -> bool:
        if entry.state != OK or entry.registration is None:
            return False
        working = [
            {other.uri for other in self._found(need, entry) if other.state == OK}
            for need in entry.registration.requires
            if not need.optional
        ]
        return bool(entry.holds & gone) or any(offers <= gone for offers in working)

    # ---- bringing up ------------------------------------------------------------------------------------------------

    def add(self, candidate: Candidate) -> Entry:
        """Make a plugin known, in state waiting."""
        entry = self.entries[candidate.uri] = Entry(candidate)
        return entry

    def disable(self, uri: str, how: str) -> None:
        """Mark a plugin that does not run as switched off: ``in config.toml:3``, ``by root at 12:00``."""
        entry = self.entries[uri]
        entry.state, entry.reason, entry.cause, entry.hindered = DISABLED, f"disabled {how}", uri, False
        self._tell(entry)

    def load(self, uri: str) -> AnyRegistration | None:
        """Import a waiting plugin's registration; None when that fails, which is then its state."""
        entry = self.entries[uri]
        try:
            entry.registration = entry.candidate.load()
        except PluginError as error:
            self._fail(entry, error)
        return entry.registration

    async def initialise(self) -> None:
        """Call the factories of all waiting plugins, each as soon as those that it needs are done."""
        for entry in self.entries.values():
            if entry.hindered and entry.state in (FAILED, SKIPPED):
                entry.state = WAITING
        self._order = [uri for uri in self._order if uri in self.entries and self.entries[uri].state != WAITING]
        self._refuse_rivals(self._registrations(WAITING, OK))
        self._refuse_cycles(graph.edges(self._registrations(WAITING, OK)))
        sorter = TopologicalSorter(graph.edges(self._registrations(WAITING)))
        sorter.prepare()
        running: dict[asyncio.Task[None], str] = {}
        while sorter.is_active():
            for uri in sorter.get_ready():
                running[asyncio.create_task(self._initialise(self.entries[uri]), name=f"init {uri}")] = uri
            done, _ = await asyncio.wait(running, timeout=_SLOW, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                _log.warning("nothing goes on until these have come up: %s", ", ".join(running.values()))
            for task in done:
                task.result()
                sorter.done(running.pop(task))

    def _registrations(self, *states: str) -> dict[str, AnyRegistration]:
        return {
            uri: entry.registration
            for uri, entry in self.entries.items()
            if entry.state in states and entry.registration is not None
        }

    async def start(self) -> None:
        """Call ``start()`` of every instance that has one without parameters, in the order of their needs."""
        for uri in list(self._order):
            entry = self.entries[uri]
            if entry.state != OK or uri in self._started or not _startable(entry.instance):
                continue
            try:
                await entry.instance.start()
            except (Exception, SystemExit) as error:  # noqa: BLE001  # a plugin's failure is its state
                self._fail(entry, _wrapped(error, entry, "start"))
            else:
                self._started.add(uri)

    async def stop(self, uris: Collection[str]) -> None:
        """Take these plugins away and close them, in the reverse order of their initialisation.

        What worked is waiting then: the next `initialise` brings it up again.
        """
        for uri in [uri for uri in reversed(self._order) if uri in uris]:
            entry = self.entries[uri]
            instance, entry.instance = entry.instance, None
            if entry.state == OK:
                entry.state = WAITING
            self._order.remove(uri)
            self._started.discard(uri)
            if instance is not None:
                await self._close(entry, instance)

    async def close(self) -> None:
        """Close all instances, in the reverse order of their initialisation. May be called twice."""
        await self.stop(self.entries)

    async def _close(self, entry: Entry, instance: Any) -> None:
        if self.hooks.has_plugin(entry.uri):
            self.hooks.unregister(name=entry.uri)
        close = getattr(instance, "close", None)
        if close is None:
            return
        try:
            result = close()
            if inspect.isawaitable(result):
                async with asyncio.timeout(_CLOSING):
                    await result
        except Exception:  # noqa: BLE001  # a plugin that cannot close must not keep the others open
            _log.exception("%s: error while closing", entry.uri, extra={"plugin": entry.uri})

    async def _initialise(self, entry: Entry) -> None:
        registration = cast(AnyRegistration, entry.registration)
        began = time.perf_counter()
        entry.holds, entry.cause, entry.hindered = set(), "", False
        try:
            self._check_requirements(entry, registration)
            context = self._context(registration, entry.config or registration.config(), View(self, registration))
            instance = await _made(registration, context)
            if faults := conformance.faults(instance, registration.type.interface):
                name = registration.type.interface.__name__
                raise InitError(f"{type(instance).__name__} is no {name}: {', '.join(faults)}")
            entry.instance, entry.exports, entry.state, entry.reason = instance, context.exports, OK, ""
            if registration.type.name == hooks.HOOK.name:
                hooks.add(self.hooks, instance, entry.uri, entry.candidate.origin)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a plugin's failure is its state
            self._fail(entry, _wrapped(error, entry, "initialisation"))
        finally:
            entry.seconds = time.perf_counter() - began
            self._order.append(entry.uri)
        _log.debug("%s is %s after %.1f ms", entry.uri, entry.state, entry.seconds * 1e3, extra={"plugin": entry.uri})
        self._tell(entry)

    def _check_requirements(self, entry: Entry, registration: AnyRegistration) -> None:
        for requirement in registration.requires:
            if not requirement.optional:
                self.check(requirement, entry)

    def check(self, requirement: Requirement, entry: Entry) -> list[Entry]:
        """The working plugins that a requirement of *entry* is about. Raises with the root cause when there is none."""
        found = self._found(requirement, entry)
        working = [other for other in found if other.state == OK]
        if working:
            return working
        entry.hindered = True
        uri, origin = entry.uri, entry.candidate.origin
        if not found:
            self._missing(requirement, entry)
            raise RequirementError(
                f"needs {requirement}, which no installed distribution provides", plugin=uri, origin=origin
            )
        blame = next((other for other in found if other.state == FAILED), found[0])
        root = self.entries.get(blame.cause, blame)
        via = "" if root is blame else f" (by way of {blame.uri})"
        state = f"is {root.reason}" if root.state == DISABLED else f"{_PAST[root.state]}: {root.reason}"
        kind: type[PluginError] = RequirementError if root.state == FAILED else SkipPlugin
        error = kind(f"needs {root.uri}, which {state}{via}", plugin=uri, origin=origin)
        entry.cause = root.cause or root.uri
        raise error

    def _found(self, requirement: Requirement, entry: Entry) -> list[Entry]:
        return [other for other in self.entries.values() if _matches(requirement, other) and other is not entry]

    # ---- states ---------------------------------------------------------------------------------------------------

    def _refuse_rivals(self, registrations: Mapping[str, AnyRegistration]) -> None:
        by_type: dict[str, list[Entry]] = {}
        for uri, registration in registrations.items():
            if not registration.type.many:
                by_type.setdefault(registration.type.name, []).append(self.entries[uri])
        for name, rivals in by_type.items():
            text = " and ".join(f"{rival.uri} ({rival.candidate.origin})" for rival in rivals)
            for rival in rivals if len(rivals) > 1 else ():
                self._refuse(
                    rival, DuplicatePlugin(f"only one plugin of type {name} may be active; disable one of {text}")
                )

    def _refuse_cycles(self, needs: graph.Edges) -> None:
        for ring in graph.cycles(needs):
            chain = " needs ".join(f"{uri} ({self.entries[uri].candidate.origin})" for uri in ring)
            for uri in set(ring):
                self._refuse(self.entries[uri], DependencyCycle(f"requires itself: {chain}"))

    def _refuse(self, entry: Entry, error: PluginError) -> None:
        """Do not let a plugin come up. One that works already stays as it is."""
        if entry.state == WAITING:
            entry.cause, entry.hindered = "", True
            self._fail(entry, error)

    def _fail(self, entry: Entry, error: PluginError) -> None:
        entry.state = SKIPPED if isinstance(error, SkipPlugin) else FAILED
        known, entry.reason = entry.reason == str(error.args[0]), str(error.args[0])
        if known or (entry.cause and entry.cause != entry.uri):
            level = logging.DEBUG
        else:
            level = logging.INFO if entry.state == SKIPPED else logging.ERROR
        entry.cause = entry.cause or entry.uri
        _log.log(level, "%s (%s): %s", entry.uri, entry.candidate.origin, entry.reason, extra={"plugin": entry.uri})

    def _missing(self, requirement: Requirement, entry: Entry) -> None:
        """What is not installed is a root cause too, and logged once, however many need it."""
        entry.cause = str(requirement)
        others = [other for other in self.entries.values() if other.cause == entry.cause and other is not entry]
        if not others and str(requirement) not in entry.reason:
            text = "no installed distribution provides %s, which %s needs"
            _log.error(text, requirement, entry.uri, extra={"plugin": entry.uri})

    def _tell(self, entry: Entry) -> None:
        hook = self.hooks.hook.orlop_plugin_state
        try:
            if hook.get_hookimpls():  # a status takes parsing metadata: not for nobody, there may be a thousand plugins
                hook(status=entry.status())
        except Exception:  # noqa: BLE001  # a watcher that fails must not change what it watches
            _log.exception("a hook on orlop_plugin_state failed")


#: Seconds without any progress after which the log says for whom everything waits.
_SLOW: Final = 10.0
#: Seconds that a plugin gets to close; the others must not wait for one that hangs.
_CLOSING: Final = 20.0
_PAST: Final = {FAILED: "failed", SKIPPED: "was skipped", WAITING: "is not ready", OK: "is ok"}


def _matches(requirement: Requirement, entry: Entry) -> bool:
    return entry.candidate.type == requirement.type and requirement.id in ("", entry.candidate.id)


def _startable(instance: object) -> bool:
    start = getattr(instance, "start", None)
    return inspect.iscoroutinefunction(start) and not inspect.signature(start).parameters


async def _made(registration: AnyRegistration, context: InitContext[Any]) -> Any:
    """What the factory makes."""
    making: Any = registration.factory(context)
    if not inspect.isawaitable(making):
        raise InitError("its factory is no coroutine function; write async def")
    limit = context.timeout("io.orlop.timeout.plugin.init", 300.0) or None
    async with asyncio.timeout(limit) as deadline:
        try:
            return await making
        finally:
            if deadline.expired():
                raise InitError(f"did not come up within {limit:g} s; see why, or raise io.orlop.timeout.plugin.init")


def _wrapped(error: BaseException, entry: Entry, step: str) -> PluginError:
    if isinstance(error, PluginError):
        return error
    text = errors.describe(error, getattr(entry.registration and entry.registration.factory, "__module__", ""))
    _log.debug("%s: %s failed", entry.uri, step, exc_info=error, extra={"plugin": entry.uri})
    return InitError(text, plugin=entry.uri, origin=entry.candidate.origin)


class View:
    """The registry as one plugin may use it: only what the plugin said it requires."""

    def __init__(self, registry: Registry, registration: AnyRegistration) -> None:
        self.plugins: Final = registry.plugins
        self.hooks: Final[Any] = registry.hooks.hook
        self._registry = registry
        self._registration = registration

    def get(self, type: PluginType[T], id: str) -> T:
        """See `orlop.plugin.InitContext.get`."""
        self._must_be_declared(type, id)
        entry = self._registry.entries[self._registration.uri]
        found = self._registry.check(Requirement(type.name, id), entry)
        if len(found) > 1:
            names = ", ".join(sorted(other.candidate.id for other in found))
            raise RequirementError(f"asked for the one {type.name}, there are several: {names}", plugin=entry.uri)
        entry.holds.add(found[0].uri)
        return cast(T, found[0].instance)

    def all(self, type: PluginType[T]) -> Mapping[str, T]:
        """See `orlop.plugin.InitContext.all`."""
        self._must_be_declared(type, "")
        return LiveMapping(self._registry, type.name)

    def _must_be_declared(self, type: PluginType[Any], id: str) -> None:
        declared = any(need.type == type.name and need.id in ("", id) for need in self._registration.requires)
        if not declared:
            what = f"{type.name}.{id}" if id else type.name
            raise RequirementError(
                f"uses {what} without requiring it; add it to requires=", plugin=self._registration.uri
            )


class LiveMapping(Mapping[str, T]):
    """All working plugins of one type by id, as they are at each look."""

    def __init__(self, registry: Registry, type: str) -> None:
        self._registry = registry
        self._type = type

    def __getitem__(self, id: str) -> T:
        instance = self._registry.instance(f"{self._type}.{id}")
        if instance is None:
            raise KeyError(id)
        return cast(T, instance)

    def __iter__(self) -> Iterator[str]:
        for entry in list(self._registry.entries.values()):
            if entry.candidate.type == self._type and entry.state == OK:
                yield entry.candidate.id

    def __len__(self) -> int:
        return sum(1 for _ in self)


def closure(wanted: Collection[str], registry: Registry) -> set[str]:
    """These plugins and all that they require, loading registrations on the way; optional needs are left out."""
    chosen: set[str] = set()
    queue = list(wanted)
    while queue:
        uri = queue.pop()
        if uri in chosen or uri not in registry.entries:
            continue
        chosen.add(uri)
        if registry.entries[uri].state != WAITING:
            continue
        registration = registry.load(uri)
        for requirement in registration.requires if registration else ():
            if not requirement.optional:
                queue.extend(other.uri for other in registry.entries.values() if _matches(requirement, other))
    return chosen
