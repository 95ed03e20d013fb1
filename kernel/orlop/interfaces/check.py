# SPDX-License-Identifier: Apache-2.0
"""Checking what plugins keep on disk, and repairing it: what ``orlop fsck`` asks of them.

Any plugin of the types content store, snapshotter and metadata store takes part by having the method below; a plugin of
another type does as well if it is declared with the capability ``check``. The check runs without the daemon, on
instances that have just been made, and nobody else uses their files meanwhile. Content stores and snapshotters have
their turn first, then the metadata store, which holds its records against what they have then.

A whole check, of a store that keeps one file for each thing::

    async def check_up(self, checkup: Checkup) -> AsyncIterator[Finding]:
        for number, name in enumerate(names):
            checkup.progress(number, len(names))
            if not (self.root / name).exists():
                if checkup.repair:
                    self.forget(name)
                yield Finding(f'thing "{name}"', "has no file", "forget it", repaired=checkup.repair)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

#: Declared by plugins of other types that want to be asked, too.
CHECK: Final = "check"


def _silent(done: int, total: int) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    subject: str
    """What: ``blob "sha256:..."``."""
    problem: str
    """What is wrong with it, to be read after the subject: ``has 5 bytes instead of 7``."""
    remedy: str
    """What a repair does, or has done: an imperative, ``forget it; pull the image again``. Where no repair can help,
    what the operator has to do."""
    repaired: bool = False
    """Whether that was done."""
    note: bool = False
    """Whether it only takes space: what a crash leaves, and the daemon clears away by itself."""


@dataclass(frozen=True, slots=True)
class Checkup:
    """What is asked for."""

    repair: bool = False
    """Whether to mend what can be mended. Else nothing may be changed."""
    quick: bool = False
    """Whether to leave out what has to read all data (digests)."""
    progress: Callable[[int, int], None] = _silent
    """To be told, now and then, how much is done of how much; in any unit."""


@runtime_checkable
class Checkable(Protocol):
    """Optional power of any plugin that keeps things on disk."""

    def check_up(self, checkup: Checkup) -> AsyncIterator[Finding]:
        """Look at everything, and yield what is wrong, each after it was repaired if it was.

        A repair removes records of what is lost, and what nothing refers to; data that somebody might miss it moves
        away, to where the remedy says. After a repair the plugin works, and a second check finds only what the remedies
        left to the operator.
        """
