# SPDX-License-Identifier: Apache-2.0
"""Root file systems whose mounts need help before a shim can make them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from google.protobuf.message import DecodeError

from orlop import context
from orlop.errors import AlreadyExists, NotFound, OrlopError, Unimplemented
from orlop.interfaces.mount import MountManager
from orlop.interfaces.runtime import RuntimeInformer
from orlop.values import Mount
from orlop_runtime.task import Keep
from orlop_sdk.api.types.introspection_pb2 import RuntimeInfo

log = logging.getLogger("orlop.runtime")

#: Types that every shim makes by itself, and nearly all root file systems are of.
_PLAIN: Final = frozenset({"bind", "overlay"})
_ALLOWED: Final = "containerd.io/runtime-allow-mounts"
_KEPT_BY: Final = "containerd.io/gc.bref.container"


class RootMounts:
    """Has the mount manager help where it can. *managers* is a live view of none or one.

    An activation has the name of its task, and lives as long as that, or the container's record.
    """

    def __init__(self, managers: Mapping[str, MountManager]) -> None:
        self._managers = managers
        self._allowed: dict[str, Sequence[str]] = {}

    async def prepare(self, keep: Keep, mounts: Sequence[Mount]) -> Sequence[Mount]:
        """What the shim has to mount. Raises as `MountManager.activate`."""
        if all(mount.type in _PLAIN for mount in mounts):
            return mounts
        for manager in self._managers.values():
            allowed = await self._runtime_allows(keep)
            labels = {_KEPT_BY: keep.bundle.id}
            with suppress(Unimplemented):
                try:
                    made = await manager.activate(keep.bundle.id, mounts, labels=labels, allowed=allowed)
                except AlreadyExists:
                    # Left by an earlier task of this id, since there is no other now.
                    await manager.deactivate(keep.bundle.id)
                    made = await manager.activate(keep.bundle.id, mounts, labels=labels, allowed=allowed)
                return made.system
        return mounts

    async def release(self, keep: Keep) -> None:
        """Undo it. What cannot be undone now is left to garbage collection."""
        for manager in self._managers.values():
            try:
                with context.scope(namespace=keep.bundle.namespace), suppress(NotFound):
                    await manager.deactivate(keep.bundle.id)
            except OrlopError as error:
                log.warning('task "%s": %s', keep.bundle.id, error)

    async def _runtime_allows(self, keep: Keep) -> Sequence[str]:
        """The mount types that a runtime says it makes by itself."""
        name = keep.request.runtime
        if name not in self._allowed and isinstance(keep.launcher, RuntimeInformer):
            try:
                info = RuntimeInfo.FromString(await keep.launcher.info(name, keep.request.options))
                words = info.annotations.get(_ALLOWED, "").split(",")
                self._allowed[name] = [word.strip() for word in words if word.strip()]
            except (OrlopError, DecodeError) as error:
                log.debug('runtime "%s": does not say what it mounts: %s', name, error)
        return self._allowed.get(name, ())
