# SPDX-License-Identifier: Apache-2.0
"""The plugins of this distribution: their configs and factories. Importing it loads no implementation."""

from __future__ import annotations

import sys
from pathlib import Path

from orlop import InitContext, PluginConfig
from orlop.errors import NotFound
from orlop.hooks import hook
from orlop.interfaces.event import EVENT
from orlop.interfaces.log import LOG_DRIVER, LogDriver, log_driver
from orlop.interfaces.metadata import METADATA, MetadataStore
from orlop.interfaces.mount import MOUNT_MANAGER
from orlop.interfaces.runtime import RUNTIME, SHIM, Runtime, ShimLauncher, runtime, shim_launcher
from orlop.interfaces.sandbox import SANDBOX_CONTROLLER, SandboxController, sandbox_controller
from orlop.interfaces.task import Tasks, tasks


class ShimManagerConfig(PluginConfig):
    """How shims are started."""

    env: tuple[str, ...] = ()
    """More environment variables for shims, each NAME=value."""
    socket_dir: str = ""
    """Absolute directory for the sockets of shims that can be told; their own choice when empty."""


class RuntimeConfig(PluginConfig):
    """The task runtime."""

    platforms: tuple[str, ...] = ()
    """Platforms whose containers it runs; the host's own when empty."""


class TasksConfig(PluginConfig):
    """The task service."""

    blockio_config_file: str = ""
    """Accepted for containerd's sake: block I/O classes are applied by the OCI runtime spec alone."""
    rdt_config_file: str = ""
    """Accepted for containerd's sake: RDT classes are applied by the OCI runtime spec alone."""


@shim_launcher("manager", config=ShimManagerConfig)
async def shim_manager(ctx: InitContext[ShimManagerConfig]) -> ShimLauncher:
    """Starts containerd-shim-* binaries."""
    from orlop_runtime.launcher import LauncherSettings, ShimManager

    return ShimManager(
        LauncherSettings(
            ttrpc_address=ctx.properties.get("ttrpc.address", ""),
            grpc_address=ctx.properties.get("grpc.address", ""),
            publish_binary=ctx.properties.get("publish.binary") or _daemon_binary(),
            environment=ctx.config.env,
            socket_dir=ctx.config.socket_dir,
            version=ctx.properties.get("version", ""),
            cleanup_timeout=ctx.timeout("io.containerd.timeout.shim.cleanup", 5.0),
            log=ctx.log,
        )
    )


@runtime("task", config=RuntimeConfig, requires=(SHIM, EVENT, METADATA.optional(), MOUNT_MANAGER.optional()))
async def task_runtime(ctx: InitContext[RuntimeConfig]) -> Runtime:
    """Keeps tasks; brings back those of an earlier daemon before anybody asks for them."""
    from orlop_runtime.mounts import RootMounts
    from orlop_runtime.recovery import restore
    from orlop_runtime.runtime import TaskRuntime, Timeouts

    timeouts = Timeouts(
        load=ctx.timeout("io.containerd.timeout.shim.load", 5.0),
        cleanup=ctx.timeout("io.containerd.timeout.shim.cleanup", 5.0),
        shutdown=ctx.timeout("io.containerd.timeout.shim.shutdown", 3.0),
    )
    ctx.export("log-uri-schemes", "fifo,binary,binary-v2,file")
    mounts = RootMounts(ctx.all(MOUNT_MANAGER))
    announce = ctx.hooks.orlop_shim_call
    made = TaskRuntime(ctx.state, ctx.root, ctx.all(SHIM), ctx.get(EVENT), timeouts, mounts, announce)
    stores = ctx.all(METADATA)

    async def recorded(id: str) -> str:
        for store in stores.values():
            return (await store.containers.get(id)).runtime.name
        raise NotFound(f'container "{id}": there is no metadata store')

    await restore(made, recorded)
    made.moves.anticipate()
    return made


@sandbox_controller("shim", requires=(SHIM,))
async def shim_sandboxes(ctx: InitContext[PluginConfig]) -> SandboxController:
    """Sandboxes of shims that serve the sandbox API; those of an earlier daemon are there when it is."""
    from orlop_runtime.runtime import GENERAL
    from orlop_runtime.sandbox import SandboxPlaces, ShimSandboxes

    places = SandboxPlaces(
        ctx.state,
        ctx.root,
        load=ctx.timeout("io.containerd.timeout.shim.load", 5.0),
        cleanup=ctx.timeout("io.containerd.timeout.shim.cleanup", 5.0),
        shutdown=ctx.timeout("io.containerd.timeout.shim.shutdown", 3.0),
    )
    made = ShimSandboxes(places, ctx.all(SHIM), GENERAL, ctx.hooks.orlop_shim_call)
    await made.restore()
    return made


@tasks(
    "tasks-service",
    config=TasksConfig,
    requires=(RUNTIME, METADATA, LOG_DRIVER.optional(), SANDBOX_CONTROLLER.optional()),
)
async def tasks_service(ctx: InitContext[TasksConfig]) -> Tasks:
    """Makes tasks of container records."""
    from orlop_runtime.log_uri import LogUris
    from orlop_runtime.service import Places, ServiceTimeouts, TaskService

    metadata: MetadataStore = ctx.get(METADATA)
    logs = LogUris(ctx.all(LOG_DRIVER), LOG_DRIVER.name, ctx.hooks, ctx.properties.get("config.path", ""))
    timeouts = ServiceTimeouts(
        state=ctx.timeout("io.containerd.timeout.task.state", 2.0),
        stats=ctx.timeout("io.containerd.timeout.metrics.shimstats", 2.0),
    )
    places = Places(ctx.all(SANDBOX_CONTROLLER))
    return TaskService(ctx.get(RUNTIME), metadata, logs, ctx.hooks, ctx.state, timeouts, places)


@hook("task-users", requires=(RUNTIME.optional(), SHIM.optional(), SANDBOX_CONTROLLER.optional()))
async def task_users(ctx: InitContext[PluginConfig]) -> object:
    """Keeps runtimes and launchers from being stopped under their tasks."""
    from orlop_runtime.users import TaskUsers

    return TaskUsers(ctx.all(RUNTIME), ctx.all(SHIM), ctx.all(SANDBOX_CONTROLLER))


@log_driver("fifo", exports={"schemes": "fifo"})
async def fifo(_ctx: InitContext[PluginConfig]) -> LogDriver:
    """Named pipes, bare paths included."""
    from orlop_runtime.log_native import FifoDriver

    return FifoDriver()


@log_driver("file", exports={"schemes": "file"})
async def file(_ctx: InitContext[PluginConfig]) -> LogDriver:
    """Plain files."""
    from orlop_runtime.log_native import FileDriver

    return FileDriver()


@log_driver("binary", exports={"schemes": "binary,binary-v2"})
async def binary(_ctx: InitContext[PluginConfig]) -> LogDriver:
    """Programs that follow containerd's logger protocol."""
    from orlop_runtime.log_native import BinaryDriver

    return BinaryDriver()


def _daemon_binary() -> str:
    """The daemon's binary: this program, or the one beside the interpreter."""
    for folder in (Path(sys.argv[0]).parent, Path(sys.executable).parent):
        path = folder.absolute() / "orlopd"
        if path.is_file():
            return str(path)
    return str(Path(sys.executable).absolute())
