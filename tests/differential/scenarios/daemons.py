# SPDX-License-Identifier: Apache-2.0
"""What the daemons say of themselves: version, health and plugins."""

from __future__ import annotations

from tests.differential.calls import Scenario, call
from tests.differential.scenarios.common import Rows, table

CONTENT = "io.containerd.content.v1"
SELF: Rows = {
    "version": call("Version.Version"),
    "version, without a namespace": call("Version.Version", {}, namespace=""),
    "health": call("Health.Check"),
    "health, without a namespace": call("Health.Check", {}, namespace=""),
    "health of a service": call("Health.Check", service="containerd.services.version.v1.Version"),
    "health of an unknown service": call("Health.Check", service="nosuch"),
    "watched health": call("Health.Watch"),
    "watched health of an unknown service": call("Health.Watch", service="nosuch"),
    "server": call("Introspection.Server"),
    "bad filter of plugins": call("Introspection.Plugins", filters=["=="]),
    "info of a plugin": call("Introspection.PluginInfo", type=CONTENT, id="content"),
    "info of an unknown plugin": call("Introspection.PluginInfo", type=CONTENT, id="nosuch"),
}
PLUGINS = {
    "content.v1": ["content"],
    "snapshotter.v1": ["overlayfs", "native"],
    "metadata.v1": ["bolt"],
    "differ.v1": ["walking"],
    "gc.v1": ["scheduler"],
    "event.v1": ["exchange"],
    "runtime.v2": ["task"],
    "grpc.v1": [
        *("containers", "content", "diff", "events", "healthcheck", "images", "introspection", "leases", "namespaces"),
        *("snapshots", "tasks", "version"),
    ],
}
SCENARIOS: list[Scenario] = [
    *table("daemon", SELF),
    *table(
        "plugin",
        {
            f"{type}.{id}": call("Introspection.Plugins", filters=[f"type==io.containerd.{type},id=={id}"])
            for type, ids in PLUGINS.items()
            for id in ids
        },
    ),
]
