# SPDX-License-Identifier: Apache-2.0
"""Declares the stream manager."""

from __future__ import annotations

from orlop.interfaces.metadata import METADATA
from orlop.interfaces.streaming import StreamManager, stream_manager
from orlop.plugin import InitContext, NoConfig


@stream_manager("manager", requires=(METADATA,))
async def manager(ctx: InitContext[NoConfig]) -> StreamManager:
    """Streams by namespace and id, which garbage collection ends with their leases."""
    from orlop_core.streams.manager import Streams

    streams = Streams()
    ctx.get(METADATA).register_collectible(streams)
    return streams
