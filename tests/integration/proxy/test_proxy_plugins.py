# SPDX-License-Identifier: Apache-2.0
"""Our snapshotters as proxy plugins of Debian's containerd: it unpacks images into them and runs containers on them."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.ctr import Ctr
from tests.support.daemon import CONTAINERD, Daemon
from tests.support.image import Image, many_layers, write_archive
from tests.support.place import short_directory

PROGRAM = Path(__file__).with_name("serve_snapshotter.py")
NAMES = ("native", "overlayfs")
TABLE = """\
[proxy_plugins.our-{name}]
type = "snapshot"
address = "{base}/{name}.sock"
"""


@contextmanager
def served(name: str, base: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program, from when it listens until it has ended."""
    address = base / f"{name}.sock"
    with (base / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), name, str(address), str(base / name)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 20
        while not address.exists():
            assert process.poll() is None, (base / f"{name}.log").read_text()
            assert time.monotonic() < deadline, "the program does not listen"
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture(scope="module")
def images(base: Path) -> Path:
    return write_archive(base / "images.tar", {"example.com/busy:1": Image(), "example.com/many:1": many_layers(8)})


@pytest.fixture(scope="module")
def containerd(base: Path) -> Iterator[Daemon]:
    (base / "d").mkdir()
    tables = "".join(TABLE.format(name=name, base=base) for name in NAMES)
    with Daemon(base / "d", CONTAINERD, tables=tables) as daemon:
        yield daemon


@pytest.mark.parametrize("name", NAMES)
def test_containers_run_on_our_snapshotters_under_containerd(
    name: str, base: Path, images: Path, containerd: Daemon
) -> None:
    ctr = containerd.ctr(f"proxy-{uuid.uuid4().hex}")
    plugin = f"our-{name}"
    with served(name, base):
        until_connected(ctr, plugin)
        ctr.ok("images", "import", "--snapshotter", plugin, str(images))
        listed = ctr.ok("snapshots", "--snapshotter", plugin, "ls")
        assert listed.count("Committed") == 1 + 8
        assert ctr.ok("run", "--rm", "--snapshotter", plugin, "example.com/busy:1", "c1", "echo", "hello") == "hello\n"
        ctr.ok("run", "--detach", "--snapshotter", plugin, "example.com/busy:1", "c2", "sleep", "100")
        ctr.ok("tasks", "exec", "--exec-id", "e", "c2", "touch", "/made-inside")
        assert ctr.ok("snapshots", "--snapshotter", plugin, "diff", "c2")
        ctr.ok("tasks", "kill", "--signal", "KILL", "c2")
        ctr.remove_tasks()
        ctr.ok("containers", "rm", "c2")
        ctr.ok("images", "rm", "--sync", "example.com/busy:1", "example.com/many:1")
        assert "Committed" not in ctr.ok("snapshots", "--snapshotter", plugin, "ls")


def test_a_snapshotter_that_comes_back_is_used_again(base: Path, containerd: Daemon) -> None:
    ctr = containerd.ctr(f"proxy-{uuid.uuid4().hex}")
    call = ("snapshots", "--snapshotter", "our-native")
    with served("native", base) as process:
        until_connected(ctr, "our-native")
        ctr.ok(*call, "prepare", "kept")
        process.kill()
        process.wait()
    assert ctr.run(*call, "prepare", "other").code != 0
    # Killed, it left its socket's file, which the next one replaces.
    address = base / "native.sock"
    left = address.stat().st_ino
    with served("native", base):
        deadline = time.monotonic() + 20
        while not address.exists() or address.stat().st_ino == left:
            assert time.monotonic() < deadline, "the socket was not replaced"
            time.sleep(0.05)
        until_connected(ctr, "our-native")
        assert "kept" in ctr.ok(*call, "ls")
    assert not address.exists()


def until_connected(ctr: Ctr, plugin: str) -> None:
    """Wait for containerd, which tries to connect at growing intervals."""
    deadline = time.monotonic() + 30
    while (result := ctr.run("snapshots", "--snapshotter", plugin, "prepare", "probe")).code != 0:
        assert time.monotonic() < deadline, str(result)
        time.sleep(0.2)
    ctr.ok("snapshots", "--snapshotter", plugin, "rm", "probe")
