# SPDX-License-Identifier: Apache-2.0
"""``orlop-sdk serve``: a plugin as a proxy plugin of containerd, without writing a program for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orlop.discovery import discover
from orlop.interfaces.content import CONTENT
from orlop.interfaces.differ import DIFFER
from orlop.interfaces.metadata import METADATA
from orlop.interfaces.sandbox import SANDBOX_CONTROLLER
from orlop.interfaces.snapshotter import SNAPSHOTTER
from orlop.plugin import PluginType
from orlop_sdk.serving.proxy import run
from orlop_sdk.serving.remote_metadata import remote_metadata
from orlop_sdk.serving.target import find_target, hosted

#: What can be served, by the name that ``[proxy_plugins]`` has for it.
KINDS: Final[dict[str, PluginType[Any]]] = {
    "snapshot": SNAPSHOTTER,
    "content": CONTENT,
    "diff": DIFFER,
    "sandbox": SANDBOX_CONTROLLER,
}
_PARTS: Final = {"snapshot": "snapshotter", "content": "content", "diff": "differ", "sandbox": "sandbox"}


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What to serve, where, and out of what."""

    kind: str
    target: str
    socket: str
    root: Path
    config: Path | None = None
    stores: str = ""
    """Socket of the daemon whose stores the plugin works with; empty for stores of its own below ``root``."""


async def serve(options: ServeOptions) -> None:
    """Serve until SIGTERM or SIGINT. Raises what finding and starting the plugin raise, and `proxy.serve`."""
    target = find_target(options.target, KINDS[options.kind])
    plugins, without = [], []
    if options.stores:
        plugins.append(remote_metadata(options.stores))
        without = [each.uri for each in discover().candidates.values() if each.type == METADATA.name]
    async with hosted(target, options.root, config=options.config, plugins=plugins, without=without) as (_, instance):
        await run(options.socket, **{_PARTS[options.kind]: instance})
