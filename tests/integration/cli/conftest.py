# SPDX-License-Identifier: Apache-2.0
"""Daemons for the command, with an image in a namespace of each test."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from tests.support.cli import Orlop
from tests.support.daemon import CONTAINERD, ORLOPD, Daemon
from tests.support.image import Image, write_archive
from tests.support.place import short_directory

BUSY = "busy:1"
_numbers = count(1)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with busybox, called ``busy:1``."""
    return write_archive(tmp_path_factory.mktemp("cli") / "busy.tar", {f"docker.io/library/{BUSY}": Image()})


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A daemon of ours."""
    with short_directory() as base, Daemon(base, ORLOPD) as daemon:
        yield daemon


@pytest.fixture(scope="module", params=[ORLOPD, CONTAINERD], ids=["orlopd", "containerd"])
def either(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """orlopd, and Debian's containerd."""
    with short_directory() as base, Daemon(base, request.param) as daemon:
        yield daemon


def command_for(daemon: Daemon) -> Orlop:
    """The command, for a namespace that no other test has."""
    namespace = f"cli-{daemon.pid}-{next(_numbers)}"
    daemon.ctr(namespace)  # so that what is left of its containers is removed in the end
    return Orlop(daemon.address, namespace)


@pytest.fixture
def orlop(daemon: Daemon) -> Orlop:
    """The command for orlopd."""
    return command_for(daemon)


@pytest.fixture
def orlop_busy(orlop: Orlop, archive: Path) -> Orlop:
    """The command for orlopd, with ``busy:1`` there."""
    orlop.ok("import", str(archive))
    return orlop


@pytest.fixture
def any_orlop(either: Daemon) -> Orlop:
    """The command for either daemon."""
    return command_for(either)


@pytest.fixture
def any_busy(any_orlop: Orlop, archive: Path) -> Orlop:
    """The command for either daemon, with ``busy:1`` there."""
    any_orlop.ok("import", str(archive))
    return any_orlop
