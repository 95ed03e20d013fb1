# SPDX-License-Identifier: Apache-2.0
"""The snapshotters of this distribution as plugins: their settings, and how they are made from them."""

from __future__ import annotations

from pathlib import Path

from orlop.blocking import run_blocking
from orlop.interfaces.snapshotter import Snapshotter, snapshotter
from orlop.plugin import ConfigPath, InitContext, PluginConfig


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


@snapshotter("native", config=NativeConfig)
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


def _root(ctx: InitContext[NativeConfig] | InitContext[OverlayConfig]) -> Path:
    root = ctx.config.root_path or ctx.root
    ctx.export("root", str(root))
    return root
