# SPDX-License-Identifier: Apache-2.0
"""``orlop plugins doctor``: each root cause once, with what it keeps from running, and what to do about it."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from orlop_cli.admin import Shown
from orlop_cli.console import Console

#: Plugins that took longest to come up, to name.
_SLOWEST: Final = 5
#: Seconds for a socket to take a connection.
_PATIENCE: Final = 2.0
_BINARY: Final = re.compile(r'"?([\w./-]+)"?: (?:not found in|no such (?:file|program)|command not found)')
_MODULE: Final = re.compile(r"modprobe ([\w-]+)|\b([\w-]+) (?:is )?not in /proc/filesystems")


def report(plugins: Sequence[Shown], console: Console) -> int:
    """Print findings; the exit status is 1 when something has failed or does not answer."""
    findings = [*_causes(plugins), *_silent(plugins)]
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
        found.append(_finding(severity, plugin.uri, f"{plugin.state}: {plugin.reason}", _remedy(plugin), victims))
    return found


def _remedy(plugin: Shown) -> str:
    if plugin.state == "disabled":
        return f"orlop plugins enable {plugin.uri}"
    if match := _MODULE.search(plugin.reason):
        module = match[1] or match[2]
        there = any(line.split()[-1] == module for line in Path("/proc/filesystems").read_text().splitlines())
        again = f"orlop plugins enable {plugin.uri}"
        return again if there else f"load the kernel module: modprobe {module}; then {again}"
    if match := _BINARY.search(plugin.reason):
        name = match[1]
        return "" if shutil.which(name) else f"install {name}; then orlop plugins enable {plugin.uri}"
    return ""


def _silent(plugins: Sequence[Shown]) -> list[dict[str, Any]]:
    """Parts in other processes whose sockets take no connection; as seen from here."""
    found = []
    for plugin in plugins:
        address = plugin.exports.get("address", "").removeprefix("unix://")
        if plugin.state != "ok" or not address.startswith("/"):
            continue
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_PATIENCE)
                probe.connect(address)
        except OSError as error:
            problem = f"its socket {address} does not answer: {error.strerror or error}"
            found.append(_finding("error", plugin.uri, problem, "start the program that serves it", []))
    return found


def _finding(severity: str, plugin: str, problem: str, remedy: str, affects: list[str]) -> dict[str, Any]:
    return {"severity": severity, "plugin": plugin, "problem": problem, "remedy": remedy, "affects": affects}
