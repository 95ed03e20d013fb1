# SPDX-License-Identifier: Apache-2.0
"""``orlop plugins enable|disable|reload|add|remove``: changes of a running daemon's plugins."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from pathlib import Path
from typing import Any, Final

from orlop_cli import admin
from orlop_cli.console import Console, Usage

VERBS: Final = ("enable", "disable", "reload", "add", "remove")


def configure(actions: Any) -> None:
    """Add the verbs to the parsers of ``orlop plugins``."""
    texts = {
        "enable": "bring up a plugin that is disabled, or try again one that failed or was skipped",
        "disable": "stop a plugin, and keep it off",
        "reload": "start a plugin anew, with what the config files say now or with another config",
        "add": "bring up a plugin that is not there: code by module:attribute, or a proxy plugin",
        "remove": "stop a plugin that was added, and forget it",
    }
    parsers = {verb: actions.add_parser(verb, help=text, description=text) for verb, text in texts.items()}
    for verb, parser in parsers.items():
        if verb == "add":
            parser.add_argument("uri", nargs="?", help="<type>.<id> of the new plugin")
            parser.add_argument("target", nargs="?", metavar="MODULE:ATTRIBUTE", help="its registration")
            parser.add_argument("--proxy", metavar="NAME", help="instead: a part in another process, by this name")
            parser.add_argument("--type", help="with --proxy: snapshot, content, diff, or another proxy kind")
            parser.add_argument("--socket", help="with --proxy: path of the socket that it serves on")
        else:
            parser.add_argument("uri", help="<type>.<id>, or an id that is unique")
        if verb in ("disable", "reload", "remove"):
            parser.add_argument("--cascade", action="store_true", help="stop the plugins that need it first")
            parser.add_argument(
                "--force", action="store_true", help="do it in spite of containers and others that use it"
            )
        if verb in ("reload", "add"):
            parser.add_argument(
                "--config", metavar="FILE", help="TOML with the keys of its table; - for standard input"
            )
        parser.add_argument("--save", action="store_true", help="write it into the config, too, so that it lasts")


async def run(arguments: argparse.Namespace, console: Console) -> None:
    """Do it, and print what came of it."""
    from orlop_sdk.api.orlop.plugins.v1 import plugins_pb2 as pb

    verb: str = arguments.action
    options: dict[str, Any] = {"save": arguments.save}
    if verb == "add":
        options |= _new(arguments)
    else:
        options["uri"] = admin.named(await admin.fetch(console), arguments.uri).uri
    if verb in ("disable", "reload", "remove"):
        options |= {"cascade": arguments.cascade, "force": arguments.force}
    if verb == "disable":
        options["by"] = os.environ.get("SUDO_USER") or getpass.getuser()
    if verb in ("reload", "add") and arguments.config is not None:
        options["config"] = options.get("config", "") + _text(arguments.config)
    requests = {
        "enable": pb.EnableRequest,
        "disable": pb.DisableRequest,
        "reload": pb.ReloadRequest,
        "add": pb.AddRequest,
        "remove": pb.RemoveRequest,
    }
    async with admin.admin(console) as stub:
        change = await getattr(stub, verb.capitalize())(requests[verb](**options))
    show(change, console)


def _text(file: str) -> str:
    return sys.stdin.read() if file == "-" else Path(file).read_text()


def _new(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.proxy is None:
        if not arguments.target:
            raise Usage(
                "give the URI and MODULE:ATTRIBUTE of the new plugin, or --proxy NAME --type KIND --socket PATH"
            )
        return {"uri": arguments.uri, "target": arguments.target}
    if not arguments.type or not arguments.socket or arguments.uri:
        raise Usage("--proxy goes with --type KIND and --socket PATH, and without a URI")
    import tomlkit

    table = {"type": arguments.type, "address": arguments.socket}
    return {"proxy": arguments.proxy, "config": tomlkit.dumps(table)}


def show(change: Any, console: Console, *, planned: bool = False) -> None:
    """Print what a change did, or would do."""
    for warning in change.warnings:
        console.remark(f"warning: {warning}")
    lists = {name: list(getattr(change, name)) for name in ("started", "stopped", "restarted", "settings")}
    kept = {uri: list(users.users) for uri, users in change.kept.items()}
    if console.format == "json":
        console.json(lists | {"kept": kept, "saved": change.saved, "warnings": list(change.warnings)})
        return
    will = "would be " if planned else ""
    for name in ("stopped", "started", "restarted"):
        for uri in lists[name]:
            print(f"{will}{name}: {uri}")
    for uri, users in kept.items():
        print(f"unchanged until the daemon restarts: {uri}, used by {', '.join(users)}")
    for key in lists["settings"]:
        print(f"counts after a restart of the daemon only: {key}")
    if change.saved:
        print(f"saved in {change.saved}")
    if not any(lists.values()) and not kept and not change.saved:
        print("nothing changed" if not planned else "nothing would change")
