# SPDX-License-Identifier: Apache-2.0
"""Progress of pulls, pushes, imports and exports: bars on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Final, Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from orlop_sdk.client.progress import Progress as News
from orlop_sdk.client.progress import ProgressKind

#: What is worth a line of its own where there is no terminal.
_MILESTONES: Final = frozenset(
    (
        ProgressKind.RESOLVED,
        ProgressKind.DOWNLOADED,
        ProgressKind.EXISTS,
        ProgressKind.EXTRACTED,
        ProgressKind.UPLOADED,
        ProgressKind.MOUNTED,
        ProgressKind.IMPORTED,
        ProgressKind.EXPORTED,
        ProgressKind.DONE,
    )
)


class Progress:
    """Shows what the client tells; pass `show` as its progress callback. Everything goes to standard error."""

    def __init__(self, *, enabled: bool = True) -> None:
        terminal = RichConsole(stderr=True)
        self._enabled = enabled
        self._rows: dict[str, TaskID] = {}
        self._bars = (
            Bars(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
                console=terminal,
            )
            if enabled and terminal.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, news: News) -> None:
        """Take one piece of news."""
        if news.kind is ProgressKind.EXPANDED:
            return
        if self._bars is not None:
            self._row(self._bars, news)
        elif self._enabled and news.kind in _MILESTONES:
            print(f"{news.kind:<12}{_short(news.name)}", file=sys.stderr)

    def _row(self, bars: Bars, news: News) -> None:
        row = self._rows.get(news.name)
        if row is None:
            row = self._rows[news.name] = bars.add_task("", total=None)
        bars.update(
            row,
            description=f"{news.kind:<12} {_short(news.name):<20}",
            total=news.total or None,
            completed=news.offset,
        )


def _short(name: str) -> str:
    """A digest as people recognise it; anything else as it is. What has no name is the archive as a whole."""
    algorithm, _, hexadecimal = name.partition(":")
    return f"{algorithm}:{hexadecimal[:12]}" if len(hexadecimal) >= 32 and "/" not in hexadecimal else name or "archive"
