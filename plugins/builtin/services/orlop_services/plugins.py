# SPDX-License-Identifier: Apache-2.0
"""The registrations of this room. What they make is imported in the factories, so listing them costs nothing.

Each service requires its own back end and nothing else: where that is off, one service is, for that one reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orlop.errors import SkipPlugin
from orlop.hooks import hook, hookimpl
from orlop.interfaces.differ import DIFF_SERVICE
from orlop.interfaces.event import EVENT
from orlop.interfaces.introspection import INTERNAL, Part
from orlop.interfaces.metadata import METADATA
from orlop.interfaces.mount import MOUNT_MANAGER
from orlop.interfaces.observer import METRICS
from orlop.interfaces.rpc import GRPC_SERVICE, SERVER, TTRPC_SERVICE, RpcMethod, RpcService, Server
from orlop.interfaces.sandbox import SANDBOX_CONTROLLER
from orlop.interfaces.streaming import STREAMING
from orlop.interfaces.task import TASKS
from orlop.interfaces.transfer import TRANSFER
from orlop.plugin import InitContext, NoConfig, Plugins
from orlop_services.opt import Opt, OptConfig
from orlop_services.servers.config import GrpcConfig, TcpConfig, TtrpcConfig

Context = InitContext[NoConfig]


@GRPC_SERVICE.plugin("containers", requires=(METADATA,))
async def containers(ctx: Context) -> RpcService:
    """Container records."""
    from orlop_services.services.containers import ContainersService

    return ContainersService(ctx.get(METADATA).containers)


@GRPC_SERVICE.plugin("content", requires=(METADATA,))
async def content(ctx: Context) -> RpcService:
    """Blobs and ingests."""
    from orlop_sdk.serving.content import ContentService

    return ContentService(ctx.get(METADATA).content)


@GRPC_SERVICE.plugin("diff", requires=(DIFF_SERVICE.exact("diff-service"),))
async def diff(ctx: Context) -> RpcService:
    """Layers to trees and back."""
    from orlop_sdk.serving.diff import DiffService

    return DiffService(ctx.get(DIFF_SERVICE, "diff-service"))


@GRPC_SERVICE.plugin("events", requires=(EVENT,))
async def events(ctx: Context) -> RpcService:
    """Events, for clients."""
    from orlop_services.services.events import EventsService

    return EventsService(ctx.get(EVENT))


@TTRPC_SERVICE.plugin("events", requires=(EVENT,))
async def shim_events(ctx: Context) -> RpcService:
    """Events, from shims."""
    from orlop_services.services.events import ShimEventsService

    return ShimEventsService(ctx.get(EVENT))


@GRPC_SERVICE.plugin("healthcheck")
async def healthcheck(_ctx: Context) -> RpcService:
    """The standard health service."""
    from orlop_services.services.health import HealthService

    return HealthService()


@GRPC_SERVICE.plugin("images", requires=(METADATA,))
async def images(ctx: Context) -> RpcService:
    """Image records."""
    from orlop_services.services.images import ImagesService

    return ImagesService(ctx.get(METADATA).images)


@GRPC_SERVICE.plugin("introspection")
async def introspection(ctx: Context) -> RpcService:
    """The daemon and its plugins, described."""
    from orlop_services.services.introspection import IntrospectionService

    return IntrospectionService(ctx.plugins, lambda: ctx.root)


@GRPC_SERVICE.plugin("leases", requires=(METADATA,))
async def leases(ctx: Context) -> RpcService:
    """Leases and what they keep."""
    from orlop_services.services.leases import LeasesService

    return LeasesService(ctx.get(METADATA).leases)


@GRPC_SERVICE.plugin("mounts", requires=(MOUNT_MANAGER,))
async def mounts(ctx: Context) -> RpcService:
    """Mounts that need help."""
    from orlop_services.services.mounts import MountsService

    return MountsService(ctx.get(MOUNT_MANAGER))


@GRPC_SERVICE.plugin("namespaces", requires=(METADATA,))
async def namespaces(ctx: Context) -> RpcService:
    """Namespaces."""
    from orlop_services.services.namespaces import NamespacesService

    return NamespacesService(ctx.get(METADATA).namespaces)


@GRPC_SERVICE.plugin("orlop-plugins")
async def plugin_admin(ctx: Context) -> RpcService:
    """The plugins of the running daemon, to look at and to change."""
    from orlop_services.services.plugin_admin import PluginAdminService

    return PluginAdminService(ctx.plugins, ctx.properties.get("config.path", ""))


@GRPC_SERVICE.plugin("sandbox-controllers", requires=(METADATA, EVENT, SANDBOX_CONTROLLER.optional()))
async def sandbox_controllers(ctx: Context) -> RpcService:
    """Sandboxes that run."""
    from orlop_services.services.sandbox_controllers import SandboxControllersService

    service = SandboxControllersService(ctx.all(SANDBOX_CONTROLLER), ctx.get(METADATA), ctx.get(EVENT))
    service.resume()
    return service


@GRPC_SERVICE.plugin("sandboxes", requires=(METADATA,))
async def sandboxes(ctx: Context) -> RpcService:
    """Sandbox records."""
    from orlop_services.services.sandboxes import SandboxesService

    return SandboxesService(ctx.get(METADATA).sandboxes)


@GRPC_SERVICE.plugin("snapshots", requires=(METADATA,))
async def snapshots(ctx: Context) -> RpcService:
    """Snapshots of all snapshotters."""
    from orlop_sdk.serving.snapshots import SnapshotsService

    return SnapshotsService(ctx.get(METADATA).snapshotters)


@GRPC_SERVICE.plugin("streaming", requires=(STREAMING.exact("manager"),))
async def streaming(ctx: Context) -> RpcService:
    """Streams that other calls refer to."""
    from orlop_services.services.streaming import StreamingService

    return StreamingService(ctx.get(STREAMING, "manager"))


@GRPC_SERVICE.plugin("tasks", requires=(TASKS.exact("tasks-service"),))
async def tasks(ctx: Context) -> RpcService:
    """Tasks and their processes."""
    from orlop_services.services.tasks import TasksService

    return TasksService(ctx.get(TASKS, "tasks-service"))


@GRPC_SERVICE.plugin("transfer", requires=(TRANSFER, STREAMING.exact("manager")))
async def transfer(ctx: Context) -> RpcService:
    """Images from one place to another, within the daemon."""
    from orlop_services.services.transfer import TransferService

    return TransferService(ctx.all(TRANSFER), ctx.get(STREAMING, "manager"))


@GRPC_SERVICE.plugin("version")
async def version(ctx: Context) -> RpcService:
    """Which program this is."""
    from orlop_services.services.version import VersionService

    return VersionService(ctx.properties.get("version", ""), ctx.properties.get("revision", ""))


@INTERNAL.plugin("opt", config=OptConfig)
async def opt(ctx: InitContext[OptConfig]) -> Part:
    """A directory for programs that are installed while the daemon runs."""
    ctx.export("path", ctx.config.path)
    return await Opt.make(Path(ctx.config.path))


class Clients:
    """Tells who is cut off without a server or without the service that could bring it back."""

    def __init__(self, plugins: Plugins, admin: str) -> None:
        self._plugins, self._admin = plugins, admin

    @hookimpl
    def orlop_plugin_users(self, uri: str) -> list[str]:
        instance = self._plugins.instance(uri)
        if uri.startswith(f"{SERVER.name}."):
            return [f"every client of {getattr(instance, 'address', uri)}"]
        return ["the operator, whom this service lets change plugins"] if uri == self._admin else []


@hook("clients")
async def clients(ctx: Context) -> object:
    """Keeps the ways to the daemon open."""
    return Clients(ctx.plugins, plugin_admin.uri)


def _observed(ctx: InitContext[Any], methods: Mapping[str, RpcMethod], transport: str) -> Mapping[str, RpcMethod]:
    from orlop_sdk.rpc.observed import Observed

    return Observed(methods, ctx.all(METRICS), transport)


@SERVER.plugin("grpc", config=GrpcConfig, requires=(GRPC_SERVICE.optional(), METRICS.optional()))
async def grpc_server(ctx: InitContext[GrpcConfig]) -> Server:
    """Clients' unix socket."""
    from orlop_services.servers.grpc import UnixServer
    from orlop_services.servers.table import LiveTable

    return UnixServer(ctx.config, _observed(ctx, LiveTable(ctx.all(GRPC_SERVICE), ctx.log), "grpc"))


@SERVER.plugin("grpc-tcp", config=TcpConfig, requires=(GRPC_SERVICE.optional(), METRICS.optional()))
async def grpc_tcp_server(ctx: InitContext[TcpConfig]) -> Server:
    """Clients' TCP port, for services that may be reached from other hosts."""
    if not ctx.config.address:
        raise SkipPlugin(f'no address; to listen on TCP set [plugins."{ctx.uri}"] address = "127.0.0.1:10010"')
    from orlop_services.servers.grpc_tcp import TcpServer
    from orlop_services.servers.table import LiveTable, Offered

    if not ctx.config.tls_ca:
        ctx.log.warning(
            "whoever reaches %s may call what it offers%s; set tls_ca, tls_cert and tls_key to ask for certificates",
            ctx.config.address,
            "" if ctx.config.tls_cert else ", and nothing is encrypted",
        )
    table = LiveTable(Offered(ctx.all(GRPC_SERVICE), ctx.plugins, "tcp"), ctx.log)
    return TcpServer(ctx.config, _observed(ctx, table, "grpc"))


@SERVER.plugin("ttrpc", config=TtrpcConfig, requires=(TTRPC_SERVICE.optional(), METRICS.optional()))
async def ttrpc_server(ctx: InitContext[TtrpcConfig]) -> Server:
    """Shims' unix socket."""
    from orlop_services.servers.table import LiveTable
    from orlop_services.servers.ttrpc import TtrpcServer

    return TtrpcServer(ctx.config, _observed(ctx, LiveTable(ctx.all(TTRPC_SERVICE), ctx.log), "ttrpc"))
