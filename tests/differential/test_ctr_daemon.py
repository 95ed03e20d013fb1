# SPDX-License-Identifier: Apache-2.0
"""What the daemons say about themselves."""

from __future__ import annotations

from tests.support.comparison import Pair, differential
from tests.support.ctr import columns
from tests.support.transcript import Difference, Recorder

# Debian's containerd is of 1.6; these of its plugins were renamed or dropped by the versions since, whose names we use.
GONE = {
    ("io.containerd.runtime.v1", "linux"): "the runtime of containerd 1.0, dropped in 2.0",
    ("io.containerd.snapshotter.v1", "aufs"): "dropped in 2.0; no kernel has aufs",
    ("io.containerd.snapshotter.v1", "devmapper"): "not among the built-in snapshotters",
    ("io.containerd.snapshotter.v1", "zfs"): "not among the built-in snapshotters",
    ("io.containerd.snapshotter.v1", "btrfs"): "not among the built-in snapshotters",
    **{
        ("io.containerd.service.v1", f"{name}-service"): "an in-process double of io.containerd.grpc.v1, for Go's sake"
        for name in ("containers", "content", "images", "introspection", "leases", "namespaces", "snapshots")
    },
    ("io.containerd.monitor.v1", "cgroups"): "io.containerd.monitor.task.v1.cgroups since 2.0",
    ("io.containerd.internal.v1", "restart"): "io.containerd.monitor.container.v1.restart since 2.0",
}


def plugins(pair: Pair, *, subject: bool) -> dict[tuple[str, str], str]:
    """The state of every plugin, by type and id."""
    daemon = pair.subject if subject else pair.standard
    rows = columns(daemon.ctr("default").ok("plugins", "ls"))
    return {(row[0], row[1]): row[-1] for row in rows if row}


def test_plugins_are_a_superset(pair: Pair) -> None:
    """Whatever works in containerd has a plugin of the same type and id that works here, or a reason why not."""
    wanted = {plugin for plugin, state in plugins(pair, subject=False).items() if state == "ok"}
    here = plugins(pair, subject=True)
    missing = {plugin: here.get(plugin, "missing") for plugin in wanted - GONE.keys() if here.get(plugin) != "ok"}
    assert missing == {}


def test_no_plugin_fails(pair: Pair) -> None:
    """With the default set-up every plugin works, or says why this host cannot have it."""
    assert {plugin: state for plugin, state in plugins(pair, subject=True).items() if state not in {"ok", "skip"}} == {}


@differential(
    Difference("ctr compares the server's version with its own", r"! WARNING: (version|revision) mismatch"),
)
def test_version(ctr: Recorder) -> None:
    """Each daemon says a version and a revision of its own."""
    ctr("version", hide=[(r"(Version|Revision|Go version|UUID):.*", r"\1: <own>")])


@differential()
def test_plugins_by_type(ctr: Recorder) -> None:
    ctr("plugins", "ls", "type==io.containerd.content.v1")
    ctr("plugins", "ls", "type==io.containerd.snapshotter.v1,id==overlayfs")
    ctr("plugins", "ls", "type==nosuch")
    ctr("plugins", "ls", "==")
    ctr("plugins", "ls", "-d", "id==overlayfs", hide=[(r"Capabilities.*|Platforms.*|init +\S+", "")])
