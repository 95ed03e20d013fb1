# SPDX-License-Identifier: Apache-2.0
"""``orlopd oci-hook``: run a program as an OCI hook with the container's state written into its arguments.

The state is the JSON that OCI runtimes give hooks on standard input. Arguments and environment may hold
``{{id}}``, ``{{bundle}}``, ``{{rootfs}}``, ``{{pid}}``, ``{{status}}`` and ``{{annotation "key"}}``.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

_FIELD: Final = re.compile(r'\{\{\s*(?:(\w+)|annotation\s+("(?:[^"\\]|\\.)*"|`[^`]*`))\s*\}\}|\{\{')


class BadHook(Exception):
    """The hook cannot be run; the text says why."""


def oci_hook(program: Sequence[str]) -> int:
    """Replace this process by the program; returns (with status 1) only if that fails."""
    words = list(program[1:] if program[:1] == ["--"] else program)
    try:
        if not words:
            raise BadHook("no program to run; write: orlopd oci-hook -- PROGRAM ARGUMENT...")
        state = _state(sys.stdin.read())
        arguments = [expand(word, state) for word in words]
        environment = {name: expand(value, state) for name, value in os.environ.items()}
        os.execvpe(arguments[0], arguments, environment)  # noqa: S606  # to become the hook is the purpose
    except OSError as error:
        reason = f'program "{words[0]}": {error.strerror}'
    except BadHook as error:
        reason = str(error)
    sys.stderr.write(f"orlopd: oci-hook: {reason}\n")
    return 1


def expand(text: str, state: dict[str, Any]) -> str:
    """The text with its fields filled in. Raises `BadHook` for a field that does not exist."""

    def fill(match: re.Match[str]) -> str:
        name, key = match[1], match[2]
        if key is not None:
            word = json.loads(key) if key.startswith('"') else key[1:-1]
            return str(state.get("annotations", {}).get(word, ""))
        if name not in _FIELDS:
            raise BadHook(f"template {text!r}: there is no field {name or match[0]!r}; there are {', '.join(_FIELDS)}")
        return _FIELDS[name](state)

    return _FIELD.sub(fill, text)


def _state(text: str) -> dict[str, Any]:
    try:
        state = json.loads(text)
    except ValueError as error:
        raise BadHook(f"standard input: not the JSON of a container's state: {error}") from error
    if not isinstance(state, dict):
        raise BadHook("standard input: not the JSON of a container's state")
    return state


def _rootfs(state: dict[str, Any]) -> str:
    bundle = Path(state.get("bundle", ""))
    try:
        root = json.loads((bundle / "config.json").read_text())["root"]["path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadHook(f'bundle "{bundle}": its config.json does not name a root file system: {error!r}') from error
    return str(bundle / root)


_FIELDS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "id": lambda state: str(state.get("id", "")),
    "bundle": lambda state: str(state.get("bundle", "")),
    "rootfs": _rootfs,
    "pid": lambda state: str(state.get("pid", 0)),
    "status": lambda state: str(state.get("status", "")),
}
