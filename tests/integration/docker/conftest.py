# SPDX-License-Identifier: Apache-2.0
"""Debian's dockerd on orlopd; in long runs on containerd as well, which shows what is expected of both."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from tests.conftest import mount_points
from tests.support.ctr import eventually
from tests.support.daemon import CONTAINERD, ORLOPD, Daemon
from tests.support.docker import DOCKER, DOCKERD, Dockerd, write_docker_archive
from tests.support.image import Image
from tests.support.place import short_directory

IMAGE = "busy:1"
QUIET = ("--network", "none")


@dataclass
class Place:
    """A dockerd, and the daemon that it uses."""

    daemon: Daemon
    docker: Dockerd

    def run(self, *args: str, flags: tuple[str, ...] = ()) -> str:
        """Start a container in the background and give its name."""
        name = f"c{uuid.uuid4().hex[:10]}"
        self.docker.ok("run", "--detach", "--name", name, *QUIET, *flags, IMAGE, *args)
        return name

    def shell(self, script: str, *flags: str) -> str:
        """Start a shell in the background and give the container's name."""
        return self.run("sh", "-c", script, flags=flags)

    def becomes(self, name: str, format: str, wanted: str, seconds: float = 30.0) -> None:
        """Wait until a field of a container has a value."""
        seen: list[str] = [""]

        def claim() -> bool:
            seen[0] = self.docker.inspect(name, format)
            return seen[0] == wanted

        eventually(claim, lambda: f"{name}: {format} is {seen[0]!r} and not {wanted!r}\n{self.tail()}", seconds)

    def logged(self, name: str, wanted: str) -> None:
        """Wait until a container has printed something."""
        eventually(lambda: wanted in self.docker.ok("logs", name), f"{name} does not print {wanted!r}")

    def leftovers(self) -> list[str]:
        """What containers left on the host."""
        bundles = self.daemon.state / "io.containerd.runtime.v2.task" / self.docker.namespace
        return [
            *(f"mount {point}" for point in mount_points(self.daemon.base)),
            *(f"shim {pid}: {' '.join(filter(None, argv))}" for pid, argv in self.daemon.shims().items()),
            *(str(path) for path in (bundles.glob("*") if bundles.exists() else ())),
            *(str(path) for path in self.docker.cgroups() if path.parent.name == self.docker.namespace),
        ]

    def tail(self) -> str:
        """The ends of both logs."""
        return f"--- {self.daemon.name}\n{self.daemon.tail(40)}\n--- dockerd\n{self.docker.tail(60)}"

    def clear(self) -> None:
        """Remove all containers; nothing of them may be left."""
        if ids := self.docker.ok("ps", "--all", "--quiet").split():
            self.docker.ok("rm", "--force", *ids)
        # On a loaded machine dockerd gives up on the deletion of a task after two seconds; then it is a task still.
        self.daemon.ctr(self.docker.namespace).remove_tasks()
        eventually(lambda: not self.leftovers(), lambda: f"left behind: {self.leftovers()}\n{self.tail()}", 60)


def check_host() -> None:
    """Skip where something is missing."""
    missing = [name for name in (DOCKERD, DOCKER, "containerd", "ctr", "runc", "busybox") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}")


@contextmanager
def made(daemon: str, *flags: str) -> Iterator[Place]:
    """A fresh place; nothing of its containers may be left at the end."""
    with ExitStack() as stack:
        base = stack.enter_context(short_directory())
        for name in "cd":
            (base / name).mkdir()
        program = {"orlopd": ORLOPD, "containerd": CONTAINERD}[daemon]
        place = Place(made_daemon := Daemon(base / "c", program), Dockerd(base / "d", made_daemon.address, *flags))
        stack.enter_context(place.daemon)
        stack.enter_context(place.docker)
        place.docker.ok("load", "--input", str(write_docker_archive(base / "busy.tar", {IMAGE: Image()})))
        yield place
        place.clear()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Long runs play everything on containerd as well, and let daemons end in more ways."""
    long = "stress" in str(metafunc.config.option.markexpr)
    if "daemon_name" in metafunc.fixturenames:
        also = [pytest.param("containerd", marks=pytest.mark.stress)] if long else []
        metafunc.parametrize("daemon_name", ["orlopd", *also], scope="session")
    if "end" in metafunc.fixturenames:
        also = [pytest.param("stop", marks=pytest.mark.stress)] if long else []
        metafunc.parametrize("end", ["kill", *also])


@pytest.fixture(scope="session")
def shared_place(daemon_name: str) -> Iterator[Place]:
    """A place for all tests that restart nothing."""
    check_host()
    with made(daemon_name, "--experimental", "--add-runtime", "crun=/usr/bin/crun") as place:
        yield place


@pytest.fixture
def place(shared_place: Place) -> Iterator[Place]:
    """The same for one test, whose containers are removed."""
    yield shared_place
    shared_place.clear()


@pytest.fixture
def docker(place: Place) -> Dockerd:
    """Its ``docker``."""
    return place.docker


@pytest.fixture
def fresh(daemon_name: str) -> Iterator[Callable[..., Place]]:
    """Makes a place of a test's own, with flags for dockerd."""
    check_host()
    with ExitStack() as stack:
        yield lambda *flags: stack.enter_context(made(daemon_name, *flags))
