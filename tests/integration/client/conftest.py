# SPDX-License-Identifier: Apache-2.0
"""The three things that the client talks to: orlopd, Debian's containerd, and a kernel in the test's own process."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.integration.client.registries import TokenServer, basic_registry, bearer_registry, docker_registry
from tests.support.daemon import CONTAINERD, NO_CRI, ORLOPD, RUNC_STATE, Daemon
from tests.support.image import Image, write_archive
from tests.support.place import short_directory

from orlop.errors import NotFound
from orlop.interfaces.snapshotter import Snapshotter
from orlop_sdk.client import Client

BUSYBOX = "example.com/library/busybox:1"


class Target:
    """Makes clients of one of the three."""

    def __init__(self, name: str, base: Path, daemon: Daemon | None) -> None:
        self.name = name
        self.base = base
        self.daemon = daemon

    def client(self, namespace: str) -> Client:
        if self.daemon is not None:
            self.daemon.ctr(namespace)  # so that the daemon's close finds what this namespace leaves
            return Client(str(self.daemon.address), namespace)
        return Client.embedded(self.config(), namespace)

    def config(self) -> dict[str, object]:
        """For a kernel in this process."""
        paths = {"root": str(self.base / "root"), "state": str(self.base / "state")}
        return {"version": 4, "disabled_plugins": ["io.containerd.grpc.v1.cri"], **paths}


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """A short directory for the whole session."""
    with short_directory() as path:
        yield path


@pytest.fixture(scope="session")
def targets(directory: Path) -> Iterator[Callable[[str], Target]]:
    """Targets by name, each daemon started when it is first asked for."""
    with ExitStack() as stack:
        made: dict[str, Target] = {}

        def target(name: str) -> Target:
            if name not in made:
                base = directory / name[0]
                base.mkdir()
                program = {"orlopd": ORLOPD, "containerd": CONTAINERD}.get(name)
                daemon = stack.enter_context(Daemon(base, program, top=NO_CRI)) if program else None
                made[name] = Target(name, base, daemon)
            return made[name]

        yield target


@pytest.fixture(params=["containerd", "orlopd", "embedded"], scope="session")
def target(request: pytest.FixtureRequest, targets: Callable[[str], Target]) -> Target:
    """One of the three."""
    return targets(request.param)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A namespace that nobody else on this host uses."""
    name = f"client-{uuid.uuid4().hex[:12]}"
    yield name
    shutil.rmtree(RUNC_STATE / name, ignore_errors=True)


@pytest.fixture
async def client(target: Target, namespace: str) -> AsyncIterator[Client]:
    """A client in a namespace of its own, where nothing is left afterwards."""
    async with target.client(namespace) as client:
        yield client
        await clean(client)


async def clean(client: Client) -> None:
    """Remove everything in the client's namespace, while garbage collection does the same."""
    for record in await client.containers.list():
        async with await client.container(record.id):
            pass
    for image in await client.images.list():
        await client.images.delete(image.name)
    for lease in await client.leases.list():
        await client.leases.delete(lease.id)
    for snapshotter in (client.snapshots(), client.snapshots("native")):
        await remove_snapshots(snapshotter)
    for digest in [info.digest async for info in client.content.walk()]:
        with suppress(NotFound):
            await client.content.delete(digest)
    for ingest in await client.content.statuses():
        with suppress(NotFound):
            await client.content.abort(ingest.ref)


async def remove_snapshots(snapshotter: Snapshotter) -> None:
    """Remove all snapshots, children first."""
    while found := [info async for info in snapshotter.walk()]:
        parents = {info.parent for info in found}
        for info in found:
            if info.name not in parents:
                with suppress(NotFound):
                    await snapshotter.remove(info.name)


@pytest.fixture(scope="session")
def archive(directory: Path) -> Path:
    """An archive with busybox."""
    return write_archive(directory / "busybox.tar", {BUSYBOX: Image()})


@pytest.fixture
async def busybox(client: Client, archive: Path) -> str:
    """The name of an image that is unpacked."""
    (image,) = await client.import_images(archive, snapshotter=None)
    return image.name


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """One that is open to all."""
    with short_directory() as base, docker_registry(base / "open") as host:
        yield host


@pytest.fixture(scope="module")
def basic() -> Iterator[str]:
    """One that asks for a password."""
    with short_directory() as base, basic_registry(base / "basic") as host:
        yield host


@pytest.fixture(scope="module")
def bearer() -> Iterator[tuple[str, TokenServer]]:
    """One that asks for tokens, and who gives them."""
    with short_directory() as base, bearer_registry(base / "bearer") as found:
        yield found
