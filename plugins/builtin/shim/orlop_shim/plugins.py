# SPDX-License-Identifier: Apache-2.0
"""The plugin of this distribution and its config. Importing it loads no implementation."""

from __future__ import annotations

from orlop import InitContext, PluginConfig
from orlop.errors import InvalidArgument
from orlop.interfaces.runtime import ShimLauncher, shim_launcher


class OrlopLauncherConfig(PluginConfig):
    """How Orlop's own shim is started."""

    runtimes: tuple[str, ...] = ("io.containerd.orlop.v1", "io.containerd.runc.v2")
    """Runtime names that Orlop's own shim serves; without io.containerd.runc.v2, containerd's shim serves that."""
    env: tuple[str, ...] = ()
    """More environment variables for shims, each NAME=value."""
    socket_dir: str = ""
    """Absolute directory for the sockets of shims; containerd's place when empty."""


@shim_launcher("orlop", config=OrlopLauncherConfig, exports={"programs": "runc|crun"})
async def orlop_launcher(ctx: InitContext[OrlopLauncherConfig]) -> ShimLauncher:
    """Forks Orlop's own shim from a zygote."""
    from orlop_shim.launcher import LauncherSettings, OrlopLauncher

    launcher = OrlopLauncher(
        LauncherSettings(
            runtimes=ctx.config.runtimes,
            ttrpc_address=ctx.properties.get("ttrpc.address", ""),
            grpc_address=ctx.properties.get("grpc.address", ""),
            socket_dir=ctx.config.socket_dir,
            environment=dict(_variable(text) for text in ctx.config.env),
            cleanup_timeout=ctx.timeout("io.containerd.timeout.shim.cleanup", 5.0),
            log=ctx.log,
        )
    )
    launcher.warm_up()
    return launcher


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidArgument(f'environment variable "{text}" of shims: write NAME=value')
    return name, value
