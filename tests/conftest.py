# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every test can use, and the check that a run leaves nothing behind on the host."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

# Whatever a test starts inherits this variable, so that a process which outlives the run can be told from a stranger's.
SESSION_VARIABLE = "ORLOP_TEST_SESSION"
# Processes that end by themselves get this long (in seconds) before they count as left behind.
GRACE = 5.0
# Sockets have to fit into 104 bytes, which pytest's own temporary directories do not leave room for.
SHORT_PREFIX = f"orl{os.getpid()}-"
SHORT_PARENT = Path("/tmp")


def mount_points(below: Path) -> list[str]:
    """The mount points at or below a directory as this process sees them, innermost first."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4].replace("\\040", " ")
        if Path(point).is_relative_to(below):
            points.append(point)
    return sorted(points, reverse=True)


def network_namespaces() -> set[str]:
    """The names of network namespaces that something keeps open by name."""
    try:
        return set(os.listdir("/run/netns"))
    except FileNotFoundError:
        return set()


def remove_tree(path: Path) -> list[str]:
    """Remove a directory and detach what is mounted below it, so that one test's leak is not the next one's failure.

    Returns the mount points that were still there.
    """
    left = mount_points(path)
    for point in left:
        subprocess.run(["umount", "--lazy", point], check=True, timeout=30)
    shutil.rmtree(path)
    return left


def make_short_directory() -> Path:
    """A directory with a path short enough for sockets, whose name may be part of a namespace's or an id."""
    path = SHORT_PARENT / f"{SHORT_PREFIX}{uuid.uuid4().hex[:8]}"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """What `make_short_directory` makes. The test fails if a mount is left below it."""
    path = make_short_directory()
    yield path
    left = remove_tree(path)
    assert not left, f"mounts left below {path}: {', '.join(left)}"


def session_processes(token: str) -> dict[int, str]:
    """The processes, by pid, that carry this run's token in their environment; this process is not among them."""
    marker = f"{SESSION_VARIABLE}={token}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if marker not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # gone meanwhile, or not ours to read
        if "from multiprocessing." in command:
            continue  # the standard library's own trackers and fork servers end with this process
        found[int(entry.name)] = command
    return found


def shims() -> dict[int, str]:
    """All shim processes on the host by pid: a shim may clear its environment, which hides it from the token."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if "containerd-shim" in command.partition(" ")[0]:
                found[int(entry.name)] = command
    return found


def runc_directories() -> set[Path]:
    """The control groups and state directories that there are of namespaces, and of others at the same level."""
    groups = Path("/sys/fs/cgroup")
    found = [*groups.glob("*/"), *groups.glob("*/*/"), *Path("/run/containerd/runc").glob("*/")]
    return {path for path in found if not path.is_symlink() and not os.path.ismount(path)}


def remove_empty(directories: set[Path]) -> None:
    """Remove what runc leaves of a namespace when its last container goes: one empty directory in each place."""
    for path in directories:
        with suppress(OSError):
            path.rmdir()


def settled(find: Callable[[], list[str]]) -> list[str]:
    """What ``find`` still finds after the grace period; returns at once when that is nothing."""
    deadline = time.monotonic() + GRACE
    while (found := find()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the run if it leaves processes, mounts or network namespaces behind.

    Only what is surely this run's counts, since others may work on the same host: processes that carry its token, shims
    that name one of its directories, and mounts below those. With ``CI`` set the host is taken to be this run's alone.
    What runc leaves by design is removed.
    """
    token = uuid.uuid4().hex
    os.environ[SESSION_VARIABLE] = token
    base = tmp_path_factory.getbasetemp()
    places = (str(base), str(SHORT_PARENT / SHORT_PREFIX))
    alone = bool(os.environ.get("CI"))
    root = Path("/")
    before = (set(mount_points(root)), network_namespaces(), shims().keys())
    directories = runc_directories()

    def leaks() -> list[str]:
        processes = session_processes(token)
        processes |= {
            pid: command
            for pid, command in shims().items()
            if pid not in before[2] and (alone or any(place in command for place in places))
        }
        mounts = [
            point for point in mount_points(root) if point not in before[0] and (alone or point.startswith(places))
        ]
        names = sorted(network_namespaces() - before[1]) if alone else []
        return [
            *(f"process {pid}: {command}" for pid, command in sorted(processes.items())),
            *(f"mount: {point}" for point in mounts),
            *(f"network namespace: {name}" for name in names),
        ]

    yield
    left = settled(leaks)
    remove_empty(runc_directories() - directories)
    if left:
        pytest.fail("the test run left behind:\n  " + "\n  ".join(left), pytrace=False)
