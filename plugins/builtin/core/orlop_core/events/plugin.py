# SPDX-License-Identifier: Apache-2.0
"""Declares the event exchange."""

from __future__ import annotations

from orlop.interfaces.event import EventExchange, event_exchange
from orlop.plugin import InitContext, NoConfig


@event_exchange("exchange")
async def exchange(ctx: InitContext[NoConfig]) -> EventExchange:
    """An exchange within this process."""
    from orlop_core.events.exchange import Exchange

    return Exchange()
