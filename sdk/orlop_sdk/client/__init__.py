# SPDX-License-Identifier: Apache-2.0
r"""A client library for orlopd, for containerd, and for no daemon at all.

::

    from orlop_sdk.client import Client

    async with Client("/run/containerd/containerd.sock", namespace="demo") as client:
        await client.pull("docker.io/library/busybox:latest")
        result = await client.run("docker.io/library/busybox:latest", "echo", "hello")
        assert result.stdout == b"hello\n"

The same program without a daemon: `Client.embedded` starts a kernel in this process. The same program without asyncio:
`orlop_sdk.client.sync`. Errors are those of `orlop.errors`, values those of `orlop.values`, and every part (the content
store, a snapshotter, the resolver...) can be replaced by an object of the same interface (`Client.replace`).

====================================  ==================================================================================
`orlop_sdk.client.client`             `Client`
`orlop_sdk.client.sync`               the same with blocking calls
`orlop_sdk.client.container`          containers, tasks, processes
`orlop_sdk.client.stdio`              where their streams go
`orlop_sdk.client.pull`, ``push``     images from and to registries (`orlop_sdk.registry`)
`orlop_sdk.client.archive`            images to archives; ``archive_import`` from archives
`orlop_sdk.client.image`              what lies in a content store for an image
`orlop_sdk.client.unpack`             layers into snapshots
`orlop_sdk.client.transfers`          all of that done by the daemon: its transfer service, and what it moves between
`orlop_sdk.client.platform`           platforms and which of them fit
`orlop_sdk.client.progress`           what long operations tell
`orlop_sdk.client.services`           the replaceable parts; their remote forms are in ``records``, ``content``,
                                      ``snapshots``, ``tasks``, ``events``, ``introspection``
====================================  ==================================================================================
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from orlop_sdk.client.client import Client
    from orlop_sdk.client.container import Container, ContainerSettings, Process, RunError, RunResult, Task
    from orlop_sdk.client.image import ImageStatus, Manifest
    from orlop_sdk.client.image_services import ImageServices
    from orlop_sdk.client.introspection import Plugin, Version
    from orlop_sdk.client.progress import Progress, ProgressKind
    from orlop_sdk.client.services import Services

__all__ = [
    "Client",
    "Container",
    "ContainerSettings",
    "ImageServices",
    "ImageStatus",
    "Manifest",
    "Plugin",
    "Process",
    "Progress",
    "ProgressKind",
    "RunError",
    "RunResult",
    "Services",
    "Task",
    "Version",
]

_MODULES: Final = {
    "Client": "client",
    "Container": "container",
    "ContainerSettings": "container",
    "ImageServices": "image_services",
    "ImageStatus": "image",
    "Manifest": "image",
    "Plugin": "introspection",
    "Process": "container",
    "Progress": "progress",
    "ProgressKind": "progress",
    "RunError": "container",
    "RunResult": "container",
    "Services": "services",
    "Task": "container",
    "Version": "introspection",
}


def __getattr__(name: str) -> object:
    """Import on first use: the daemon's proxies need one part, and must not load registries and progress bars."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
