# SPDX-License-Identifier: Apache-2.0
"""What every benchmark needs: both daemons side by side, and a table with the ratio of their figures.

A benchmark measures the two in turn, a little of one and a little of the other, so that a machine whose speed drifts
treats them alike. The figure of a side is the median; the ratio is Orlop's to containerd's.
"""

from __future__ import annotations

import compileall
import contextlib
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import CONTAINERD, ORLOPD, Daemon

REPOSITORY = Path(__file__).parents[2]
OURS = "orlop"
THEIRS = "containerd"


@dataclass(frozen=True)
class Figure:
    """One line of the table. A *rate* is better when higher; *budget* is the ratio to reach, if there is one."""

    name: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float]
    rate: bool = False
    budget: float | None = None

    @property
    def ratio(self) -> float:
        """Orlop's median over containerd's."""
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def verdict(self) -> str:
        """Whether the budget holds."""
        if self.budget is None:
            return ""
        holds = self.ratio >= self.budget if self.rate else self.ratio <= self.budget
        return f"budget {'>=' if self.rate else '<='} {self.budget:g}x: {'holds' if holds else 'MISSED'}"


@contextlib.contextmanager
def both(*, top: str = "", tables: str = "") -> Iterator[Mapping[str, Daemon]]:
    """Both daemons, each below a short directory of its own that is gone afterwards."""
    for part in ("kernel", "sdk", "plugins"):
        # As in what is installed. A checkout may not be, and compiling takes memory that processes keep.
        compileall.compile_dir(REPOSITORY / part, quiet=2)
    with contextlib.ExitStack() as stack:
        daemons = {}
        for name, program in ((OURS, ORLOPD), (THEIRS, CONTAINERD)):
            base = Path(tempfile.mkdtemp(prefix="ob", dir="/tmp"))
            stack.callback(shutil.rmtree, base, ignore_errors=True)
            daemons[name] = stack.enter_context(Daemon(base, program, top=top, tables=tables))
        yield daemons


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print the table."""
    print(f"\n{title}")
    print(f"  {'':<44}{OURS:>12}{THEIRS:>12}   ratio")
    for figure in figures:
        ours, theirs = statistics.median(figure.ours), statistics.median(figure.theirs)
        name = f"{figure.name} ({figure.unit})"
        print(f"  {name:<44}{ours:>12.2f}{theirs:>12.2f}   {figure.ratio:.2f}x  {figure.verdict}")
    sys.stdout.flush()
