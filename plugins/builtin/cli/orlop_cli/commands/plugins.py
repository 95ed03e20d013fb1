# SPDX-License-Identifier: Apache-2.0
"""``orlop plugins``: what a daemon is made of, why a part of it does not run, and changes while it runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from orlop.interfaces.introspection import CommandPlugin, command
from orlop.plugin import InitContext
from orlop_cli import admin
from orlop_cli.admin import Shown
from orlop_cli.commands import plugins_change, plugins_doctor
from orlop_cli.console import Console


class PluginsCommand:
    """``plugins ls|tree|why|doctor``, and the verbs of `orlop_cli.commands.plugins_change`."""

    @property
    def summary(self) -> str:
        return "list the daemon's plugins, explain them, and change them while it runs"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        listing = actions.add_parser("ls", help="all plugins and how they are")
        listing.add_argument("filters", nargs="*", metavar="FILTER", help="such as type==io.containerd.snapshotter.v1")
        tree = actions.add_parser("tree", help="which plugin needs which")
        tree.add_argument("uri", nargs="?", help="only this one and what it needs")
        why = actions.add_parser("why", help="why a plugin is what it is, down to the root cause")
        why.add_argument("uri", help="<type>.<id>, or an id that is unique")
        actions.add_parser("doctor", help="what keeps plugins from running, each cause once, and what to do about it")
        plugins_change.configure(actions)

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        if arguments.action in plugins_change.VERBS:
            console.run(plugins_change.run(arguments, console))
            return 0
        plugins = console.run(admin.fetch(console, getattr(arguments, "filters", ())))
        match arguments.action:
            case "ls":
                _list(plugins, console)
            case "tree":
                _tree(plugins, arguments.uri, console)
            case "why":
                _why(plugins, admin.named(plugins, arguments.uri), console)
            case _:
                return plugins_doctor.report(plugins, console)
        return 0


def _list(plugins: Sequence[Shown], console: Console) -> None:
    told = any(plugin.origin for plugin in plugins)
    columns = ("type", "id", "state", *(("origin",) if told else ()), "reason")
    console.table([plugin.row() for plugin in plugins], columns, show=_short)


def _short(row: Any) -> Any:
    # The part of an origin that tells plugins apart; the entry point has the same name as the plugin.
    return {**row, "origin": str(row["origin"]).partition(", entry point")[0]}


def _tree(plugins: Sequence[Shown], name: str | None, console: Console) -> None:
    if console.format == "json":
        chosen = plugins if name is None else [admin.named(plugins, name)]
        console.json(
            [plugin.row() | {"needs": [each.uri for each in admin.needs(plugin, plugins)]} for plugin in chosen]
        )
        return
    if name is not None:
        roots = [admin.named(plugins, name)]
    else:
        needed = {other.uri for plugin in plugins for other in admin.needs(plugin, plugins)}
        roots = [plugin for plugin in plugins if plugin.uri not in needed]
    shown: set[str] = set()
    for root in roots:
        _branch(root, plugins, "", shown)


def _branch(plugin: Shown, plugins: Sequence[Shown], indent: str, shown: set[str]) -> None:
    """Print a plugin and what it needs; what was printed before is only named again."""
    needs = admin.needs(plugin, plugins)
    repeated = " ..." if plugin.uri in shown and needs else ""
    state = "" if plugin.state == "ok" else f" [{plugin.state}]"
    print(f"{indent}{plugin.uri}{state}{repeated}")
    if plugin.uri not in shown:
        shown.add(plugin.uri)
        for other in needs:
            _branch(other, plugins, indent + "  ", shown)


def _why(plugins: Sequence[Shown], plugin: Shown, console: Console) -> None:
    chain = admin.chain(plugin, plugins)
    if console.format == "json":
        console.json(plugin.row() | {"chain": [each.uri for each in chain]})
        return
    print(f"{plugin.uri} is {plugin.state}")
    if plugin.reason:
        print(f"  because: {plugin.reason}")
    for depth, step in enumerate(chain[1:], 2):
        root = f": {step.reason}  <- root cause" if step is chain[-1] else ""
        print(f"{'  ' * depth}needs {step.uri}, which is {step.state}{root}")
    if plugin.origin:
        print(f"  declared by {plugin.origin}")
    for other in admin.needs(plugin, plugins):
        if other not in chain:
            print(f"  needs {other.uri}, which is {other.state}")
    for other in plugins:
        if plugin in admin.needs(other, plugins):
            print(f"  needed by {other.uri}, which is {other.state}")


@command("plugins")
async def plugins(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop plugins``."""
    return PluginsCommand()
