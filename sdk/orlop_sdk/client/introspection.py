# SPDX-License-Identifier: Apache-2.0
"""What a daemon says of itself: its version, whether it is well, its plugins.

::

    for plugin in await client.introspection.plugins(["type==io.containerd.snapshotter.v1"]):
        print(plugin.id, "ok" if plugin.error is None else plugin.error)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from google.protobuf.empty_pb2 import Empty

from orlop.errors import OrlopError
from orlop.values import EMPTY, AnyMessage, Platform
from orlop_sdk.api.services.introspection.v1 import introspection_pb2
from orlop_sdk.convert.common import any_from_wire, any_to_wire, platform_from_wire, time_from_wire
from orlop_sdk.rpc.channel import Channel
from orlop_sdk.rpc.status import from_status
from orlop_sdk.rpc.stub import Stub

_HEALTH: Final = "/grpc.health.v1.Health/Check"
_SERVING: Final = 1


@dataclass(frozen=True, slots=True)
class Version:
    """What the daemon was built from."""

    version: str
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plugin of a daemon. ``error`` says why it does not run, if it does not; skipped ones have one, too."""

    type: str
    id: str
    requires: tuple[str, ...] = ()
    platforms: tuple[Platform, ...] = ()
    exports: Mapping[str, str] = EMPTY
    capabilities: tuple[str, ...] = ()
    error: OrlopError | None = None

    @property
    def uri(self) -> str:
        """Type and id in one, as configuration files name it."""
        return f"{self.type}.{self.id}"

    @property
    def skipped(self) -> bool:
        """Whether it does not run because this host lacks what it needs, which is no failure."""
        return self.error is not None and "skip plugin" in str(self.error)


@dataclass(frozen=True, slots=True)
class Deprecation:
    """A deprecated feature that was used on the daemon."""

    id: str
    message: str
    last_occurrence: datetime


@dataclass(frozen=True, slots=True)
class Server:
    """Who the daemon is. ``pid`` is as seen in its own pid namespace, ``pidns``."""

    uuid: str
    pid: int = 0
    pidns: int = 0
    deprecations: tuple[Deprecation, ...] = field(default=())


class Introspection(Protocol):
    """What a client asks a daemon about itself."""

    async def version(self) -> Version:
        """The daemon's version."""
        ...

    async def healthy(self) -> bool:
        """Whether it calls itself well. Raises `Unavailable` when it does not answer."""
        ...

    async def server(self) -> Server:
        """Who it is."""
        ...

    async def plugins(self, filters: Sequence[str] = ()) -> list[Plugin]:
        """Its plugins that match any of the filters (type, id), running or not."""
        ...

    async def plugin_info(self, type: str, id: str, options: AnyMessage | None = None) -> AnyMessage | None:
        """What a plugin tells about itself. Raises `NotFound`, `Unimplemented` where it tells nothing."""
        ...


class RemoteIntrospection:
    """Introspection of a daemon over a channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stub = Stub(channel, "containerd.services.introspection.v1.Introspection")
        self._version = Stub(channel, "containerd.services.version.v1.Version")

    async def version(self) -> Version:
        answer = await self._version.Version(Empty())
        return Version(answer.version, answer.revision)

    async def healthy(self) -> bool:
        from grpc.aio import AioRpcError

        from orlop_sdk.rpc.stub import from_grpc

        # The health service's messages: an empty request asks for the whole server, field 1 of the answer is a status.
        call = self._channel.unary_unary(_HEALTH, Empty.SerializeToString, bytes)
        try:
            answer = await call(Empty())
        except AioRpcError as error:
            raise from_grpc(error) from error
        data = answer if isinstance(answer, bytes) else answer.SerializeToString()
        return bytes(data[:2]) == bytes((0x08, _SERVING))

    async def server(self) -> Server:
        answer = await self._stub.Server(Empty())
        warnings = tuple(
            Deprecation(each.id, each.message, time_from_wire(each.last_occurrence)) for each in answer.deprecations
        )
        return Server(answer.uuid, answer.pid, answer.pidns, warnings)

    async def plugins(self, filters: Sequence[str] = ()) -> list[Plugin]:
        answer = await self._stub.Plugins(introspection_pb2.PluginsRequest(filters=filters))
        return [_plugin(each) for each in answer.plugins]

    async def plugin_info(self, type: str, id: str, options: AnyMessage | None = None) -> AnyMessage | None:
        request = introspection_pb2.PluginInfoRequest(type=type, id=id, options=any_to_wire(options))
        return any_from_wire((await self._stub.PluginInfo(request)).extra)


def _plugin(message: Any) -> Plugin:
    return Plugin(
        type=message.type,
        id=message.id,
        requires=tuple(message.requires),
        platforms=tuple(platform_from_wire(each) for each in message.platforms),
        exports=dict(message.exports),
        capabilities=tuple(message.capabilities),
        error=from_status(message.init_err) if message.init_err.code else None,
    )


_: type[Introspection] = RemoteIntrospection
