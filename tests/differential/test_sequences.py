# SPDX-License-Identifier: Apache-2.0
"""Plays generated sequences on both daemons: a few of them as a rule, and very many under ``make differential``.

The environment variable ``ORLOP_DIFFERENTIAL_STEPS`` says how many steps there are to be at least; then the sequences
are new ones in every run, and a failure shows the seed to repeat it with.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.differential.machines import MACHINES, Machine
from tests.differential.sides import TALLY, Both

STEPS = int(os.environ.get("ORLOP_DIFFERENTIAL_STEPS", "0"))
LENGTH = 25
"""Steps of the longest sequence."""
FEW = 3
"""Sequences of each machine as a rule."""


def many(machine: type[Machine]) -> settings:
    """How much to play."""
    return settings(
        max_examples=max(FEW, STEPS * 5 // (4 * len(MACHINES) * LENGTH)),
        stateful_step_count=LENGTH,
        derandomize=not STEPS,
        database=None,
        deadline=None,
        print_blob=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.__name__)
@pytest.mark.timeout(120 if not STEPS else 3600)
def test_sequences(both: Both, machine: type[Machine]) -> None:
    machine.both = both
    run_state_machine_as_test(machine, settings=many(machine))


@pytest.mark.skipif(not STEPS, reason="as many steps as make differential plays were not asked for")
def test_there_were_enough_steps() -> None:
    assert TALLY.steps["generated"] >= STEPS
