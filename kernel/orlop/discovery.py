# SPDX-License-Identifier: Apache-2.0
"""Finds plugins: what every installed distribution offers, known by name before any of its code runs.

An entry point's group says a plugin's type and its name the plugin's id, so selection needs no import. The metadata
is read with importlib.metadata, which keeps the distribution; stevedore loads what was approved, and only that.
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import EntryPoint, distributions
from typing import Any, Final

from stevedore.extension import Extension, ExtensionManager

from orlop.errors import DuplicatePlugin, LoadError, PluginError, describe
from orlop.plugin import TYPE_GROUP, PluginType, Registration
from orlop.trust import Lock

AnyRegistration = Registration[Any, Any]
Loader = Callable[[], AnyRegistration]

_log = logging.getLogger("orlop.discovery")


class Candidate:
    """A plugin that could be loaded: its URI, who offers it, and how to import it.

    ``load`` raises `LoadError`. Candidates with equal *target*, the entry point if none is given, are the same plugin.
    The origin of an entry point is worked out when somebody asks: it takes parsing the distribution's metadata.
    """

    def __init__(self, type: str, id: str, origin: str | EntryPoint, load: Loader, target: object = None) -> None:
        self.type: Final = type
        self.id: Final = id
        self.uri: Final = f"{type}.{id}"
        self.load: Final = load
        self.target: Final = origin if target is None else target
        self._origin = origin

    @cached_property
    def origin(self) -> str:
        """``distribution version, entry point name = module:attribute``, or ``file:line``."""
        return self._origin if isinstance(self._origin, str) else _origin(self._origin)


@dataclass
class Catalogue:
    """Everything there is to choose from. ``faults`` are types and plugins that cannot be offered at all."""

    types: dict[str, PluginType[Any]] = field(default_factory=dict)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    faults: list[PluginError] = field(default_factory=list)

    def add(self, candidate: Candidate) -> None:
        """Add a plugin. One that is there already makes both unusable, and a fault that names both."""
        rival = self.candidates.get(candidate.uri)
        if rival is not None and rival.origin != candidate.origin:
            error = DuplicatePlugin(
                f"declared twice: by {rival.origin} and by {candidate.origin}; uninstall one of them, or choose one "
                f'under [plugin_modules] ("{candidate.uri}" = "module:attribute")',
                plugin=candidate.uri,
            )
            candidate = Candidate(candidate.type, candidate.id, f"{rival.origin}; {candidate.origin}", _raiser(error))
        self.candidates[candidate.uri] = candidate

    def chosen(self, uri: str, target: str, origin: str) -> Candidate:
        """The plugin *uri* from ``module:attribute``, whatever else offers it. Raises `LoadError` as `split`."""
        type_name, id = self.split(uri, origin)
        entry = EntryPoint(name=id, value=target, group="plugin_modules")
        return Candidate(type_name, id, f"{target}, {origin}", lambda: _load(entry, uri, origin), target)

    def register(self, registration: AnyRegistration, origin: str) -> None:
        """Add a plugin that is in memory already."""
        self.types.setdefault(registration.type.name, registration.type)
        self.add(Candidate(registration.type.name, registration.id, origin, lambda: registration, registration))

    def split(self, uri: str, origin: str = "") -> tuple[str, str]:
        """The type and id of a URI. Raises `LoadError` when no known type begins it."""
        for name in sorted(self.types, key=len, reverse=True):
            if uri.startswith(f"{name}.") and len(uri) > len(name) + 1:
                return name, uri[len(name) + 1 :]
        raise LoadError("is of no known plugin type; a URI is <type>.<id>", plugin=uri, origin=origin)


def discover(directories: Sequence[str] = (), lock: Lock | None = None) -> Catalogue:
    """The catalogue of all installed distributions, and of those in *directories*.

    A directory is one that ``pip install --target`` made; it is appended to the module search path. With a *lock* the
    plugins of distributions that differ from it are known, and fail when they are loaded. Only a distribution whose
    plugin is loaded, or offered by another one as well, is compared with it: that takes reading all its files.
    """
    for directory in directories:
        if directory not in sys.path:
            sys.path.append(directory)
    # A distribution that is found twice on the path (an editable one, say) names the same targets: the first counts.
    groups: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    for distribution in distributions():
        for point in distribution.entry_points:
            groups.setdefault(point.group, {}).setdefault((point.name, point.value), point)
    catalogue = Catalogue()
    types = {point: lock and lock.fault(point, point.name) for point in groups.get(TYPE_GROUP, {}).values()}
    catalogue.faults.extend(fault for fault in types.values() if fault)
    for name, type in _load_types([point for point, fault in types.items() if not fault], catalogue):
        catalogue.types[name] = type
    for type in list(catalogue.types.values()):
        points = groups.get(type.group, {}).values()
        offers = Counter(each.name for each in points)
        faults = {
            each: lock.fault(each, f"{type.name}.{each.name}") if lock and offers[each.name] > 1 else None
            for each in points
        }
        # Refused ones come last: they must not keep a trusted plugin of the same name from working.
        for point, fault in sorted(faults.items(), key=lambda item: item[1] is not None):
            if fault and f"{type.name}.{point.name}" in catalogue.candidates:
                catalogue.faults.append(fault)
            else:
                catalogue.add(_candidate(type, point, lock))
    known = {TYPE_GROUP, *(type.group for type in catalogue.types.values())}
    for group in sorted(name for name in groups.keys() - known if name.startswith("orlop.")):
        # Nobody would ever hear of plugins in a group that no type has, one with a mistake in its name above all.
        hint = "".join(f'; write "{near}"' for near in difflib.get_close_matches(group, known, 1, 0.75))
        who = ", ".join(map(_origin, groups[group].values()))
        _log.warning('entry-point group "%s" (%s): no installed plugin type has it%s', group, who, hint)
    return catalogue


class _Approved(ExtensionManager[Any]):
    """stevedore, loading exactly the entry points it is given: no cache, no scan of its own."""

    def __init__(self, group: str, points: Iterable[EntryPoint], failed: Callable[[EntryPoint, BaseException], None]):
        self._points = list(points)
        super().__init__(group, on_load_failure_callback=lambda _, point, error: failed(point, error))

    def list_entry_points(self) -> list[EntryPoint]:
        return self._points

    def _load_one_plugin(self, ep: EntryPoint, *args: Any, **kwargs: Any) -> Extension[Any] | None:
        try:
            return super()._load_one_plugin(ep, *args, **kwargs)
        except (SystemExit, AssertionError) as error:  # stevedore lets these two through: a plugin must not end us
            raise ImportError(f"{type(error).__name__} while importing: {error}") from error


def _load_types(points: Iterable[EntryPoint], catalogue: Catalogue) -> list[tuple[str, PluginType[Any]]]:
    def failed(point: EntryPoint, error: BaseException) -> None:
        catalogue.faults.append(LoadError(f"plugin type {point.name}: {error!r}", origin=_origin(point)))

    found: dict[str, PluginType[Any]] = {}
    for extension in _Approved(TYPE_GROUP, points, failed):
        type = extension.plugin
        if not isinstance(type, PluginType):
            failed(extension.entry_point, TypeError(f"{extension.entry_point_target} is not a PluginType"))
        elif type.name in found and found[type.name].group != type.group:
            failed(extension.entry_point, ValueError(f"{type.name} is declared with two entry-point groups"))
        else:
            found[type.name] = type
    return list(found.items())


def _candidate(type: PluginType[Any], point: EntryPoint, lock: Lock | None) -> Candidate:
    uri = f"{type.name}.{point.name}"

    def load() -> AnyRegistration:
        if lock and (fault := lock.fault(point, uri)):
            raise fault
        return _load(point, uri)

    return Candidate(type.name, point.name, point, load)


def _load(point: EntryPoint, uri: str, where: str = "") -> AnyRegistration:
    origin = where or _origin(point)
    errors: list[BaseException] = []
    extensions = list(_Approved(point.group, [point], lambda _, error: errors.append(error)))
    if errors:
        reason = describe(errors[0], point.module) if point.pattern.match(point.value) else "write module:attribute"
        raise LoadError(f"cannot be imported: {reason}", plugin=uri, origin=origin) from errors[0]
    registration = extensions[0].plugin
    if not isinstance(registration, Registration):
        fault = f"{point.value} is a {type(registration).__name__}, not a registration; decorate the factory"
    elif registration.uri != uri:
        fault = f"{point.value} registers {registration.uri}; entry point and id must agree"
    else:
        return registration
    raise LoadError(fault, plugin=uri, origin=origin)


def _raiser(error: PluginError) -> Callable[[], AnyRegistration]:
    def load() -> AnyRegistration:
        raise error

    return load


def _origin(point: EntryPoint) -> str:
    """Who declared an entry point: distribution, version, and the line."""
    about = point.dist.metadata if point.dist is not None else None  # parsed anew each time it is asked for
    who = f"{about['Name']} {about['Version']}" if about is not None else "unknown distribution"
    return f"{who}, entry point {point.name} = {point.value}"
