# SPDX-License-Identifier: Apache-2.0
"""``orlop plugins doctor``: each root cause once, with what it keeps from running, and what to do about it."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from orlop.interfaces.introspection import INTERNAL
from orlop.interfaces.stream import STREAM_PROCESSOR
from orlop_cli.admin import Shown
from orlop_cli.console import Console

#: Plugins that took longest to come up, to name.
_SLOWEST: Final = 5
#: Seconds for a socket to take a connection.
_PATIENCE: Final = 2.0
#: The directory of programs that ``ctr install`` puts there while the daemon runs.
_OPT: Final = f"{INTERNAL.name}.opt"
_MODULE: Final = re.compile(r"modprobe ([\w-]+)|kernel module ([\w-]+)")


def report(plugins: Sequence[Shown], console: Console) -> int:
    """Print findings; the exit status is 1 when something has failed or does not answer."""
    findings = [*_causes(plugins), *_silent(plugins), *_missing(plugins)]
    slow = sorted((plugin for plugin in plugins if plugin.seconds > 0), key=lambda plugin: -plugin.seconds)[:_SLOWEST]
    bad = any(finding["severity"] == "error" for finding in findings)
    if console.format == "json":
        console.json({"findings": findings, "slowest": {plugin.uri: plugin.seconds for plugin in slow}})
        return int(bad)
    for finding in findings:
        print(f"{finding['severity']}: {finding['plugin']}: {finding['problem']}")
        if finding["remedy"]:
            print(f"  remedy: {finding['remedy']}")
        for uri in finding["affects"]:
            print(f"  keeps from running: {uri}")
    if not findings:
        print(f"all {len(plugins)} plugins are well")
    for plugin in slow:
        print(f"took {plugin.seconds * 1e3:.0f} ms to come up: {plugin.uri}")
    return int(bad)


def _causes(plugins: Sequence[Shown]) -> list[dict[str, Any]]:
    uris = {plugin.uri for plugin in plugins}
    affected: dict[str, list[str]] = {}
    for plugin in plugins:
        if plugin.state != "ok" and plugin.cause not in ("", plugin.uri):
            affected.setdefault(plugin.cause, []).append(plugin.uri)
    found = [
        _finding(
            "error",
            cause,
            "is needed, and no installed distribution provides it",
            "install a distribution that does, or disable what needs it",
            victims,
        )
        for cause, victims in affected.items()
        if cause not in uris
    ]
    for plugin in plugins:
        victims = affected.get(plugin.uri, [])
        own = plugin.cause in ("", plugin.uri)
        # Disabled by intention: worth a word only where something else does not run for it.
        if plugin.state == "ok" or not own or (plugin.state == "disabled" and not victims):
            continue
        severity = "error" if plugin.state == "failed" else "note"
        # Reasons are worded ``what; remedy``.
        problem, _, words = plugin.reason.removesuffix(": skip plugin").partition("; ")
        remedy = _remedy(plugin) or words
        found.append(_finding(severity, plugin.uri, f"{plugin.state}: {problem}", remedy, victims))
    return found


def _remedy(plugin: Shown) -> str:
    """What can be said better than by the plugin itself, which does not know what was mended meanwhile."""
    again = f"orlop plugins enable {plugin.uri}"
    if plugin.state == "disabled":
        return again
    if match := _MODULE.search(plugin.reason):
        module = match[1] or match[2]
        return again if _loaded(module) else f"load the kernel module: modprobe {module}; then {again}"
    return ""


def _loaded(module: str) -> bool:
    """Whether the running kernel has a module, built in or not."""
    lines = Path("/proc/filesystems").read_text().splitlines()
    return any(line.split()[-1] == module for line in lines) or Path("/sys/module", module).exists()


def _silent(plugins: Sequence[Shown]) -> list[dict[str, Any]]:
    """Parts in other processes whose sockets take no connection; as seen from here."""
    found = []
    for plugin in plugins:
        address = plugin.exports.get("address", "").removeprefix("unix://")
        if plugin.state != "ok" or not address.startswith("/") or plugin.type == STREAM_PROCESSOR.name:
            continue
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_PATIENCE)
                probe.connect(address)
        except OSError as error:
            problem = f"its socket {address} does not answer: {error.strerror or error}"
            found.append(_finding("error", plugin.uri, problem, "start the program that serves it", []))
    return found


def _missing(plugins: Sequence[Shown]) -> list[dict[str, Any]]:
    """Programs that plugins start and that are not there; as seen from here."""
    opt = "".join(f":{plugin.exports['path']}/bin" for plugin in plugins if plugin.uri == _OPT and plugin.exports)
    path = os.environ.get("PATH", os.defpath) + opt
    return [
        _finding(
            "error",
            plugin.uri,
            f"the program that it starts is not installed: {' or '.join(names)}",
            f"install {' or '.join(names)} where the daemon's PATH leads, or mend its config",
            [],
        )
        for plugin in plugins
        for names in _programs(plugin)
        if plugin.state == "ok" and not any(shutil.which(name, path=path) for name in names)
    ]


def _programs(plugin: Shown) -> Iterator[list[str]]:
    """What a plugin needs programs for, and the names of those that will do."""
    if plugin.type == STREAM_PROCESSOR.name and "address" in plugin.exports:
        yield [plugin.exports["address"]]
    for names in filter(None, plugin.exports.get("programs", "").split(",")):
        yield names.split("|")


def _finding(severity: str, plugin: str, problem: str, remedy: str, affects: list[str]) -> dict[str, Any]:
    return {"severity": severity, "plugin": plugin, "problem": problem, "remedy": remedy, "affects": affects}
