# SPDX-License-Identifier: Apache-2.0
"""``orlop.plugins.v1.Plugins``: the verbs of `orlop.plugin.Plugins`, remotely, and saved in the config if so wanted."""

from __future__ import annotations

import tomllib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from orlop.blocking import run_blocking
from orlop.errors import InvalidArgument
from orlop.plugin import Change, Plugins, PluginStatus
from orlop_sdk import filters
from orlop_sdk.api.orlop.plugins.v1 import plugins_pb2 as pb
from orlop_sdk.rpc.service import Service
from orlop_services.services.saving import Saving

#: Who it was when a client does not say.
_SOMEBODY = "the operator"


class PluginAdminService(Service):
    """Looks at plugins and changes them. *config* is the path of the main config file, empty when there is none."""

    service = "orlop.plugins.v1.Plugins"

    def __init__(self, plugins: Plugins, config: str) -> None:
        self._plugins = plugins
        self._config = config

    async def List(self, request: pb.ListRequest) -> pb.ListResponse:
        wanted = filters.parse(list(request.filters))
        shown = [
            _plugin(status)
            for status in self._plugins.statuses()
            if wanted.match(filters.fields({"type": status.type, "id": status.id, "state": status.state}))
        ]
        return pb.ListResponse(plugins=shown)

    async def Enable(self, request: pb.EnableRequest) -> pb.Change:
        saving = await self._saving(request.save, lambda saving: saving.check_enable(request.uri))
        change = self._plugins.enable(request.uri)
        return await _done(change, saving, lambda saving: saving.enable(request.uri))

    async def Disable(self, request: pb.DisableRequest) -> pb.Change:
        saving = await self._saving(request.save)
        change = self._plugins.disable(
            request.uri, by=request.by or _SOMEBODY, cascade=request.cascade, force=request.force
        )
        return await _done(change, saving, lambda saving: saving.disable(request.uri))

    async def Reload(self, request: pb.ReloadRequest) -> pb.Change:
        table = _table(request)
        if request.save and table is None:
            raise InvalidArgument(f'plugin "{request.uri}": without a new config there is nothing to save')
        saving = await self._saving(request.save)
        change = self._plugins.reload(request.uri, table, cascade=request.cascade, force=request.force)
        return await _done(change, saving, lambda saving: saving.table("plugins", request.uri, table=table or {}))

    async def Add(self, request: pb.AddRequest) -> pb.Change:
        table = _table(request)
        saving = await self._saving(request.save)
        if request.proxy and not request.uri:
            change = self._plugins.add_proxy(request.proxy, table or {})
            return await _done(
                change, saving, lambda saving: saving.table("proxy_plugins", request.proxy, table=table or {})
            )
        if not request.uri or not request.target or request.proxy:
            raise InvalidArgument("add: give either a URI with module:attribute, or the name of a proxy plugin")

        def save(saving: Saving) -> None:
            saving.module(request.uri, request.target)
            if table is not None:
                saving.table("plugins", request.uri, table=table)

        return await _done(self._plugins.add_module(request.uri, request.target, table), saving, save)

    async def Remove(self, request: pb.RemoveRequest) -> pb.Change:
        saving = await self._saving(request.save, lambda saving: saving.check_remove(request.uri))
        change = self._plugins.remove(request.uri, cascade=request.cascade, force=request.force)
        return await _done(change, saving, lambda saving: saving.remove(request.uri))

    async def ReloadConfig(self, request: pb.ReloadConfigRequest) -> pb.Change:
        return await _done(self._plugins.reload_config(dry_run=request.dry_run, force=request.force), None)

    async def _saving(self, save: bool, check: Callable[[Saving], None] | None = None) -> Saving | None:
        """Where to save, if at all; raises, before anything is changed, when that cannot be."""
        if not save:
            return None
        saving = await run_blocking(Saving, self._config)
        if check is not None:
            check(saving)
        return saving


async def _done(
    change: Awaitable[Change], saving: Saving | None, save: Callable[[Saving], None] | None = None
) -> pb.Change:
    done = await change
    if saving is not None and save is not None:
        await run_blocking(save, saving)
    return pb.Change(
        started=done.started,
        stopped=done.stopped,
        restarted=done.restarted,
        kept={uri: pb.Users(users=users) for uri, users in done.kept.items()},
        settings=done.settings,
        warnings=done.warnings,
        saved=str(saving.file) if saving is not None else "",
    )


def _table(request: pb.ReloadRequest | pb.AddRequest) -> Mapping[str, Any] | None:
    if not request.HasField("config"):
        return None
    try:
        return tomllib.loads(request.config)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"config: not valid TOML: {error}") from error


def _plugin(status: PluginStatus) -> pb.Plugin:
    return pb.Plugin(
        type=status.type,
        id=status.id,
        state=status.state,
        reason=status.reason,
        cause=status.cause,
        origin=status.origin,
        requires=status.requires,
        platforms=status.platforms,
        capabilities=status.capabilities,
        exports=dict(status.exports),
        seconds=status.seconds,
    )
