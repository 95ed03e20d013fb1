# SPDX-License-Identifier: Apache-2.0
"""Declares the event exchange."""

from __future__ import annotations

from orlop.config import GoDuration, seconds
from orlop.interfaces.event import EventExchange, event_exchange
from orlop.plugin import InitContext, PluginConfig


class ExchangeConfig(PluginConfig):
    """Settings of the event exchange."""

    recall: GoDuration = "10s"
    """For how long after a start of the daemon a new subscriber also gets events that came before it subscribed, of
    tasks from before the start: nobody shall miss an exit by being slower to come back than a shim. ``0s``: never."""


@event_exchange("exchange", config=ExchangeConfig)
async def exchange(ctx: InitContext[ExchangeConfig]) -> EventExchange:
    """An exchange within this process."""
    from orlop_core.events.exchange import Exchange

    return Exchange(recall=seconds(ctx.config.recall))
