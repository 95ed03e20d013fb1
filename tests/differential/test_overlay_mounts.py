# SPDX-License-Identifier: Apache-2.0
"""Mounts of our overlay snapshotter have the form of containerd's: shims and differs take them apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.daemon import CONTAINERD, Daemon
from tests.support.place import short_directory

from orlop import context
from orlop.interfaces.snapshotter import Snapshotter
from orlop.values import Mount
from orlop_proxy.remote import ProxySnapshotter
from orlop_snapshots.overlayfs import OverlaySnapshotter, default_options

HELD = {"containerd.io/gc.root": "held"}
"""Nothing refers to these snapshots, so garbage collection could come between."""


@pytest.fixture
def containerd() -> Iterator[Daemon]:
    with short_directory() as base, Daemon(base, CONTAINERD) as daemon:
        yield daemon


async def mounts(snapshotter: Snapshotter, root: Path) -> dict[str, list[Mount]]:
    """The mounts of every kind of snapshot, with paths relative to the root and the order of options left out."""
    found = {"no parent": await snapshotter.prepare("0", labels=HELD)}
    found["view of nothing"] = await snapshotter.view("v0", labels=HELD)
    await snapshotter.commit("layer 0", "0", labels=HELD)
    found["view of one layer"] = await snapshotter.view("v1", "layer 0", labels=HELD)
    found["one parent"] = await snapshotter.prepare("1", "layer 0", labels=HELD)
    await snapshotter.commit("layer 1", "1", labels=HELD)
    found["two parents"] = await snapshotter.prepare("2", "layer 1", labels=HELD)
    found["view of two layers"] = await snapshotter.view("v2", "layer 1", labels=HELD)

    def relative(text: str) -> str:
        return text.replace(str(root), "ROOT")

    return {
        name: [
            Mount(mount.type, relative(mount.source), mount.target, tuple(sorted(map(relative, mount.options))))
            for mount in listed
        ]
        for name, listed in found.items()
    }


async def test_mounts_have_the_same_form(containerd: Daemon, tmp_path: Path) -> None:
    remote = ProxySnapshotter(str(containerd.address), "overlayfs")
    ours = OverlaySnapshotter(tmp_path, options=default_options())
    with context.scope(namespace="mounts"):
        theirs = await mounts(remote, containerd.root / "io.containerd.snapshotter.v1.overlayfs")
    assert await mounts(ours, tmp_path) == theirs
    await remote.close()
    await ours.close()
