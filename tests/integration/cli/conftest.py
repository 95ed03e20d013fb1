# SPDX-License-Identifier: Apache-2.0
"""Daemons for the command, with an image in a namespace of each test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from tests.support.cli import Orlop
from tests.support.daemon import CONTAINERD, ORLOPD, Daemon
from tests.support.image import Image, write_archive
from tests.support.place import short_directory

from orlop_cli.commands.containers import LOGS

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


@contextmanager
def command_for(daemon: Daemon) -> Iterator[Orlop]:
    """The command, for a namespace that no other test has, whose logs are removed in the end."""
    namespace = f"cli-{daemon.pid}-{next(_numbers)}"
    daemon.ctr(namespace)  # so that what is left of its containers is removed in the end
    yield Orlop(daemon.address, namespace)
    shutil.rmtree(LOGS / namespace, ignore_errors=True)


@pytest.fixture
def orlop(daemon: Daemon) -> Iterator[Orlop]:
    """The command for orlopd."""
    with command_for(daemon) as command:
        yield command


@pytest.fixture
def orlop_busy(orlop: Orlop, archive: Path) -> Orlop:
    """The command for orlopd, with ``busy:1`` there."""
    orlop.ok("import", str(archive))
    return orlop


@pytest.fixture
def any_orlop(either: Daemon) -> Iterator[Orlop]:
    """The command for either daemon."""
    with command_for(either) as command:
        yield command


@pytest.fixture
def any_busy(any_orlop: Orlop, archive: Path) -> Orlop:
    """The command for either daemon, with ``busy:1`` there."""
    any_orlop.ok("import", str(archive))
    return any_orlop
