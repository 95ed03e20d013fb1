# SPDX-License-Identifier: Apache-2.0
"""Mounts that need help before a runtime can use them: the mount manager and the handlers it asks.

A snapshotter or a client may name mounts that ``mount(2)`` does not understand: an image file that wants a loop device,
a type that starts with a transformer such as ``format/``. The manager *activates* them: it mounts what it must, and
returns what is left for the runtime, which then is in the words of ``mount(2)`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol, runtime_checkable

from orlop.plugin import PluginType
from orlop.values import EMPTY, EPOCH, Labels, Mount


@dataclass(frozen=True, slots=True)
class ActiveMount:
    """A mount that the manager made."""

    mount: Mount
    """What was to be mounted, after its transformers."""
    mounted_at: datetime = EPOCH
    """When it was made."""
    mount_point: str = ""
    """Where it is, or the device that a handler made of it."""
    data: Mapping[str, str] = field(default_factory=dict)
    """What its handler has to remember to undo it."""


@dataclass(frozen=True, slots=True)
class Activation:
    """Mounts that were made under one name, and the ones still to be made by who asked."""

    name: str
    """What it is known by; a task's are named like its container."""
    active: Sequence[ActiveMount] = ()
    """What was mounted, in the order in which it was."""
    system: Sequence[Mount] = ()
    """What is left to mount, in the words of ``mount(2)``."""
    labels: Labels = EMPTY
    """Labels, some of which mean something to garbage collection."""


@runtime_checkable
class MountManager(Protocol):
    """Activations of the namespace of `orlop.context`, known by name.

    **Durability**: what is active is found again after a restart of the daemon; an activation that a crash cut short
    is undone.

    **Garbage collection**: one made under a lease, or with labels such as ``containerd.io/gc.bref.container=ID``, is
    deactivated when none of these is there any more. Any other stays until somebody deactivates it.
    """

    async def activate(
        self,
        name: str,
        mounts: Sequence[Mount],
        *,
        labels: Labels = EMPTY,
        temporary: bool = False,
        allowed: Sequence[str] = (),
    ) -> Activation:
        """Mount what the system cannot, in order, and return what is left for it.

        Where nothing is left, that is a bind mount of the last one. *temporary*: all are mounted. *allowed* are types
        (``erofs``, ``format/*``) that the runtime makes by itself. Raises `Unimplemented` when no mount needs help,
        `AlreadyExists` for a name that is active, `InvalidArgument`.
        """

    async def deactivate(self, name: str) -> None:
        """Unmount in reverse order and forget. Raises `NotFound`; `FailedPrecondition` for a mount that is busy."""

    async def info(self, name: str) -> Activation:
        """Raises `NotFound`."""

    async def update(self, activation: Activation, fieldpaths: Sequence[str] = ()) -> Activation:
        """Change labels (``labels``, ``labels.<key>``). Raises `NotFound`, `InvalidArgument`."""

    async def list(self, filters: Sequence[str] = ()) -> list[Activation]:
        """Those that match any of the filters (name, labels), in order of name."""


@runtime_checkable
class MountHandler(Protocol):
    """Makes mounts of one type, which is the plugin's id. Calls may block: the manager makes them off the loop."""

    def mount(self, mount: Mount, target: str) -> ActiveMount:
        """Make the mount; *target* is a path that nothing is at yet, in a directory of the manager's.

        On failure nothing is left. Raises `InvalidArgument`, `Unavailable`, `OSError`.
        """

    def unmount(self, active: ActiveMount) -> None:
        """Undo it. What is undone already, by a reboot perhaps, is no error. Raises `OSError`."""


MOUNT_MANAGER: Final = PluginType("io.containerd.mount-manager.v1", MountManager, group="orlop.mount_manager.v1")
mount_manager = MOUNT_MANAGER.plugin
"""Decorator that declares a mount manager."""
MOUNT_HANDLER: Final = PluginType(
    "io.containerd.mount-handler.v1", MountHandler, group="orlop.mount_handler.v1", many=True
)
mount_handler = MOUNT_HANDLER.plugin
"""Decorator that declares a mount handler. Its id is the mount type that it makes."""
