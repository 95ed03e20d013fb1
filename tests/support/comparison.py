# SPDX-License-Identifier: Apache-2.0
"""Scenarios that are written once and run against two daemons, whose answers have to be the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from tests.support.daemon import Daemon
from tests.support.transcript import Difference, Recorder, compare

LOG = 6000
"""How many characters of the log a failure shows."""
_numbers = count(1)


@dataclass(frozen=True)
class Pair:
    """The daemon that sets the standard, and the one that is measured by it."""

    standard: Daemon
    subject: Daemon
    directory: Path
    data: Mapping[str, Path]

    def run(self, scenario: Callable[[Recorder], None], differences: Sequence[Difference]) -> None:
        """Run a scenario on both, one after the other, and fail with what differs.

        Each side has a namespace of its own, of the same length, since runc keeps state by namespace for all daemons
        of a host.
        """
        number = next(_numbers)
        before = self.subject.log.stat().st_size
        transcripts = []
        for side, daemon in (("c", self.standard), ("o", self.subject)):
            directory = self.directory / f"{side}{number}"
            directory.mkdir()
            recorder = Recorder(daemon, f"diff-{side}-{number}", directory, self.data)
            try:
                scenario(recorder)
            except AssertionError as error:
                pytest.fail(f"on {daemon.name}: {error}\n{daemon.tail()}", pytrace=False)
            finally:
                transcripts.append(recorder.finish())
        if report := compare(transcripts[0], transcripts[1], differences):
            log = self.subject.log.read_bytes()[before:].decode(errors="replace")
            pytest.fail(f"{report}\n--- log of {self.subject.name}\n{log[-LOG:]}", pytrace=False)


def differential(*differences: Difference) -> Callable[[Callable[[Recorder], None]], Callable[[Pair], None]]:
    """Decorate a scenario, which makes it a test. *differences* are those that are meant to be in this one."""

    def decorate(scenario: Callable[[Recorder], None]) -> Callable[[Pair], None]:
        def test(pair: Pair) -> None:
            pair.run(scenario, differences)

        test.__doc__ = scenario.__doc__
        return test

    return decorate
