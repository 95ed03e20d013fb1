# SPDX-License-Identifier: Apache-2.0
"""Plays every written scenario on both daemons.

`tests.differential.scenarios` says how to add one.
"""

from __future__ import annotations

from collections import Counter

import pytest
from tests.differential.calls import Call, Scenario, all_methods
from tests.differential.differences import DIFFERENCES
from tests.differential.scenarios import ALL
from tests.differential.sides import TALLY, Both

NOT_PLAYED: dict[str, str] = {}
"""Methods that no scenario plays, and why."""


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_scenario(both: Both, scenario: Scenario) -> None:
    try:
        both.play(scenario)
    except AssertionError as error:
        pytest.fail(str(error), pytrace=False)


def test_scenarios_are_distinct() -> None:
    names = Counter(scenario.name for scenario in ALL)
    assert [name for name, times in names.items() if times > 1] == []
    steps = Counter(repr(scenario.steps) for scenario in ALL)
    assert [scenario.name for scenario in ALL if steps[repr(scenario.steps)] > 1] == []


def test_every_method_is_played() -> None:
    played = {step.method for scenario in ALL for step in scenario.steps if isinstance(step, Call)}
    assert all_methods() - played - NOT_PLAYED.keys() == set()
    assert played & NOT_PLAYED.keys() == set()


def test_every_difference_is_needed() -> None:
    if len(TALLY.scenarios) < len(ALL):
        pytest.skip("not all scenarios were played")
    assert [item.name for item in DIFFERENCES if not TALLY.used[item.name]] == []
