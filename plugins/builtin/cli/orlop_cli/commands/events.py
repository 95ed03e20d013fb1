# SPDX-License-Identifier: Apache-2.0
"""``orlop events``: what happens in a daemon, as it happens."""

from __future__ import annotations

import argparse
import json
from typing import Any

from orlop.interfaces.introspection import CommandPlugin, command
from orlop.plugin import InitContext
from orlop.values import Event
from orlop_cli.console import Console
from orlop_sdk.convert.events import payload_fields


class EventsCommand:
    """``events``."""

    @property
    def summary(self) -> str:
        return "show events as they happen, until interrupted"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("filters", nargs="*", metavar="FILTER", help='such as topic~="^/tasks/"')
        parser.add_argument("--all-namespaces", action="store_true", help="not only those of this namespace")
        parser.add_argument("--count", type=int, default=0, metavar="N", help="stop after so many")

    def run(self, arguments: argparse.Namespace, console: Console) -> int:
        return console.run(self._watch(arguments, console))

    async def _watch(self, arguments: argparse.Namespace, console: Console) -> int:
        seen = 0
        async with console.client() as client:
            stream = client.events.subscribe(arguments.filters)
            if not arguments.all_namespaces:
                stream = client.watch(*arguments.filters)
            async with stream as events:
                async for event in events:
                    _show(event, console)
                    seen += 1
                    if seen == arguments.count:
                        break
        return 0


def _show(event: Event, console: Console) -> None:
    payload = payload_fields(event.payload)
    if console.format == "json":
        line = {
            "timestamp": event.timestamp.isoformat(),
            "namespace": event.namespace,
            "topic": event.topic,
            "event": payload,
        }
        print(json.dumps(line, default=str), flush=True)
    else:
        print(
            f"{event.timestamp.isoformat()} {event.namespace} {event.topic} {json.dumps(payload, default=str)}",
            flush=True,
        )


@command("events")
async def events(ctx: InitContext[Any]) -> CommandPlugin:
    """Register ``orlop events``."""
    return EventsCommand()
