# SPDX-License-Identifier: Apache-2.0
"""What every method says to a call without a namespace, with an invalid one, to an empty request and to nonsense."""

from __future__ import annotations

from tests.differential.calls import Call, Scenario, all_methods, call
from tests.differential.scenarios.common import table

ENDLESS = {"Health.Watch", "Events.Subscribe"}
"""Streams that do not end by themselves."""
FATAL = {"Diff.Apply", "Events.Forward"}
"""Methods whose empty request containerd 1.6 dies of."""
METHODS = sorted(all_methods() - ENDLESS - {"Introspection.PluginInfo"})
TOLD = {"Introspection.Plugins", "Introspection.Server", "Version.Version", "Namespaces.List"}
"""Methods that answer with what each daemon is, and not with what is in the scenario's namespace."""
NAMED = [name for name in METHODS if name not in TOLD | FATAL]
NONSENSE = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"


def bare(name: str) -> dict[str, str]:
    """The least that a method asks for before it looks at the namespace."""
    return {"snapshotter": "native"} if name.startswith("Snapshots.") else {}


SCENARIOS: list[Scenario] = [
    *table("without a namespace", {name: Call(name, (bare(name),), "") for name in NAMED}),
    *table("in an invalid namespace", {name: Call(name, (bare(name),), "no/slash") for name in NAMED}),
    *table("with an empty request", {name: Call(name, (bare(name),)) for name in NAMED}),
    *table("with nonsense", {name: Call(name, raw=NONSENSE) for name in METHODS if name not in {"Version.Version"}}),
    *table(
        "with a lease that is not there",
        {
            "Containers.List": call("Containers.List", {}, lease="nosuch"),
            "Leases.List": call("Leases.List", {}, lease="nosuch"),
            "Content.List": call("Content.List", {}, lease="nosuch"),
            "Snapshots.List": call("Snapshots.List", {"snapshotter": "native"}, lease="nosuch"),
            "Namespaces.Get": call("Namespaces.Get", {"name": "<ns>"}, lease="nosuch"),
            "Tasks.List": call("Tasks.List", {}, lease="nosuch"),
            "Leases.Create": call("Leases.Create", {"id": "l"}, lease="nosuch"),
        },
    ),
]
