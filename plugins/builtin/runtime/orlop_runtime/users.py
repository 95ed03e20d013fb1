# SPDX-License-Identifier: Apache-2.0
"""Tells whose tasks and sandboxes would be left alone without what keeps them, or the launcher of their shims."""

from __future__ import annotations

from collections.abc import Mapping

from orlop.hooks import hookimpl
from orlop.interfaces.runtime import RUNTIME, SHIM, Runtime, ShimLauncher
from orlop.interfaces.sandbox import SANDBOX_CONTROLLER, SandboxController
from orlop_runtime.runtime import TaskRuntime
from orlop_runtime.sandbox import ShimSandboxes


class TaskUsers:
    """The tasks and sandboxes there are, as users of plugins. All arguments are live views."""

    def __init__(
        self,
        runtimes: Mapping[str, Runtime],
        launchers: Mapping[str, ShimLauncher],
        controllers: Mapping[str, SandboxController],
    ) -> None:
        self._runtimes = runtimes
        self._launchers = launchers
        self._controllers = controllers

    @hookimpl
    def orlop_plugin_users(self, uri: str) -> list[str]:
        found = []
        for id, runtime in self._runtimes.items():
            for task in runtime.tasks() if isinstance(runtime, TaskRuntime) else ():
                launcher = next((name for name, each in self._launchers.items() if each is task.keep.launcher), "")
                if uri in (f"{RUNTIME.name}.{id}", f"{SHIM.name}.{launcher}"):
                    found.append(f'task "{task.namespace}/{task.id}"')
        for id, controller in self._controllers.items():
            for name, used in controller.running() if isinstance(controller, ShimSandboxes) else ():
                launcher = next((name for name, each in self._launchers.items() if each is used), "")
                if uri in (f"{SANDBOX_CONTROLLER.name}.{id}", f"{SHIM.name}.{launcher}"):
                    found.append(f'sandbox "{name}"')
        return found
