# SPDX-License-Identifier: Apache-2.0
"""The differ that asks the others, in the order that the config gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from orlop.errors import NotFound, Unimplemented
from orlop.interfaces.differ import DIFFER, Differ, diff_service
from orlop.plugin import InitContext, PluginConfig
from orlop.values import EMPTY, AnyMessage, Descriptor, Labels, Mount

_NO_PAYLOADS: Final[Mapping[str, AnyMessage]] = {}


class DiffServiceConfig(PluginConfig):
    """The table ``[plugins."io.containerd.service.v1.diff-service"]``."""

    default: tuple[str, ...] = ("walking",)
    """Ids of differs, in the order in which they are asked; the next one is asked when one does not know a type."""
    sync_fs: bool = False
    """Flush the file system after each layer that is unpacked, whatever the client asks for."""


@dataclass(frozen=True, slots=True)
class OrderedDiffer:
    """Asks differs in order, and moves on only where one answers `Unimplemented`."""

    differs: Mapping[str, Differ]
    order: Sequence[str]
    sync_fs: bool = False

    async def apply(
        self,
        descriptor: Descriptor,
        mounts: Sequence[Mount],
        *,
        payloads: Mapping[str, AnyMessage] = _NO_PAYLOADS,
        sync: bool = False,
    ) -> Descriptor:
        refusal = Unimplemented(f'no differ for media-type "{descriptor.media_type}"; name one in "default"')
        for item in self._ordered():
            try:
                return await item.apply(descriptor, mounts, payloads=payloads, sync=sync or self.sync_fs)
            except Unimplemented as error:
                refusal = error
        raise refusal

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
        refusal = Unimplemented(f'no differ makes layers of media-type "{media_type}"; name one in "default"')
        for item in self._ordered():
            try:
                return await item.compare(
                    lower, upper, media_type=media_type, ref=ref, labels=labels, source_date_epoch=source_date_epoch
                )
            except Unimplemented as error:
                refusal = error
        raise refusal

    def _ordered(self) -> list[Differ]:
        missing = [id for id in self.order if id not in self.differs]
        if missing:
            raise NotFound(f'differ "{missing[0]}": not loaded; see the list of plugins for the reason')
        return [self.differs[id] for id in self.order]


@diff_service("diff-service", config=DiffServiceConfig, requires=(DIFFER,))
async def service(ctx: InitContext[DiffServiceConfig]) -> Differ:
    """What the Diff service and the unpacker use."""
    return OrderedDiffer(ctx.all(DIFFER), ctx.config.default, ctx.config.sync_fs)


_: type[Differ] = OrderedDiffer
