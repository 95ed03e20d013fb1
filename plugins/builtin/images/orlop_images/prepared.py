# SPDX-License-Identifier: Apache-2.0
"""Mounts that need help before a worker can make them: the mount manager prepares them for as long as they are used."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from orlop.errors import OrlopError, Unimplemented
from orlop.interfaces.differ import Differ
from orlop.interfaces.mount import MountManager
from orlop.values import EMPTY, AnyMessage, Descriptor, Labels, Mount
from orlop_images.walking import WalkingDiffer

log = logging.getLogger(__name__)

#: Types that workers make by themselves, and nearly all snapshots are of.
_PLAIN: Final = frozenset({"bind", "rbind", "overlay"})
_NO_PAYLOADS: Final[Mapping[str, AnyMessage]] = {}


class PreparedDiffer:
    """The walking differ on any mounts that a mount manager knows. *managers* is a live view of none or one."""

    def __init__(self, differ: WalkingDiffer, managers: Mapping[str, MountManager]) -> None:
        self._differ = differ
        self._managers = managers

    async def apply(
        self,
        descriptor: Descriptor,
        mounts: Sequence[Mount],
        *,
        payloads: Mapping[str, AnyMessage] = _NO_PAYLOADS,
        sync: bool = False,
    ) -> Descriptor:
        async with self._prepared(mounts) as ready:
            return await self._differ.apply(descriptor, ready, payloads=payloads, sync=sync)

    async def compare(
        self,
        lower: Sequence[Mount],
        upper: Sequence[Mount],
        *,
        media_type: str = "",
        ref: str = "",
        labels: Labels = EMPTY,
        source_date_epoch: datetime | None = None,
    ) -> Descriptor:
        async with self._prepared(lower) as below, self._prepared(upper) as above:
            return await self._differ.compare(
                below, above, media_type=media_type, ref=ref, labels=labels, source_date_epoch=source_date_epoch
            )

    async def close(self) -> None:
        """End all workers. May be called twice."""
        await self._differ.close()

    @contextlib.asynccontextmanager
    async def _prepared(self, mounts: Sequence[Mount]) -> AsyncIterator[Sequence[Mount]]:
        """The mounts as a worker can make them. Raises as `MountManager.activate`."""
        manager = next(iter(self._managers.values()), None)
        if manager is None or all(mount.type in _PLAIN for mount in mounts):
            yield mounts
            return
        name = f"differ-{uuid.uuid4()}"
        try:
            made = await manager.activate(name, mounts)
        except Unimplemented:
            # None of them needs help, or nothing is known of it, which the differ says.
            yield mounts
            return
        try:
            yield made.system
        finally:
            # Also for a caller that goes away.
            await asyncio.shield(_deactivate(manager, name))


async def _deactivate(manager: MountManager, name: str) -> None:
    try:
        await manager.deactivate(name)
    except OrlopError as error:
        log.warning("%s", error)


_: type[Differ] = PreparedDiffer
