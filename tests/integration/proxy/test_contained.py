# SPDX-License-Identifier: Apache-2.0
"""Proxy plugins in containers that the daemon starts, supervises and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.cgroups import plugin_cgroups
from tests.support.ctr import Ctr, columns, eventually
from tests.support.daemon import Daemon
from tests.support.image import Image, busybox_layer, entry, tar, write_archive

from orlop_proxy.container import host_environment
from orlop_proxy.launch import search_path

IMAGE = "example.com/busy:1"
#: A snapshotter of ours, served by the SDK's own program in a container with this Python.
TABLE = """
[proxy_plugins.demo]
  type = "snapshot"
  address = "{base}/p/s"
  [proxy_plugins.demo.container]
    args = ["{bin}/orlop-sdk", "serve", "snapshot", "native", "--socket", "{base}/p/s", "--root", "{base}/kept"]
    env = ["MARK={base}"]
    writable = ["{base}/kept"]
    memory = 268435456
"""


@pytest.fixture
def daemon(short_tmp: Path) -> Iterator[Daemon]:
    for name in ("p", "kept"):
        (short_tmp / name).mkdir()
    (short_tmp / "secret").write_text("not for plugins")
    with Daemon(short_tmp, tables=TABLE.format(base=short_tmp, bin=Path(sys.executable).parent)) as daemon:
        yield daemon


@pytest.fixture
def ctr(daemon: Daemon) -> Ctr:
    return daemon.ctr(f"contained-{uuid.uuid4().hex}")


def server(daemon: Daemon) -> int | None:
    """The process that serves the plugin, by its environment, which nothing else has."""
    mark = f"MARK={daemon.base}".encode()
    for each in Path("/proc").iterdir():
        try:
            if each.name.isdecimal() and mark in (each / "environ").read_bytes().split(b"\0"):
                return int(each.name)
        except OSError:
            continue  # gone meanwhile
    return None


def until_served(ctr: Ctr, key: str) -> None:
    """Wait for the plugin, by preparing a snapshot."""
    eventually(lambda: ctr.run("snapshots", "--snapshotter", "demo", "prepare", key).code == 0, "it serves", 60)


def test_containers_run_on_a_snapshotter_in_a_container(daemon: Daemon, ctr: Ctr, tmp_path: Path) -> None:
    layers = (busybox_layer(), tar([entry("hello", b"from the second layer")]))
    archive = write_archive(tmp_path / "busy.tar", {IMAGE: Image(layers)})
    until_served(ctr, "probe")
    ctr.ok("images", "import", "--snapshotter", "demo", str(archive))
    assert ctr.ok("run", "--rm", "--snapshotter", "demo", IMAGE, "c1", "cat", "/hello") == "from the second layer"

    pid = server(daemon)
    assert pid is not None
    groups = plugin_cgroups(pid)
    assert groups
    limits = [group / "memory.limit_in_bytes" for group in groups] + [group / "memory.max" for group in groups]
    assert [int(limit.read_text()) for limit in limits if limit.exists()] == [256 << 20]
    # Of the host it sees programs, and what the config says.
    inside = Path(f"/proc/{pid}/root")
    base = inside / str(daemon.base)[1:]
    assert list(base.glob("kept/**/snapshots.db"))
    assert not (base / "secret").exists()
    assert not (inside / "etc/shadow").exists()
    assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")

    # Killed, it is missed by those alone who use it, and comes back as soon as it can.
    (daemon.base / "kept").rename(daemon.base / "away")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: "its container ended with status 137" in daemon.log.read_text(), "its end is told")
    refused = ctr.run("snapshots", "--snapshotter", "demo", "prepare", "while-down")
    assert refused.code != 0
    assert "unavailable" in refused.err
    ctr.ok("snapshots", "--snapshotter", "overlayfs", "prepare", "other")
    (daemon.base / "away").rename(daemon.base / "kept")
    until_served(ctr, "after")
    assert ctr.ok("run", "--rm", "--snapshotter", "demo", IMAGE, "c2", "cat", "/hello") == "from the second layer"
    assert {"probe", "after"} <= {row[0] for row in columns(ctr.ok("snapshots", "--snapshotter", "demo", "ls"))}


def test_a_root_file_system_of_its_own(short_tmp: Path) -> None:
    """A directory is its root, which nobody can write to; of the host it has what is listed."""
    for name in ("p", "kept", "rootfs/etc"):
        (short_tmp / name).mkdir(parents=True)
    (short_tmp / "rootfs/etc/whose").write_text("its own")
    # The Python that it runs is the host's, for want of a smaller one.
    for link in filter(os.path.islink, ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")):
        (short_tmp / f"rootfs{link}").symlink_to(os.readlink(link))
    table = TABLE.format(base=short_tmp, bin=Path(sys.executable).parent)
    table = table.replace("env = [", f'env = ["PYTHONPATH={search_path()}", "PYTHONDONTWRITEBYTECODE=1", ')
    listed = json.dumps([str(path) for path in host_environment(network=False)])
    tables = f'{table}rootfs = "{short_tmp}/rootfs"\nreadonly = {listed}\n'
    with Daemon(short_tmp, tables=tables) as daemon:
        ctr = daemon.ctr(f"contained-{uuid.uuid4().hex}")
        until_served(ctr, "one")
        pid = server(daemon)
        assert pid is not None
        inside = Path(f"/proc/{pid}/root")
        assert (inside / "etc/whose").read_text() == "its own"
        assert not (inside / "etc/shadow").exists()
        with pytest.raises(OSError, match="Read-only"):
            (inside / "etc/whose").write_text("somebody's")
        assert list((short_tmp / "kept").glob("**/snapshots.db"))


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_it_ends_with_the_daemon(daemon: Daemon, ctr: Ctr, end: str) -> None:
    until_served(ctr, "kept")
    pid = server(daemon)
    assert pid is not None
    groups = plugin_cgroups(pid)
    getattr(daemon, end)()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "its process is gone")
    eventually(lambda: not any(group.exists() for group in groups), "its cgroups are gone")
    daemon.start()
    until_served(ctr, "new")
    assert "kept" in ctr.ok("snapshots", "--snapshotter", "demo", "ls")


def test_a_keeper_that_is_killed_leaves_nothing(daemon: Daemon, ctr: Ctr) -> None:
    until_served(ctr, "kept")
    pid = server(daemon)
    assert pid is not None
    groups = plugin_cgroups(pid)
    keeper = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert b"keeper.py" in Path(f"/proc/{keeper}/cmdline").read_bytes()
    os.kill(keeper, signal.SIGKILL)
    eventually(lambda: server(daemon) not in (None, pid), "another one is started")
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the first one is gone")
    until_served(ctr, "new")
    daemon.stop()
    assert not any(group.exists() for group in groups)


def test_it_comes_and_goes_with_its_plugin(daemon: Daemon, ctr: Ctr) -> None:
    until_served(ctr, "kept")
    pid = server(daemon)
    disable = ["plugins", "disable", "io.containerd.snapshotter.v1.demo", "--force"]
    orlop(daemon, *disable)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "its process is gone")
    assert server(daemon) is None
    orlop(daemon, "plugins", "enable", "io.containerd.snapshotter.v1.demo")
    until_served(ctr, "again")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('args = ["x"]\nrootfs = "/nowhere"', 'proxy_plugins.bad.container.rootfs: "/nowhere" is no directory'),
        ('args = ["x"]\nimage = "x"', "proxy_plugins.bad.container: image: Extra inputs are not permitted"),
        ('env = ["A=b"]', "proxy_plugins.bad.container: args: Field required"),
        ('args = ["x"]\nruntime = "nosuch"', 'no OCI runtime "nosuch" is installed'),
    ],
)
def test_mistakes_are_the_plugins_state(short_tmp: Path, line: str, said: str) -> None:
    table = (
        f'[proxy_plugins.bad]\ntype = "snapshot"\naddress = "{short_tmp}/s"\n[proxy_plugins.bad.container]\n{line}\n'
    )
    with Daemon(short_tmp, tables=table) as daemon:
        ctr = daemon.ctr(f"contained-{uuid.uuid4().hex}")
        assert said in ctr.ok("plugins", "ls", "--detailed", "id==bad")


def orlop(daemon: Daemon, *args: str) -> None:
    """Call the ``orlop`` command."""
    program = str(Path(sys.executable).parent / "orlop")
    done = subprocess.run(
        [program, "--address", str(daemon.address), *args], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
