# SPDX-License-Identifier: Apache-2.0
"""Scenarios that are written once and played on containerd and on orlopd.

A scenario is a name and a few steps; most of them stand in tables, a row each. `tests.differential.sides` plays every
step on both daemons, in a namespace that is fresh on either, and compares at once how the call ended: its code, every
field of the answer, and what the error's text names. Then it compares the events of the namespace, in their order.
Nobody writes down what the answer is to be: containerd says that.

To add one, add a row to the table that it fits in::

    DELETE = {
        "not there": call("Containers.Delete", id="nosuch"),
        "twice": [call("Containers.Delete", id="c1"), call("Containers.Delete", id="c1")],
    }

``call`` takes the method and the fields of the request; fields that are called *namespace* or *lease*, and several
requests of a stream, go into mappings: ``call("Namespaces.Get", {"name": "x"}, {...})``. With ``namespace=`` and
``lease=`` other headers are sent. ``<ns>`` stands for the scenario's namespace wherever it occurs (``<ns>-b`` is
another one that is its own), ``<dir>`` for a directory of each side, ``<tree>`` for a root file system with busybox.
``Follow`` subscribes to events with filters, ``Make`` writes a file.

What every row of a table begins and ends with is given to ``table`` as *before* and *after*: end with calls that show
what there is now, since a change that a call answers well to may still be the wrong one. A new table goes into `ALL`
below. What daemons make up themselves (times, pids, ids of directories) is compared by its kind.

When the two differ, and orlopd is right to, `tests.differential.differences` gets an entry with the reason: as narrow
as it can be, for it is tried on all scenarios. An entry that no scenario needs any more fails the run.

``make test`` plays all of this and a few generated sequences (`tests.differential.machines`); ``make differential``
plays more than ten thousand generated steps, new ones every time, and prints what was counted.
``.venv/bin/python -m pytest tests/differential/test_scenarios.py -k "delete and container"`` plays some.
"""

from __future__ import annotations

from tests.differential.calls import Scenario
from tests.differential.scenarios import (
    containers,
    content,
    daemons,
    diffs,
    events,
    filters,
    images,
    leases,
    namespaces,
    requests,
    snapshots,
    tasks,
)


def distinct(scenarios: list[Scenario]) -> list[Scenario]:
    """Those that do what none before them does: tables overlap where they are products."""
    by_steps: dict[str, Scenario] = {}
    for scenario in scenarios:
        by_steps.setdefault(repr(scenario.steps), scenario)
    return list(by_steps.values())


_TABLES = [
    *containers.SCENARIOS,
    *images.SCENARIOS,
    *content.SCENARIOS,
    *leases.SCENARIOS,
    *namespaces.SCENARIOS,
    *snapshots.SCENARIOS,
    *events.SCENARIOS,
    *filters.SCENARIOS,
    *requests.SCENARIOS,
    *daemons.SCENARIOS,
    *diffs.SCENARIOS,
    *tasks.SCENARIOS,
]
ALL: list[Scenario] = distinct(_TABLES)
"""Every scenario, each with steps of its own."""
