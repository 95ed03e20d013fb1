# SPDX-License-Identifier: Apache-2.0
"""The daemon is killed at any instant: containers go on, and every call either happened or did not.

Instants are random, from fixed seeds, over the time that the operation takes when nobody interferes.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import mount_points
from tests.support.ctr import Ctr, columns, environment, eventually
from tests.support.daemon import RUNC_STATE, SUBJECT, Daemon
from tests.support.image import Image, busybox_layer, entry, noise, tar, write_archive, write_layout
from tests.support.place import short_directory
from tests.support.registry import Registry

from orlop.config import from_data
from orlop.interfaces.metadata import METADATA
from orlop.kernel import Kernel

BUSY = "example.com/busy:1"
KILLS = 5
"""How often each test kills the daemon; ten tests make fifty."""
STORES = ("io.containerd.content.v1.content/blobs", "io.containerd.content.v1.content/ingest")
SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with an image of several layers."""
    base = tmp_path_factory.mktemp("registry")
    layers = [busybox_layer(), *(tar([entry(f"data{number}", noise(number, 400_000))]) for number in range(6))]
    with Registry(base / "r") as registry:
        registry.push(write_layout(base / "layout", {"latest": Image(layers)}), "layered")
        yield registry


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon that may be killed as the test likes."""
    with short_directory() as base, Daemon(base, SUBJECT) as daemon:
        yield daemon


@pytest.fixture
def ctr(daemon: Daemon, request: pytest.FixtureRequest) -> Ctr:
    """``ctr`` in a namespace of the test's own."""
    return daemon.ctr(f"crash-{os.getpid()}-{abs(hash(request.node.name)) % 100_000}")


def check_store(daemon: Daemon) -> None:
    """Open the stores of a daemon that is not running, in this process, and have them check themselves."""
    if SUBJECT[0].endswith("containerd"):
        return

    async def faults() -> list[str]:
        config = from_data({"root": str(daemon.root), "state": str(daemon.state)})
        async with Kernel(config, only={f"{METADATA.name}.bolt"}) as kernel:
            return await kernel.get(METADATA).check()

    assert asyncio.run(faults()) == []


def held(daemon: Daemon) -> dict[str, int]:
    """How many files the stores hold, how many snapshots there are, and what all files amount to, in bytes."""
    places = {name: daemon.root / name for name in STORES} | {"snapshots": daemon.root / SNAPSHOTS / "snapshots"}
    found = {}
    for name, place in places.items():
        sizes = []
        for directory, _, files in os.walk(place):
            for file in files:
                try:
                    sizes.append(os.lstat(os.path.join(directory, file)).st_size)
                except FileNotFoundError:
                    continue  # being removed just now
        found[name] = len(os.listdir(place)) if name == "snapshots" and place.is_dir() else len(sizes)
        found[f"{name} bytes"] = sum(sizes)
    return found


def no_trace(daemon: Daemon, ctr: Ctr) -> None:
    """Nothing of any container is left: no shim, no mount, no bundle, no state of the runtime."""

    def traces() -> list[str]:
        bundles = daemon.state / "io.containerd.runtime.v2.task" / ctr.namespace
        runc = RUNC_STATE / ctr.namespace
        return [
            *(f"shim {pid}: {' '.join(argv)}" for pid, argv in daemon.shims().items()),
            *(f"mount {point}" for point in mount_points(daemon.base)),
            *(f"bundle {path}" for path in (bundles.iterdir() if bundles.is_dir() else ())),
            *(f"runc {path}" for path in (runc.iterdir() if runc.is_dir() else ())),
        ]

    deadline = time.monotonic() + 15
    while (left := traces()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == [], f"left behind: {left}\n{daemon.tail()}"


def interrupted(daemon: Daemon, ctr: Ctr, calls: list[tuple[str, ...]], after: float) -> None:
    """Begin calls, one after the other, and kill the daemon that many seconds later; their outcome does not matter."""
    deadline = time.monotonic() + after
    for call in calls:
        process = subprocess.Popen(
            ctr.command(*call),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            daemon.kill()
            # Its daemon is gone; a client that still waits for something would wait for ever.
            try:
                process.wait(1)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            return
    time.sleep(max(0.0, deadline - time.monotonic()))
    daemon.kill()


def duration(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    start = time.monotonic()
    action()
    return time.monotonic() - start


def release(ctr: Ctr) -> None:
    """Give up the leases of clients that died."""
    for lease in ctr.ok("leases", "ls", "-q").split():
        ctr.ok("leases", "rm", "--sync", lease)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", range(4))
def test_killed_while_pulling(daemon: Daemon, ctr: Ctr, registry: Registry, seed: int) -> None:
    """A pull can be repeated, and when the image goes all of its disk space comes back."""
    reference = f"{registry.host}/layered:latest"
    pull = ("images", "pull", "--plain-http", reference)

    def remove() -> None:
        ctr.ok("images", "rm", "--sync", reference)
        release(ctr)

    time_needed = duration(lambda: ctr.ok(*pull))
    remove()
    empty = held(daemon)
    instants = random.Random(seed)
    for _ in range(KILLS):
        interrupted(daemon, ctr, [pull], instants.uniform(0, 1.1 * time_needed))
        check_store(daemon)
        daemon.start()
        ctr.ok(*pull)
        assert "complete (8/8)" in ctr.ok("images", "check", f"name=={reference}")
        run = ctr.run("run", "--rm", reference, "c1", "sh", "-c", "cat /data* | wc -c")
        assert run.out == "2400000\n", str(run)
        remove()
        eventually(lambda: held(daemon) == empty, lambda: f"{held(daemon)} is {empty}")
    no_trace(daemon, ctr)


def forget(ctr: Ctr, id: str) -> None:
    """Remove whatever there is of a container, in whatever state."""
    ctr.run("tasks", "rm", "--force", id)
    ctr.run("containers", "rm", id)
    ctr.run("snapshots", "rm", id)
    for noun in ("tasks", "containers", "snapshots"):
        assert id not in {row[0] for row in columns(ctr.ok(noun, "ls")) if row}, f"{id} stays among the {noun}"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", range(3))
def test_killed_while_running(daemon: Daemon, ctr: Ctr, tmp_path: Path, seed: int) -> None:
    """A container that was being created, started or removed can be removed, and then run again."""
    ctr.ok("images", "import", str(write_archive(tmp_path / "busy.tar", {BUSY: Image()})))
    run = ("run", "--rm", BUSY, "c1", "echo", "ran")
    collect(ctr)
    before = held(daemon)
    time_needed = duration(lambda: ctr.ok(*run))
    instants = random.Random(100 + seed)
    for _ in range(KILLS):
        interrupted(daemon, ctr, [run], instants.uniform(0, 1.1 * time_needed))
        check_store(daemon)
        daemon.start()
        forget(ctr, "c1")
        no_trace(daemon, ctr)
        assert ctr.ok(*run) == "ran\n"
        release(ctr)
        collect(ctr)
        eventually(lambda: held(daemon) == before, lambda: f"{held(daemon)} is {before}")


def collect(ctr: Ctr) -> None:
    """Have garbage collected, which a lease that goes away synchronously does."""
    ctr.ok("leases", "create", "--id", "collect")
    ctr.ok("leases", "rm", "--sync", "collect")


@pytest.mark.timeout(200)
def test_killed_while_a_process_is_started(daemon: Daemon, ctr: Ctr, tmp_path: Path) -> None:
    """The container runs on, and further processes can be started in it; one that was is there, or it is not."""
    ctr.ok("images", "import", str(write_archive(tmp_path / "busy.tar", {BUSY: Image()})))
    ctr.ok("run", "--detach", BUSY, "c1", "sleep", "1000")
    pids = task_pids(ctr)
    count = iter(range(1000))

    def exec() -> tuple[str, ...]:
        return ("tasks", "exec", "--exec-id", f"e{next(count)}", "c1", "sh", "-c", "echo said; sleep 0.1")

    time_needed = duration(lambda: ctr.ok(*exec()))
    instants = random.Random(300)
    for _ in range(KILLS):
        interrupted(daemon, ctr, [exec()], instants.uniform(0, 1.1 * time_needed))
        daemon.start()
        assert task_states(ctr) == {"c1": "RUNNING"}
        assert task_pids(ctr) == pids
        assert ctr.ok(*exec()) == "said\n"
        eventually(lambda: len(ctr.ok("tasks", "ps", "c1").splitlines()) == 2, lambda: ctr.ok("tasks", "ps", "c1"))
    forget(ctr, "c1")
    no_trace(daemon, ctr)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", range(3))
def test_killed_while_removing(daemon: Daemon, ctr: Ctr, tmp_path: Path, seed: int) -> None:
    """What was being removed can be removed again, and made again."""
    archive = str(write_archive(tmp_path / "busy.tar", {BUSY: Image()}))
    removal: list[tuple[str, ...]] = [
        ("tasks", "rm", "--force", "c1"),
        ("containers", "rm", "c1"),
        ("images", "rm", "--sync", BUSY),
    ]

    def make() -> None:
        ctr.ok("images", "import", archive)
        ctr.ok("run", "--detach", BUSY, "c1", "sleep", "1000")

    make()
    time_needed = duration(lambda: [ctr.ok(*call) for call in removal])
    empty = held(daemon)
    instants = random.Random(200 + seed)
    for _ in range(KILLS):
        make()
        interrupted(daemon, ctr, removal, instants.uniform(0, 1.1 * time_needed))
        check_store(daemon)
        daemon.start()
        forget(ctr, "c1")
        ctr.run("images", "rm", "--sync", BUSY)
        release(ctr)
        collect(ctr)
        eventually(lambda: held(daemon) == empty, lambda: f"{held(daemon)} is {empty}")
        no_trace(daemon, ctr)


def task_states(ctr: Ctr) -> dict[str, str]:
    """The state of every task, by id."""
    return {row[0]: row[2] for row in columns(ctr.ok("tasks", "ls")) if row}


def task_pids(ctr: Ctr) -> dict[str, int]:
    """The pid of every task, by id."""
    return {row[0]: int(row[1]) for row in columns(ctr.ok("tasks", "ls")) if row}


def test_containers_survive(daemon: Daemon, ctr: Ctr, tmp_path: Path) -> None:
    """Containers run on without the daemon; the next one finds them, also those that ended meanwhile."""
    ctr.ok("images", "import", str(write_archive(tmp_path / "busy.tar", {BUSY: Image()})))
    log = tmp_path / "log"
    loop = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.05; done"
    ctr.ok("run", "--detach", "--log-uri", f"file://{log}", BUSY, "c1", "sh", "-c", loop)
    ctr.ok("run", "--detach", BUSY, "c2", "sleep", "1000")
    ctr.ok("run", "--detach", BUSY, "c3", "sleep", "1000")
    ctr.ok("tasks", "exec", "--detach", "--exec-id", "e1", "c3", "sleep", "999")
    ctr.ok("tasks", "pause", "c3")
    pids = task_pids(ctr)
    daemon.kill()
    lines = len(log.read_text().splitlines())
    os.kill(pids["c2"], signal.SIGKILL)
    eventually(lambda: len(log.read_text().splitlines()) > lines + 2, "c1 writes on without the daemon")
    daemon.start()
    assert task_states(ctr) == {"c1": "RUNNING", "c2": "STOPPED", "c3": "PAUSED"}
    assert {id: pid for id, pid in task_pids(ctr).items() if id != "c2"} == {"c1": pids["c1"], "c3": pids["c3"]}
    assert ctr.ok("tasks", "exec", "--exec-id", "e1", "c1", "echo", "still here") == "still here\n"
    ctr.ok("tasks", "resume", "c3")
    assert "e1" in ctr.ok("tasks", "ps", "c3")
    assert "exit code 137" in ctr.run("tasks", "rm", "c2").err
    follow_exit(daemon, ctr, tmp_path, "c1")
    forget(ctr, "c1")
    forget(ctr, "c3")
    no_trace(daemon, ctr)


def follow_exit(daemon: Daemon, ctr: Ctr, directory: Path, id: str) -> None:
    """The exit of a container from before the crash is told to those who subscribe after it."""
    events = directory / "events"
    with events.open("wb") as sink, ctr.background("events", f'namespace=="{ctr.namespace}"', out=sink):

        def subscribed() -> bool:
            ctr.ok("namespaces", "label", ctr.namespace, "probe=1")
            return bool(events.read_text())

        eventually(subscribed, "events arrive")
        ctr.ok("tasks", "kill", "--signal", "SIGKILL", id)
        eventually(
            lambda: any("/tasks/exit" in line and f'"{id}"' in line for line in events.read_text().splitlines()),
            f"the exit of {id} is told",
        )


def test_shim_dies_with_the_daemon(daemon: Daemon, ctr: Ctr, tmp_path: Path) -> None:
    """Nobody is left who knows of a container: it is ended, cleared away, and can be run again."""
    ctr.ok("images", "import", str(write_archive(tmp_path / "busy.tar", {BUSY: Image()})))
    ctr.ok("run", "--detach", BUSY, "c1", "sleep", "1000")
    pid = task_pids(ctr)["c1"]
    (shim,) = daemon.shims()
    daemon.kill()
    os.kill(shim, signal.SIGKILL)
    daemon.start()
    eventually(lambda: "c1" not in task_states(ctr), "the task is gone")
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "its process has ended")
    no_trace(daemon, ctr)
    ctr.ok("tasks", "start", "--detach", "c1")
    assert task_states(ctr) == {"c1": "RUNNING"}
    forget(ctr, "c1")
    no_trace(daemon, ctr)


def test_shim_dies_alone(daemon: Daemon, ctr: Ctr, tmp_path: Path) -> None:
    """The daemon notices, ends the container, and tells that it has."""
    ctr.ok("images", "import", str(write_archive(tmp_path / "busy.tar", {BUSY: Image()})))
    ctr.ok("run", "--detach", BUSY, "c1", "sleep", "1000")
    pid = task_pids(ctr)["c1"]
    (shim,) = daemon.shims()
    os.kill(shim, signal.SIGKILL)
    eventually(lambda: "c1" not in task_states(ctr), "the task is gone")
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "its process has ended")
    no_trace(daemon, ctr)
    ctr.ok("tasks", "start", "--detach", "c1")
    forget(ctr, "c1")


def test_stopped_daemon_leaves_containers_running(daemon: Daemon, ctr: Ctr, tmp_path: Path) -> None:
    """SIGTERM ends the daemon with status 0 and touches no container."""
    ctr.ok("images", "import", str(write_archive(tmp_path / "busy.tar", {BUSY: Image()})))
    ctr.ok("run", "--detach", BUSY, "c1", "sleep", "1000")
    pids = task_pids(ctr)
    assert daemon.stop() == 0
    check_store(daemon)
    assert Path(f"/proc/{pids['c1']}").exists()
    daemon.start()
    assert task_pids(ctr) == pids
    assert ctr.ok("tasks", "exec", "--exec-id", "e1", "c1", "echo", "here") == "here\n"
    forget(ctr, "c1")
    no_trace(daemon, ctr)


def test_two_daemons_do_not_share_a_root(daemon: Daemon) -> None:
    """A second daemon on the same root does not start, and does the first no harm."""
    second = subprocess.run(
        [*daemon.program, "--config", str(daemon.config), "--address", f"{daemon.base}/second.sock"],
        capture_output=True,
        check=False,
        timeout=5 if SUBJECT[0].endswith("containerd") else 60,
    )
    assert second.returncode != 0
    assert daemon.ctr("default").run("namespaces", "ls").code == 0
