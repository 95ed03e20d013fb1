# SPDX-License-Identifier: Apache-2.0
"""One plugin by itself: found by its name or its module, and brought up in a kernel of its own.

::

    target = find_target("orlop_demo:demo", SNAPSHOTTER)
    async with hosted(target, Path("/var/lib/demo")) as (kernel, snapshotter):
        await snapshotter.prepare("key")

The kernel has nothing but the plugin and what it requires.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orlop.config import Config, from_data, load
from orlop.discovery import AnyRegistration, Catalogue, discover
from orlop.errors import InvalidArgument, LoadError, NotFound, describe
from orlop.kernel import Kernel
from orlop.plugin import PluginType, Registration


@dataclass(frozen=True, slots=True)
class Target:
    """A plugin to work with: its declaration, and where it was found."""

    registration: AnyRegistration
    module: str = ""
    """``module:attribute`` if it was named so; empty for an installed one."""

    @property
    def uri(self) -> str:
        """The plugin's name in config."""
        return self.registration.uri


def find_target(name: str, *types: PluginType[Any]) -> Target:
    """The plugin that *name* means, which has to be of one of *types*.

    A name is ``module:attribute`` of a registration (modules in the current directory count too), a URI, or an id that
    only one installed plugin of these types has. Raises `NotFound`, `LoadError`, `InvalidArgument`.
    """
    target = _from_module(name) if ":" in name else _installed(name, discover(), [type.name for type in types])
    if target.registration.type.name not in {type.name for type in types}:
        wanted = " or ".join(type.name for type in types)
        raise InvalidArgument(f'plugin "{name}": it is {target.uri}, and only a {wanted} will do here')
    return target


@asynccontextmanager
async def hosted(
    target: Target,
    root: Path,
    *,
    config: Path | None = None,
    plugins: Sequence[AnyRegistration] = (),
    without: Collection[str] = (),
) -> AsyncIterator[tuple[Kernel, Any]]:
    """Bring a plugin up with its data below *root*, and give the kernel and its instance for as long as the body runs.

    *config* is a file of the daemon's format, for the plugin's tables. *plugins* are further ones, and *without* are
    URIs of those to do without. Raises `ConfigError`, and `NotFound` with the reason when it does not come up.
    """
    kernel = Kernel(_config(target, root, config, without), only=[target.uri, *_optional(target)], plugins=plugins)
    async with kernel:
        yield kernel, kernel.get(target.registration.type, target.registration.id)


def _config(target: Target, root: Path, file: Path | None, without: Collection[str]) -> Config:
    # The state directory lies inside, so that one directory is all a user has to give and to remove.
    chosen: dict[str, Any] = {"root": str(root), "state": str(root / "state"), "disabled_plugins": list(without)}
    modules = {target.uri: target.module} if target.module else {}
    if file is None:
        return from_data(chosen | {"plugin_modules": modules})
    overrides = {(key,): value for key, value in chosen.items()}
    return load(file, overrides | {("plugin_modules", uri): module for uri, module in modules.items()})


def import_attribute(name: str) -> Any:
    """What ``module:attribute`` names; modules in the current directory count too. Raises `LoadError`."""
    module, _, attribute = name.partition(":")
    # As for `python -m`: an author stands in the folder with the module.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # an author's code may do anything; which line of it did is what helps
        raise LoadError(f"cannot be imported: {describe(error, module)}", plugin=name) from error
    return found


def _optional(target: Target) -> list[str]:
    """What works with the plugin, or with one that it names, if it is there.

    A kernel that is told what to bring up takes only what is needed.
    """
    candidates = discover().candidates if target.registration.requires else {}
    queue, named, wanted = [target.registration], set[str](), set[str]()
    while queue:
        for need in queue.pop().requires:
            uri = f"{need.type}.{need.id}"
            if need.optional:
                wanted.add(need.type)
            elif uri in candidates and uri not in named:
                named.add(uri)
                queue.append(candidates[uri].load())
    return [each.uri for each in candidates.values() if each.type in wanted]


def _from_module(name: str) -> Target:
    found = import_attribute(name)
    if not isinstance(found, Registration):
        raise LoadError(f"is a {type(found).__name__}, not a registration; decorate the factory", plugin=name)
    return Target(found, name)


def _installed(name: str, catalogue: Catalogue, types: Sequence[str]) -> Target:
    mine = [each for each in catalogue.candidates.values() if each.type in types]
    others = [each for each in catalogue.candidates.values() if each.id == name]
    found = (
        [each for each in catalogue.candidates.values() if each.uri == name]
        or [each for each in mine if each.id == name]
        or others[:1]  # installed it is, and who asked for it says what it should be
    )
    if len(found) > 1:
        raise InvalidArgument(f'plugin "{name}": several have this id: {", ".join(each.uri for each in found)}')
    if not found:
        raise NotFound(f'plugin "{name}": not installed; there are: {", ".join(sorted(each.uri for each in mine))}')
    return Target(found[0].load())
