# SPDX-License-Identifier: Apache-2.0
"""``orlop config``: look at and check the daemon's config file, and have a daemon read it again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from orlop.config import Config, load
from orlop.discovery import AnyRegistration, discover
from orlop.errors import ConfigError, LoadError
from orlop.interfaces.introspection import COMMAND, CommandPlugin, command
from orlop.kernel import Kernel
from orlop.plugin import InitContext
from orlop_cli.commands import config_explain
from orlop_cli.console import Console
from orlop_sdk import configfile


class ConfigCommand:
    """``config default|dump|check|migrate|schema|diff|explain|reload``."""

    @property
    def summary(self) -> str:
        return "print, check, explain, migrate and reload the daemon's config"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        for name, text in (
            ("default", "what holds without any file, every key explained"),
            ("dump", "what holds with it: imports merged, migrated, with the line each came from"),
            ("check", "all faults at once, unknown keys included; exit status 1 if there are any"),
            ("migrate", "the file in the newest version of the format"),
            ("schema", "JSON Schema of the whole file, for editors"),
            ("diff", "what differs from the defaults, and the line that says so"),
            ("explain", "what a key is for, what it may hold, and what holds now"),
        ):
            action = actions.add_parser(name, help=text)
            action.add_argument("-c", "--config", type=Path, help="the file; /etc/containerd/config.toml if not given")
            if name == "explain":
                action.add_argument("key", help='such as plugins."io.containerd.gc.v1.scheduler".pause_threshold')
        reload = actions.add_parser("reload", help="have the daemon follow what has changed in its config files")
        reload.add_argument("--dry-run", action="store_true", help="only tell what would be done")
        reload.add_argument("--force", action="store_true", help="stop plugins in spite of what uses them")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        if arguments.action == "reload":
            console.run(config_explain.reload(arguments, console))
            return 0
        if arguments.action == "explain":
            return config_explain.explain(arguments.config, arguments.key, console)
        actions = {
            "diff": config_explain.diff,
            "default": _default,
            "dump": _dump,
            "check": _check,
            "migrate": _dump,
            "schema": _schema,
        }
        return actions[arguments.action](arguments.config, console)


def _default(file: Path | None, console: Console) -> int:
    print(configfile.default(_installed()), end="")
    return 0


def _dump(file: Path | None, console: Console) -> int:
    config = load(file)
    config.raise_faults()
    if console.format == "json":
        console.json(config.document.data)
    else:
        print(configfile.effective(config.document), end="")
    return 0


def _schema(file: Path | None, console: Console) -> int:
    console.json(configfile.schema(_installed()))
    return 0


def _check(file: Path | None, console: Console) -> int:
    faults = _faults(load(file, {("strict",): True}))
    if console.format == "json":
        console.json(faults)
    for fault in faults if console.format != "json" else ():
        print(fault)
    if not faults:
        console.remark("no faults")
    return 1 if faults else 0


def _faults(config: Config) -> list[str]:
    try:
        Kernel(config).select()
    except ConfigError as error:
        return [*error.faults, *config.findings.warnings]
    return list(config.findings.warnings)


def _installed() -> list[AnyRegistration]:
    found = []
    for candidate in discover().candidates.values():
        if candidate.type != COMMAND.name:
            try:
                found.append(candidate.load())
            except LoadError:  # what cannot be imported has no defaults; the daemon's plugin list says why
                continue
    return found


@command("config")
async def config(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop config``."""
    return ConfigCommand()
