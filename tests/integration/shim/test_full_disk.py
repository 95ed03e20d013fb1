# SPDX-License-Identifier: Apache-2.0
"""Our shim when the disk with its state is full: clear errors, nothing left behind, and no container is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support import oci
from tests.support.runtime import PATIENCE, RUNC, World, pids_of, world

from orlop.errors import OrlopError
from orlop.interfaces.runtime import Task, TaskRequest
from orlop.values import AnyMessage, Stdio, TaskStatus
from orlop_sdk.api.types.runc.options.oci_pb2 import Options

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("runc", "busybox"))), reason="needs root, runc and busybox-static"
)
PAGE = os.sysconf("SC_PAGE_SIZE")
#: What is said of it; the second by a runc that has lost the reason.
REASONS = re.compile("no space left|unable to store init state", re.IGNORECASE)
#: More pages than a container takes.
MANY = 16


class Disk:
    """A world whose bundles, and the state of whose OCI runtime, are on a small disk."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.place = world.base / "state"
        self._filler = self.place / "filler"

    def fill(self, pages: int = 0) -> None:
        """Leave so many pages free."""
        self.free()
        with self._filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(PAGE))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        os.truncate(self._filler, self._filler.stat().st_size - pages * PAGE)

    def free(self) -> None:
        """Take away what fills it."""
        self._filler.unlink(missing_ok=True)

    async def create(self, id: str, *args: str) -> Task:
        """A container."""
        spec = oci.spec(self.world.namespace, id, args)
        options = Options(root=str(self.place / ".runc")).SerializeToString()
        request = TaskRequest(
            RUNC,
            oci.spec_message(spec),
            self.world.tree,
            Stdio(),
            options=AnyMessage("containerd.runc.v1.Options", options),
        )
        return await self.world.runtime.create(id, request)

    async def remove(self, task: Task) -> None:
        """Kill and delete it."""
        await task.kill(signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            await task.wait()
            await task.delete()

    def states(self) -> list[str]:
        """What the OCI runtime has kept."""
        return sorted(path.name for path in self.place.glob(f".runc/{self.world.namespace}/*"))


@pytest.fixture
def small(short_tmp: Path) -> Iterator[Path]:
    """A directory whose ``state`` is a small disk."""
    (short_tmp / "state").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(short_tmp / "state")], check=True)
    try:
        yield short_tmp
    finally:
        subprocess.run(["umount", "--lazy", str(short_tmp / "state")], check=True)


@pytest_asyncio.fixture
async def disk(small: Path) -> AsyncIterator[Disk]:
    """A world on it."""
    async with world(small, own=True) as made:
        # The bundle's mounts are below this one, which is no leftover.
        made.leftovers = lambda: leftovers(made)  # type: ignore[method-assign]
        place = Disk(made)
        yield place
        place.free()


def leftovers(world: World) -> list[str]:
    """As `World.leftovers`, without the disk itself."""
    return [each for each in World.leftovers(world) if each != f"mount {world.base}/state"]


def check_reason(error: OrlopError) -> None:
    """The error says that there is no room."""
    assert REASONS.search(str(error)), str(error)


async def test_creating_on_a_disk_with_little_room(disk: Disk) -> None:
    """Wherever it runs full: the container is created, or the reason is told and nothing is left."""
    for pages in range(MANY):
        disk.fill(pages)
        id = f"c{pages}"
        try:
            task = await disk.create(id, "sleep", "1000")
        except OrlopError as error:
            check_reason(error)
            assert await disk.world.settled() == []
            assert disk.states() == []
        else:
            await disk.remove(task)
    disk.free()
    await disk.remove(await disk.create("c1", "sleep", "1000"))
    assert await disk.world.settled() == []


async def test_starting_on_a_full_disk(disk: Disk) -> None:
    task = await disk.create("c1", "sleep", "98131")
    disk.fill()
    try:
        await task.start()
    except OrlopError as error:
        check_reason(error)
        assert (await task.state()).status is TaskStatus.CREATED
        disk.free()
        await task.start()
    assert (await task.state()).status is TaskStatus.RUNNING
    # The OCI runtime says that it is started a moment before the program is.
    for _ in range(int(PATIENCE / 0.05)):
        if pids_of("98131"):
            break
        await asyncio.sleep(0.05)
    assert len(pids_of("98131")) == 1
    await disk.remove(task)
    assert await disk.world.settled() == []


async def test_further_processes_on_a_full_disk(disk: Disk) -> None:
    task = await disk.create("c1", "sleep", "98132")
    await task.start()
    bundle = disk.world.bundle("c1")
    before = sorted(os.listdir(bundle))
    spec = oci.process_message(oci.process(["sh", "-c", "exit 5"]))
    for pages in range(MANY):
        disk.fill(pages)
        await task.exec("e1", spec, Stdio())
        try:
            await task.start("e1")
        except OrlopError as error:
            check_reason(error)
            assert (await task.state("e1")).status is TaskStatus.CREATED
            await task.delete("e1")
            assert sorted(os.listdir(bundle)) == before
        else:
            assert (await task.wait("e1")).status == 5
            await task.delete("e1")
        assert (await task.state()).status is TaskStatus.RUNNING
    await disk.remove(task)
    assert await disk.world.settled() == []


async def test_a_daemon_that_restarts_on_a_full_disk(disk: Disk) -> None:
    """What runs is found again, and can be ended and deleted without any room."""
    task = await disk.create("c1", "sleep", "98133")
    await task.start()
    disk.fill()
    await disk.world.restart()
    found = await disk.world.runtime.get("c1")
    assert (found.pid, (await found.state()).status) == (task.pid, TaskStatus.RUNNING)
    await disk.remove(found)
    assert pids_of("98133") == []
    assert await disk.world.settled() == []
    assert disk.states() == []
