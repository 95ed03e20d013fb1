# SPDX-License-Identifier: Apache-2.0
"""The two daemons that are compared, and what both are fed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.comparison import Pair
from tests.support.daemon import CONTAINERD, SUBJECT, Daemon
from tests.support.image import Image, many_layers, noise, write_archive, write_layout
from tests.support.place import short_directory
from tests.support.registry import Registry

# Garbage is collected when a scenario asks for it: how soon it happens otherwise depends on each daemon's speed.
COLLECTION = """\
[plugins."io.containerd.gc.v1.scheduler"]
pause_threshold = 0.00001
mutation_threshold = 1000000
startup_delay = "1h"
"""


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """A short directory for the whole session."""
    with short_directory() as path:
        yield path


@pytest.fixture(scope="session")
def registry(directory: Path) -> Iterator[Registry]:
    """A registry with the images ``busy`` and ``many``."""
    with Registry(directory / "registry") as registry:
        registry.push(write_layout(directory / "busy", {"latest": Image()}), "busy")
        registry.push(write_layout(directory / "many", {"latest": many_layers(5)}), "many")
        yield registry


@pytest.fixture(scope="session")
def pair(directory: Path, registry: Registry) -> Iterator[Pair]:
    """Debian's containerd, and orlopd."""
    data = {
        "busy": write_archive(directory / "busy.tar", {"example.com/busy:1": Image(labels={"say": "hi"})}),
        "many": write_archive(directory / "many.tar", {"example.com/many:1": many_layers(5)}),
        "noise": directory / "noise",
        "registry": Path(registry.host),
    }
    data["noise"].write_bytes(noise(1, 3_000_000))
    for name in "co":
        (directory / name).mkdir()
    with (
        Daemon(directory / "c", CONTAINERD, tables=COLLECTION) as standard,
        Daemon(directory / "o", SUBJECT, tables=COLLECTION) as subject,
    ):
        yield Pair(standard, subject, directory, data)
