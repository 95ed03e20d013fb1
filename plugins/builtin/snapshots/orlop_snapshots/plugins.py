# SPDX-License-Identifier: Apache-2.0
"""The snapshotters and mount helpers of this distribution as plugins: their settings, and how they are made."""

from __future__ import annotations

from pathlib import Path

from orlop.blocking import run_blocking
from orlop.errors import SkipPlugin
from orlop.interfaces.metadata import METADATA
from orlop.interfaces.mount import MOUNT_HANDLER, MountHandler, MountManager, mount_handler, mount_manager
from orlop.interfaces.snapshotter import Snapshotter, snapshotter
from orlop.plugin import ConfigPath, InitContext, NoConfig, PluginConfig


class NativeConfig(PluginConfig):
    """``[plugins."io.containerd.snapshotter.v1.native"]``."""

    root_path: ConfigPath = None
    """Where snapshots are kept; the plugin's own directory when unset."""


class OverlayConfig(NativeConfig):
    """``[plugins."io.containerd.snapshotter.v1.overlayfs"]``."""

    upperdir_label: bool = False
    """Tell clients, in the label containerd.io/snapshot/overlay.upperdir, where a snapshot's own layer is."""
    sync_remove: bool = False
    """Delete the directories of a removed snapshot at once, instead of with the next garbage collection."""
    slow_chown: bool = False
    """Accepted for containerd's sake, without effect: owners are mapped by the kernel or changed by the client."""
    mount_options: tuple[str, ...] = ()
    """Options added to every overlay mount, such as "volatile" or "metacopy=on"."""


@snapshotter("native", config=NativeConfig, capabilities=("remap-ids",))
async def native(ctx: InitContext[NativeConfig]) -> Snapshotter:
    """Copies whole trees."""
    from orlop_snapshots.native import NativeSnapshotter

    root = _root(ctx)
    return await run_blocking(NativeSnapshotter, root)


@snapshotter("overlayfs", config=OverlayConfig, capabilities=("rebase", "remap-ids"))
async def overlayfs(ctx: InitContext[OverlayConfig]) -> Snapshotter:
    """Stacks of layers that the kernel shows as one tree."""
    from orlop_snapshots.overlayfs import OverlaySnapshotter, check, default_options

    root = _root(ctx)
    options = [*default_options(), *ctx.config.mount_options]
    await run_blocking(check, root, options)
    return await run_blocking(
        OverlaySnapshotter,
        root,
        options=options,
        upperdir_label=ctx.config.upperdir_label,
        sync_remove=ctx.config.sync_remove,
    )


@mount_handler("loop")
async def loop(_ctx: InitContext[NoConfig]) -> MountHandler:
    """Files as block devices."""
    from orlop_snapshots.mounts.handlers import LoopHandler

    if not await run_blocking(Path("/dev/loop-control").exists):
        raise SkipPlugin("no loop devices on this host: /dev/loop-control is missing; load the kernel module loop")
    return LoopHandler()


@mount_handler("erofs")
async def erofs(_ctx: InitContext[NoConfig]) -> MountHandler:
    """EROFS images."""
    from orlop_snapshots.mounts.handlers import ErofsHandler

    # As a module it is loaded when it is needed first.
    return ErofsHandler()


@mount_manager("bolt", requires=(METADATA.optional(), MOUNT_HANDLER.optional()))
async def mounts(ctx: InitContext[NoConfig]) -> MountManager:
    """Mounts that need help. The id is containerd's."""
    from orlop_snapshots.mounts.manager import Mounts

    made = Mounts(ctx.state, ctx.all(MOUNT_HANDLER), (ctx.daemon_root,))
    await made.restore()
    for store in ctx.all(METADATA).values():
        store.register_collectible(made)
    return made


def _root(ctx: InitContext[NativeConfig] | InitContext[OverlayConfig]) -> Path:
    root = ctx.config.root_path or ctx.root
    ctx.export("root", str(root))
    return root
