# SPDX-License-Identifier: Apache-2.0
"""The two daemons that are compared, and what both are fed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.differential.calls import all_methods
from tests.differential.differences import DIFFERENCES
from tests.differential.sides import TALLY, Both
from tests.support.api import PACKAGES
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


@pytest.fixture(scope="session")
def both(directory: Path) -> Iterator[Both]:
    """Another two, which scenarios and generated sequences have to themselves."""
    place = directory / "both"
    for name in ("c", "o", "own"):
        (place / name).mkdir(parents=True)
    with (
        Daemon(place / "c", CONTAINERD, tables=COLLECTION) as standard,
        Daemon(place / "o", SUBJECT, tables=COLLECTION) as subject,
    ):
        sides = Both(standard, subject, place / "own")
        yield sides
        sides.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was compared, and what is meant to differ."""
    if not TALLY.methods:
        return
    played = all_methods() & TALLY.methods.keys()
    write = terminalreporter.write_line
    terminalreporter.section("both daemons")
    write(f"{len(TALLY.scenarios)} scenarios without an unexplained difference")
    write(f"{TALLY.steps['written']} steps of written scenarios, {TALLY.steps['generated']} of generated sequences")
    write(f"{len(played)} of {len(all_methods())} methods of {len(PACKAGES) + 1} services")
    write(f"{TALLY.failed['written'] + TALLY.failed['generated']} differences that nothing explains")
    write(f"{sum(TALLY.used.values())} that are meant, of {len(TALLY.used)} kinds (of {len(DIFFERENCES)} listed):")
    for item in DIFFERENCES:
        write(f"  {TALLY.used[item.name]:5} {item.name}: {item.why}")
