# SPDX-License-Identifier: Apache-2.0
"""``containerd.services.introspection.v1.Introspection`` over the registry."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

from google.protobuf.empty_pb2 import Empty
from google.rpc.status_pb2 import Status

from orlop import errors
from orlop.blocking import run_blocking
from orlop.interfaces.introspection import PluginInformer
from orlop.plugin import Plugins, PluginStatus
from orlop.values import Platform
from orlop_sdk import filters
from orlop_sdk.api.services.introspection.v1 import introspection_pb2 as pb
from orlop_sdk.convert.common import any_from_wire, any_to_wire, platform_to_wire
from orlop_sdk.rpc.service import Service

#: Types whose plugins clients choose by platform: one without any is never chosen.
_PER_PLATFORM: Final = frozenset(
    {"io.containerd.snapshotter.v1", "io.containerd.differ.v1", "io.containerd.runtime.v2"}
)
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class IntrospectionService(Service):
    """The daemon and its plugins, described.

    ``root`` is a callable, for the directory is needed by `Server` only and made on first use.
    """

    service = "containerd.services.introspection.v1.Introspection"

    def __init__(self, plugins: Plugins, root: Callable[[], Path]) -> None:
        self._plugins = plugins
        self._root = root

    async def Plugins(self, request: pb.PluginsRequest) -> pb.PluginsResponse:
        wanted = filters.parse(list(request.filters))
        shown = [
            status
            for status in self._plugins.statuses()
            if status.state != "disabled" and wanted.match(filters.fields({"type": status.type, "id": status.id}))
        ]
        return pb.PluginsResponse(plugins=[plugin_to_wire(status) for status in shown])

    async def Server(self, _request: Empty) -> pb.ServerResponse:
        identity = await run_blocking(lambda: read_identity(self._root() / "uuid"))
        namespace = await run_blocking(os.stat, "/proc/self/ns/pid")
        return pb.ServerResponse(uuid=identity, pid=os.getpid(), pidns=namespace.st_ino)

    async def PluginInfo(self, request: pb.PluginInfoRequest) -> pb.PluginInfoResponse:
        status = self._find(request.type, request.id)
        instance = self._plugins.instance(status.uri)
        if instance is None:
            raise errors.FailedPrecondition(f'plugin "{status.uri}": {status.state}: {status.reason}')
        if not isinstance(instance, PluginInformer):
            raise errors.Unimplemented(f'plugin "{status.uri}": has no more to tell than is listed')
        extra = await instance.plugin_info(any_from_wire(request.options))
        return pb.PluginInfoResponse(plugin=plugin_to_wire(status), extra=any_to_wire(extra))

    def _find(self, type: str, id: str) -> PluginStatus:
        for status in self._plugins.statuses():
            if (status.type, status.id) == (type, id):
                return status
        raise errors.NotFound(f'plugin "{type}.{id}": not found')


def plugin_to_wire(status: PluginStatus) -> pb.Plugin:
    """What clients get to see of a plugin. They tell skipped from failed by words in the error's text."""
    return pb.Plugin(
        type=status.type,
        id=status.id,
        requires=status.requires,
        platforms=[platform_to_wire(platform) for platform in _platforms(status)],
        # How long it took to come up; a plugin's own export of that name counts more.
        exports=({"init": f"{status.seconds * 1e3:.1f}ms"} if status.seconds else {}) | dict(status.exports),
        capabilities=status.capabilities,
        init_err=_error(status),
    )


def _error(status: PluginStatus) -> Status | None:
    if status.state == "ok":
        return None
    if status.state == "waiting":
        return Status(code=errors.Unavailable.code, message="waits for its turn to be initialised")
    message = status.reason
    if status.state == "skipped" and "skip plugin" not in message:
        message = f"{message}: skip plugin"
    return Status(code=errors.Unknown.code, message=message)


def _platforms(status: PluginStatus) -> list[Platform]:
    """Where a plugin runs. Of the kinds that work on images, one that does not say so means this host."""
    if status.platforms or status.type not in _PER_PLATFORM:
        return [_platform(text) for text in status.platforms]
    machine = os.uname().machine
    return [Platform("linux", _ARCHITECTURES.get(machine, machine))]


def _platform(text: str) -> Platform:
    os_name, _, rest = text.partition("/")
    architecture, _, variant = rest.partition("/")
    return Platform(os_name, architecture, variant)


def read_identity(path: Path) -> str:
    """The UUID in a file, which is made, durably and by one process only, when it is not there."""
    if not path.exists():
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        with fresh.open("w") as file:
            file.write(str(uuid.uuid4()))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, path)
        except FileExistsError:
            # Another caller was faster; its identity is the one that counts.
            return path.read_text().strip()
        finally:
            fresh.unlink()
    return path.read_text().strip()
