# SPDX-License-Identifier: Apache-2.0
"""``orlop plugins``: what a daemon is made of, and why a part of it does not run."""

from __future__ import annotations

import argparse
import re
from typing import Any

from orlop.discovery import discover
from orlop.errors import FailedPrecondition, NotFound, OrlopError
from orlop.interfaces.introspection import CommandPlugin, command
from orlop.plugin import InitContext
from orlop_cli.console import Console
from orlop_sdk.client.client import Client
from orlop_sdk.client.introspection import Plugin


class PluginsCommand:
    """``plugins ls|tree|why``."""

    @property
    def summary(self) -> str:
        return "list the daemon's plugins, and explain them"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        listing = actions.add_parser("ls", help="all plugins and how they are")
        listing.add_argument("filters", nargs="*", metavar="FILTER", help="such as type==io.containerd.snapshotter.v1")
        tree = actions.add_parser("tree", help="which plugin needs which")
        tree.add_argument("uri", nargs="?", help="only this one and what it needs")
        why = actions.add_parser("why", help="why a plugin is what it is, down to the root cause")
        why.add_argument("uri", help="<type>.<id>, or an id that is unique")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        if arguments.action == "ls":
            _list(console.run(_fetch(console, arguments.filters)), console)
        elif arguments.action == "tree":
            _tree(console.run(_fetch(console)), arguments.uri, console)
        else:
            console.run(_explain(console, arguments.uri))
        return 0


async def _fetch(console: Console, filters: tuple[str, ...] | list[str] = ()) -> list[Plugin]:
    async with console.client() as client:
        return await client.introspection.plugins(filters)


def _state(plugin: Plugin) -> str:
    if plugin.error is None:
        return "ok"
    return "skipped" if plugin.skipped else "failed"


def _row(plugin: Plugin) -> dict[str, Any]:
    return {
        "type": plugin.type,
        "id": plugin.id,
        "state": _state(plugin),
        "platforms": [str(platform) for platform in plugin.platforms],
        "reason": str(plugin.error) if plugin.error is not None else "",
        "requires": plugin.requires,
        "capabilities": plugin.capabilities,
        "exports": dict(sorted(plugin.exports.items())),
    }


def _list(plugins: list[Plugin], console: Console) -> None:
    console.table(map(_row, plugins), ("type", "id", "state", "reason"))


def _named(plugins: list[Plugin], name: str) -> Plugin:
    found = [plugin for plugin in plugins if name in (plugin.uri, plugin.id)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFound(f'plugin "{name}": several have this id; say which: {", ".join(each.uri for each in found)}')
    raise NotFound(f'plugin "{name}": the daemon has none; orlop plugins ls lists those it has')


def _needs(plugin: Plugin, plugins: list[Plugin]) -> list[Plugin]:
    return [
        other
        for other in plugins
        if other is not plugin and any(need in (other.type, other.uri) for need in plugin.requires)
    ]


def _tree(plugins: list[Plugin], name: str | None, console: Console) -> None:
    if console.format == "json":
        chosen = plugins if name is None else [_named(plugins, name)]
        console.json([_row(plugin) | {"needs": [each.uri for each in _needs(plugin, plugins)]} for plugin in chosen])
        return
    if name is not None:
        roots = [_named(plugins, name)]
    else:
        needed = {other.uri for plugin in plugins for other in _needs(plugin, plugins)}
        roots = [plugin for plugin in plugins if plugin.uri not in needed]
    shown: set[str] = set()
    for root in roots:
        _branch(root, plugins, "", shown)


def _branch(plugin: Plugin, plugins: list[Plugin], indent: str, shown: set[str]) -> None:
    """Print a plugin and what it needs; what was printed before is only named again."""
    needs = _needs(plugin, plugins)
    repeated = " ..." if plugin.uri in shown and needs else ""
    state = "" if plugin.error is None else f" [{_state(plugin)}]"
    print(f"{indent}{plugin.uri}{state}{repeated}")
    if plugin.uri not in shown:
        shown.add(plugin.uri)
        for other in needs:
            _branch(other, plugins, indent + "  ", shown)


async def _explain(console: Console, name: str) -> None:
    async with console.client() as client:
        plugins = await client.introspection.plugins()
        if any(name in (plugin.uri, plugin.id) for plugin in plugins):
            _why(plugins, _named(plugins, name), console)
            return
        for type, id in _guesses(name):
            if reason := await _refusal(client, type, id):
                _why_not(type, id, reason, console)
                return
    _named(plugins, name)  # raises


def _guesses(name: str) -> list[tuple[str, str]]:
    """Types and ids that a plugin may have which no listing shows: as it is named, or as installed here."""
    match = re.fullmatch(r"(.+\.v[0-9]+)\.(.+)", name)
    installed = [(each.type, each.id) for each in discover().candidates.values() if each.id == name]
    return [(match[1], match[2])] if match else installed


async def _refusal(client: Client, type: str, id: str) -> str:
    """Why the daemon has nothing to tell about a plugin; empty if it does not know it either."""
    try:
        await client.introspection.plugin_info(type, id)
    except FailedPrecondition as error:
        return str(error)
    except OrlopError:  # not there, or a daemon that cannot be asked
        return ""
    return ""


def _why_not(type: str, id: str, reason: str, console: Console) -> None:
    # The daemon says: plugin "<uri>": <state>: <reason>
    state, _, rest = reason.removeprefix(f'plugin "{type}.{id}": ').partition(": ")
    if console.format == "json":
        console.json({"type": type, "id": id, "state": state, "reason": rest})
    else:
        print(f"{type}.{id} is {state}\n  because: {rest}")


def _why(plugins: list[Plugin], plugin: Plugin, console: Console) -> None:
    if console.format == "json":
        console.json(_row(plugin))
        return
    print(f"{plugin.uri} is {_state(plugin)}")
    if plugin.error is not None:
        print(f"  because: {plugin.error}")
    for other in _needs(plugin, plugins):
        print(f"  needs {other.uri}, which is {_state(other)}")
    users = [other for other in plugins if plugin in _needs(other, plugins)]
    for other in users:
        print(f"  needed by {other.uri}, which is {_state(other)}")


@command("plugins")
async def plugins(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop plugins``."""
    return PluginsCommand()
