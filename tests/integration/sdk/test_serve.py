# SPDX-License-Identifier: Apache-2.0
"""``orlop-sdk serve``: plugins written for Orlop, under Debian's containerd."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.ctr import columns, environment, eventually
from tests.support.daemon import CONTAINERD, Daemon
from tests.support.image import Image, busybox_layer, entry, tar, write_archive

PROGRAM = str(Path(sys.executable).parent / "orlop-sdk")
BUSY = "example.com/busy:1"
PROXY = """
[proxy_plugins.{name}]
  type = "{kind}"
  address = "{socket}"
"""


@contextmanager
def serving(*args: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """``orlop-sdk serve``, from the moment its socket is there."""
    socket = Path(args[args.index("--socket") + 1])
    process = subprocess.Popen(
        [PROGRAM, "serve", *args], stderr=subprocess.PIPE, env=environment(), cwd=cwd, stdin=subprocess.DEVNULL
    )
    try:
        eventually(lambda: socket.exists() or process.poll() is not None, "it serves")
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.communicate(timeout=20)
        finally:
            if process.poll() is None:
                process.kill()


def test_a_snapshotter_under_containerd(short_tmp: Path, tmp_path: Path) -> None:
    """Containers of the real containerd run on a snapshotter that was written for Orlop, through a restart of it."""
    socket = short_tmp / "p.sock"
    layers = (busybox_layer(), tar([entry("hello", b"from the second layer")]))
    archive = write_archive(tmp_path / "busy.tar", {BUSY: Image(layers)})
    arguments = ("snapshot", "native", "--socket", str(socket), "--root", str(short_tmp / "kept"))
    tables = PROXY.format(name="demo", kind="snapshot", socket=socket)
    with serving(*arguments) as server, Daemon(short_tmp, CONTAINERD, tables=tables) as daemon:
        ctr = daemon.ctr(f"serve-{short_tmp.name}")
        ctr.ok("images", "import", "--snapshotter", "demo", str(archive))
        assert ctr.ok("run", "--rm", "--snapshotter", "demo", BUSY, "c1", "cat", "/hello") == "from the second layer"
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        assert not socket.exists()
        with serving(*arguments):
            # containerd takes a while to dial again.
            listing = ("snapshots", "--snapshotter", "demo", "ls")
            eventually(lambda: ctr.run(*listing).code == 0, "containerd is connected again")
            assert len(columns(ctr.ok(*listing))) == 2
            assert (
                ctr.ok("run", "--rm", "--snapshotter", "demo", BUSY, "c2", "cat", "/hello") == "from the second layer"
            )
            ctr.ok("images", "rm", "--sync", BUSY)
            assert columns(ctr.ok(*listing)) == []


def test_a_config_file_gives_the_plugin_its_table(short_tmp: Path) -> None:
    config = short_tmp / "plugin.toml"
    elsewhere = short_tmp / "elsewhere"
    config.write_text(f'version = 4\n[plugins."io.containerd.snapshotter.v1.native"]\nroot_path = "{elsewhere}"\n')
    socket = short_tmp / "p.sock"
    with serving(
        *("snapshot", "native", "--socket", str(socket), "--root", str(short_tmp / "r"), "--config", str(config))
    ) as server:
        assert server.poll() is None
        assert elsewhere.exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("snapshot", "nosuch"), "not installed; there are: io.containerd.snapshotter.v1.native"),
        (("content", "native"), "not installed"),
        (("content", "io.containerd.snapshotter.v1.native"), "only a io.containerd.content.v1 will do here"),
        (("snapshot", "os:path"), "not a registration"),
    ],
)
def test_mistakes(short_tmp: Path, args: tuple[str, ...], said: str) -> None:
    place = ("--socket", str(short_tmp / "s"), "--root", str(short_tmp / "r"))
    done = subprocess.run(
        [PROGRAM, "serve", *args, *place], capture_output=True, text=True, check=False, timeout=60, env=environment()
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("orlop-sdk: ")
    assert said in line


def test_an_address_in_use(short_tmp: Path) -> None:
    arguments = ("snapshot", "native", "--socket", str(short_tmp / "s"), "--root")
    with serving(*arguments, str(short_tmp / "r1")):
        done = subprocess.run(
            [PROGRAM, "serve", *arguments, str(short_tmp / "r2")],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment(),
        )
        assert done.returncode == 1
        assert "another process listens there" in done.stderr


def test_help() -> None:
    for words in (("--help",), ("serve", "--help"), ("check", "--help")):
        done = subprocess.run([PROGRAM, *words], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0
        assert done.stdout.startswith("usage: orlop-sdk")
    assert subprocess.run([PROGRAM], capture_output=True, check=False, timeout=60).returncode == 2
