# SPDX-License-Identifier: Apache-2.0
"""Tells whose tasks would be left alone without the runtime, or without the launcher of their shims."""

from __future__ import annotations

from collections.abc import Mapping

from orlop.hooks import hookimpl
from orlop.interfaces.runtime import RUNTIME, SHIM, Runtime, ShimLauncher
from orlop_runtime.runtime import TaskRuntime


class TaskUsers:
    """The tasks there are, as users of plugins. Both arguments are live views."""

    def __init__(self, runtimes: Mapping[str, Runtime], launchers: Mapping[str, ShimLauncher]) -> None:
        self._runtimes = runtimes
        self._launchers = launchers

    @hookimpl
    def orlop_plugin_users(self, uri: str) -> list[str]:
        found = []
        for id, runtime in self._runtimes.items():
            for task in runtime.tasks() if isinstance(runtime, TaskRuntime) else ():
                launcher = next((name for name, each in self._launchers.items() if each is task.keep.launcher), "")
                if uri in (f"{RUNTIME.name}.{id}", f"{SHIM.name}.{launcher}"):
                    found.append(f'task "{task.namespace}/{task.id}"')
        return found
