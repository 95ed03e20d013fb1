# SPDX-License-Identifier: Apache-2.0
"""What subcommands share: the client, and ways to print results, progress and remarks.

Results go to standard output, as a table for people or as JSON for programs (``--format json``); everything else goes
to standard error, so that output can be piped.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from orlop.errors import InvalidArgument

if TYPE_CHECKING:
    from orlop_cli.progress import Progress
    from orlop_sdk.client import Client

T = TypeVar("T")


class Usage(InvalidArgument):
    """The command line makes no sense: exit status 2, as for what argparse finds."""


class Console:
    """One run of the command. Empty *address* and *namespace* mean the client's defaults."""

    def __init__(self, address: str, namespace: str, format: str) -> None:
        self.address = address
        self.namespace = namespace
        self.format = format

    def client(self) -> Client:
        """A client for the daemon; connects with its first call. Use it with ``async with``."""
        from orlop_sdk.client import Client

        return Client(self.address or None, self.namespace or None)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a subcommand's async body."""
        return asyncio.run(work)

    def progress(self) -> Progress:
        """Bars on a terminal, plain lines otherwise, nothing for ``--format json``. Use it with ``with``."""
        from orlop_cli.progress import Progress

        return Progress(enabled=self.format != "json")

    def table(
        self,
        rows: Iterable[Mapping[str, Any]],
        columns: Sequence[str],
        quiet: str = "",
        show: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        """Print rows. JSON prints all their keys; a table these columns; *quiet* names the one column to print.

        *show* makes what a table shows of what a row holds.
        """
        rows = list(rows)
        if quiet:
            for row in rows:
                print(row[quiet])
        elif self.format == "json":
            self.json(rows)
        else:
            _print_table([[_cell(shown.get(column)) for column in columns] for shown in map(show, rows)], columns)

    def json(self, value: Any) -> None:
        """Print any value, dataclasses and times included, as JSON."""
        print(json.dumps(value, indent=2, default=_encode))

    def result(self, text: str, value: Any) -> None:
        """Print one result: *text* for people, *value* as JSON."""
        if self.format == "json":
            self.json(value)
        else:
            print(text)

    def remark(self, text: str) -> None:
        """Tell people something that is no result."""
        print(text, file=sys.stderr)


def size(count: int) -> str:
    """Bytes as people read them: ``1.4 MiB``."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def age(when: datetime) -> str:
    """How long ago something was: ``3 minutes ago``."""
    seconds = max(0.0, (datetime.now(UTC) - when).total_seconds())
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def _print_table(rows: list[list[str]], columns: Sequence[str]) -> None:
    head = [column.upper().replace("_", " ") for column in columns]
    widths = [max(len(line[index]) for line in [head, *rows]) for index in range(len(columns))]
    for line in [head, *rows]:
        print("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return age(value)
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "-"
    return str(value) or "-"


def _encode(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value)
