# SPDX-License-Identifier: Apache-2.0
"""Sandbox controllers: who runs the environments that groups of containers share (a pod, a virtual machine).

What a sandbox is made of is a record of the metadata store (`orlop.interfaces.metadata.SandboxStore`); a controller
makes it run. Clients name the controller of a sandbox by its plugin id, in the record's ``sandboxer``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol, runtime_checkable

from orlop.plugin import PluginType
from orlop.values import EMPTY, EPOCH, AnyMessage, Exit, Labels, Metric, Mount, Platform, Sandbox


@dataclass(frozen=True, slots=True)
class SandboxRequest:
    """How to make a sandbox, beside its record."""

    rootfs: Sequence[Mount] = ()
    """Mounts of the sandbox's own root file system; controllers that need none ignore it."""
    options: AnyMessage | None = None
    """Options of the controller; those of the runtime are in the record."""
    netns_path: str = ""
    """A network namespace that is there already, such as ``/var/run/netns/NAME``; empty: none."""
    annotations: Labels = EMPTY
    """Remarks of the client, for the controller."""


@dataclass(frozen=True, slots=True)
class SandboxInstance:
    """A sandbox that has been started."""

    id: str
    """The sandbox's."""
    pid: int = 0
    """A process that stands for it, in whose namespaces containers may join it; 0 where there is none."""
    created_at: datetime = EPOCH
    """When it was started."""
    labels: Labels = EMPTY
    """What the controller tells of it, for its record."""
    address: str = ""
    """Where its shim serves tasks, ``PROTOCOL+ADDRESS`` such as ``ttrpc+unix:///run/...``; empty: not told."""
    version: int = 0
    """Version of the task API there."""
    spec: AnyMessage | None = None
    """The OCI spec it runs with, as the controller changed it."""


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """A sandbox now. Times are `EPOCH` where they do not apply."""

    id: str
    """The sandbox's."""
    pid: int = 0
    """As in `SandboxInstance`."""
    state: str = ""
    """``SANDBOX_READY`` or ``SANDBOX_NOTREADY``; a controller may have more words."""
    info: Mapping[str, str] = field(default_factory=dict)
    """What there is to know besides; filled when *verbose*."""
    created_at: datetime = EPOCH
    """When it was created."""
    exited_at: datetime = EPOCH
    """When it ended."""
    extra: AnyMessage | None = None
    """What the controller has to tell besides, typed."""
    address: str = ""
    """As in `SandboxInstance`."""
    version: int = 0
    """As in `SandboxInstance`."""


@runtime_checkable
class SandboxController(Protocol):
    """Runs sandboxes of the namespace of `orlop.context`.

    **Lifecycle** of one: `create` -> `start` -> `stop` -> `shutdown`. `wait` and `status` are for the time between
    `create` and `shutdown`; after that the id may be used again. A controller finds its sandboxes again when the daemon
    was restarted.

    **Errors**: calls other than `shutdown` raise `NotFound` for a sandbox that the controller does not have, and
    `Unavailable` when what runs it does not answer.

    **Events**: a controller publishes none; who calls it for clients publishes ``/sandboxes/create``, ``start`` and
    ``exit``.
    """

    async def create(self, sandbox: Sandbox, request: SandboxRequest) -> None:
        """Allocate what the sandbox needs; on failure everything is undone. The record need not be stored yet.

        Raises `AlreadyExists`, `InvalidArgument`.
        """

    async def start(self, id: str) -> SandboxInstance:
        """Run it; returns once containers can be put in. On failure everything is undone, as by `shutdown`."""

    async def platform(self, id: str) -> Platform:
        """What its containers' images must be for."""

    async def stop(self, id: str, *, timeout: float = 0) -> None:
        """End its processes; returns when they have ended. One that has ended already is no error.

        After *timeout* seconds (0: the controller's own choice) they are killed.
        """

    async def wait(self, id: str) -> Exit:
        """Return when the sandbox has ended; at once if it has. Any number of callers may wait."""

    async def status(self, id: str, *, verbose: bool = False) -> SandboxStatus:
        """How it is. One that has ended is ``SANDBOX_NOTREADY`` until `shutdown`."""

    async def shutdown(self, id: str) -> None:
        """Free everything of it, whatever state it is in. One that is not there is no error."""

    async def metrics(self, id: str) -> Metric:
        """Figures of the sandbox as a whole."""

    async def update(self, id: str, sandbox: Sandbox, fieldpaths: Sequence[str] = ()) -> None:
        """Make the running sandbox follow a changed record; *fieldpaths* say what has changed, none: everything may.

        Raises `Unimplemented` where it cannot.
        """


SANDBOX_CONTROLLER: Final = PluginType(
    "io.containerd.sandbox.controller.v1", SandboxController, group="orlop.sandbox_controller.v1", many=True
)
sandbox_controller = SANDBOX_CONTROLLER.plugin
"""Decorator that declares a sandbox controller. Its id is what records call their ``sandboxer``."""
