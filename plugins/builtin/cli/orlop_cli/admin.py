# SPDX-License-Identifier: Apache-2.0
"""A daemon's plugins as the command sees them: from orlopd's admin service, or from any containerd's introspection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orlop.errors import FailedPrecondition, NotFound, Unimplemented
from orlop.values import EMPTY
from orlop_cli.console import Console

if TYPE_CHECKING:
    from orlop_sdk.client.introspection import Plugin
    from orlop_sdk.rpc.stub import Stub


@dataclass(frozen=True, slots=True)
class Shown:
    """One plugin. What only orlopd tells is empty for others: cause, origin and seconds, and disabled ones at all."""

    type: str
    id: str
    state: str
    reason: str = ""
    cause: str = ""
    origin: str = ""
    requires: Sequence[str] = ()
    platforms: Sequence[str] = ()
    capabilities: Sequence[str] = ()
    exports: Mapping[str, str] = EMPTY
    seconds: float = 0.0

    @property
    def uri(self) -> str:
        """Type and id in one."""
        return f"{self.type}.{self.id}"

    def row(self) -> dict[str, Any]:
        """What is printed of it."""
        return {name: getattr(self, name) for name in self.__slots__} | {"exports": dict(sorted(self.exports.items()))}


@asynccontextmanager
async def admin(console: Console) -> AsyncIterator[Stub]:
    """The admin service. A daemon that has none answers `FailedPrecondition`."""
    from orlop_sdk.client.connection import GrpcConnection, default_address
    from orlop_sdk.rpc.stub import Stub

    connection = GrpcConnection(console.address or default_address())
    try:
        yield Stub(await connection.open(), "orlop.plugins.v1.Plugins")
    except Unimplemented as error:
        raise FailedPrecondition(
            f"the daemon cannot change plugins while it runs ({error}); it is no orlopd, or that plugin is disabled"
        ) from error
    finally:
        await connection.close()


async def fetch(console: Console, filters: Sequence[str] = ()) -> list[Shown]:
    """All plugins that match any of the filters; of a daemon other than orlopd without the disabled ones."""
    from orlop_sdk.api.orlop.plugins.v1 import plugins_pb2 as pb

    try:
        async with admin(console) as stub:
            answer = await stub.List(pb.ListRequest(filters=filters))
    except FailedPrecondition:
        async with console.client() as client:
            return [_introspected(plugin) for plugin in await client.introspection.plugins(filters)]
    return [
        Shown(
            type=each.type,
            id=each.id,
            state=each.state,
            reason=each.reason,
            cause=each.cause,
            origin=each.origin,
            requires=list(each.requires),
            platforms=list(each.platforms),
            capabilities=list(each.capabilities),
            exports=dict(each.exports),
            seconds=each.seconds,
        )
        for each in answer.plugins
    ]


def _introspected(plugin: Plugin) -> Shown:
    state = "ok" if plugin.error is None else "skipped" if plugin.skipped else "failed"
    return Shown(
        type=plugin.type,
        id=plugin.id,
        state=state,
        reason=str(plugin.error) if plugin.error is not None else "",
        requires=plugin.requires,
        platforms=[str(platform) for platform in plugin.platforms],
        capabilities=plugin.capabilities,
        exports=plugin.exports,
    )


def named(plugins: Sequence[Shown], name: str) -> Shown:
    """The plugin with that URI or unique id. Raises `NotFound`."""
    found = [plugin for plugin in plugins if name in (plugin.uri, plugin.id)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFound(f'plugin "{name}": several have this id; say which: {", ".join(each.uri for each in found)}')
    raise NotFound(
        f'plugin "{name}": the daemon has none; orlop plugins ls lists those it has, and orlop config reload brings up '
        "those that were installed meanwhile"
    )


def needs(plugin: Shown, plugins: Sequence[Shown]) -> list[Shown]:
    """Those that a plugin requires, as far as they are there."""
    return [
        other
        for other in plugins
        if other is not plugin and any(need in (other.type, other.uri) for need in plugin.requires)
    ]


def chain(plugin: Shown, plugins: Sequence[Shown]) -> list[Shown]:
    """From a plugin that does not run down to the root cause, a step for each need; the root alone is its own cause."""
    steps = [plugin]
    while steps[-1].cause not in ("", steps[-1].uri):
        last = steps[-1]
        below = [each for each in needs(last, plugins) if each.state != "ok" and each not in steps]
        # Of several that do not run the one that leads to the root counts.
        step = next((each for each in below if last.cause in (each.uri, each.cause)), None)
        if step is None:
            break
        steps.append(step)
    return steps
