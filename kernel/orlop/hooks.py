# SPDX-License-Identifier: Apache-2.0
"""Hooks: the points where any number of plugins may comment on what others do.

A thing with one owner is an interface; a remark that many may make is a hook. Implementations are plain functions,
marked with `hookimpl`, on an object that is a plugin of type ``io.orlop.hook.v1`` (group ``orlop.hook.v1``). They get
their arguments by name and may leave out those they do not need. They run on the event loop and must not block.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pluggy

from orlop.errors import LoadError
from orlop.plugin import PluginStatus, PluginType

NAME: Final = "orlop"
hookspec = pluggy.HookspecMarker(NAME)
hookimpl = pluggy.HookimplMarker(NAME)
"""Marks an implementation of a hook."""

HOOK: Final = PluginType("io.orlop.hook.v1", object, group="orlop.hook.v1", many=True)
hook = HOOK.plugin
"""Decorator that declares a plugin whose instance carries hook implementations."""

_log = logging.getLogger("orlop.hooks")


class Hooks:
    """The hooks there are. Documentation of each is the contract."""

    @hookspec(firstresult=True)
    def orlop_stream_processor(self, media_type: str, candidates: list[str]) -> str | None:
        """Choose among the stream processors (ids) that claim a media type. None: no opinion; the first is taken."""

    @hookspec(firstresult=True)
    def orlop_log_uri(self, uri: str, namespace: str, container: str) -> str | None:
        """Replace the log URI of a process that is about to be created. None: leave it."""

    @hookspec
    def orlop_adjust_spec(self, namespace: str, container: str, spec: dict[str, Any]) -> None:
        """Change a container's OCI runtime spec, in place, before its task is created. Raise to refuse it."""

    @hookspec
    def orlop_shim_call(self, path: str, metadata: dict[str, str]) -> Callable[[BaseException | None], None] | None:
        """Watch a call to a shim (``/package.Service/Method``) that is about to be made; must be quick, never raise.

        What it puts into *metadata* travels with the call. What it returns is called once, with what the call raised.
        """

    @hookspec
    def orlop_plugin_users(self, uri: str) -> list[str] | Awaitable[list[str]]:
        """Name what would be lost or stuck without the plugin *uri*: containers, running tasks (``container "a/b"``).

        A plugin that has such users is not stopped unless the operator insists. May return an awaitable.
        """
        return []

    @hookspec
    def orlop_plugin_state(self, status: PluginStatus) -> None:
        """Watch plugins change state."""


def manager() -> pluggy.PluginManager:
    """A fresh manager that knows the hooks above."""
    plugins = pluggy.PluginManager(NAME)
    plugins.add_hookspecs(Hooks)
    return plugins


def add(plugins: pluggy.PluginManager, implementation: object, uri: str, origin: str) -> None:
    """Register an object's hook implementations.

    Raises `LoadError` for a hook that does not exist, for ``async`` implementations (nobody would await them) and for
    keyword-only parameters (pluggy would not pass them).
    """
    for name in dir(implementation):
        if not getattr(getattr(implementation, name, None), f"{NAME}_impl", None):
            continue
        function = getattr(implementation, name)
        if inspect.iscoroutinefunction(function):
            raise LoadError(f"hook {name} is async; hooks are plain functions", plugin=uri, origin=origin)
        kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
        if inspect.Parameter.KEYWORD_ONLY in kinds:
            raise LoadError(f"hook {name} has keyword-only parameters; drop the *", plugin=uri, origin=origin)
        if not hasattr(Hooks, name):
            raise LoadError(f"hook {name} does not exist; see orlop.hooks.Hooks", plugin=uri, origin=origin)
    plugins.register(implementation, name=uri)
    _log.debug("hooks of %s registered", uri)
