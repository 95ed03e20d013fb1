# SPDX-License-Identifier: Apache-2.0
"""``orlop-sdk serve``: plugins written for Orlop, under Debian's containerd."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.support.ctr import columns, environment, eventually
from tests.support.daemon import CONTAINERD, ORLOPD, Daemon
from tests.support.image import Image, busybox_layer, entry, layout_files, tar, write_archive
from tests.support.registry import Registry

PROGRAM = str(Path(sys.executable).parent / "orlop-sdk")
BUSY = "example.com/busy:1"
#: What is served, and what daemons have of the same kind themselves.
OURS = {"snapshot": "native", "content": "content", "diff": "walking"}
THEIRS = {
    "snapshot": [f"snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "native", "overlayfs", "zfs")],
    "content": ["content.v1.content"],
    "diff": ["differ.v1.walking"],
}
TYPES = {
    "io.containerd.snapshotter.v1.": "snapshot",
    "io.containerd.content.v1.": "content",
    "io.containerd.differ.v1.": "diff",
}
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


@contextmanager
def daemon_without_parts(base: Path, program: Sequence[str], kinds: Sequence[str]) -> Iterator[Daemon]:
    """A daemon that has nothing of these kinds but what ``orlop-sdk serve`` serves."""
    tables = "".join(PROXY.format(name=f"our-{kind}", kind=kind, socket=base / kind) for kind in kinds)
    off = [f"io.containerd.{uri}" for uri in ("grpc.v1.cri", *(uri for kind in kinds for uri in THEIRS[kind]))]
    if "diff" in kinds:
        tables += '[plugins."io.containerd.service.v1.diff-service"]\ndefault = ["our-diff"]\n'
    daemon = Daemon(base, program, top=f"disabled_plugins = {off}\n", tables=tables)
    with ExitStack() as stack:
        for kind in kinds:
            place = ("--socket", str(base / kind), "--root", str(base / f"{kind}.d"))
            stores = ("--stores", str(daemon.address)) if kind == "diff" else ()
            stack.enter_context(serving(kind, OURS[kind], *place, *stores))
        yield stack.enter_context(daemon)


@pytest.mark.parametrize(
    ("program", "kinds"),
    # Proxies that are differs came with containerd 2.
    [(CONTAINERD, ("snapshot", "content")), (ORLOPD, ("snapshot", "content", "diff"))],
    ids=["containerd", "orlopd"],
)
def test_all_that_a_daemon_keeps_and_unpacks(
    short_tmp: Path, tmp_path: Path, program: Sequence[str], kinds: Sequence[str]
) -> None:
    """Images are pulled into our content store and run on our snapshotter, by a daemon that has no others."""
    layers = (busybox_layer(), tar([entry("hello", b"from the second layer")]))
    layout = tmp_path / "layout"
    for name, data in layout_files({"1": Image(layers)}).items():
        (layout / name).parent.mkdir(parents=True, exist_ok=True)
        (layout / name).write_bytes(data)
    with Registry(tmp_path / "registry") as registry, daemon_without_parts(short_tmp, program, kinds) as daemon:
        reference = registry.push(layout, "busy", "1")
        ctr = daemon.ctr(f"serve-{short_tmp.name}")
        working = [f"{row[0]}.{row[1]}" for row in columns(ctr.ok("plugins", "ls")) if row and row[-1] == "ok"]
        for type, kind in TYPES.items():
            if kind in kinds:
                assert [uri for uri in working if uri.startswith(type)] == [f"{type}our-{kind}"]

        ctr.ok("images", "pull", "--plain-http", "--snapshotter", "our-snapshot", reference, timeout=60)
        run = ("run", "--snapshotter", "our-snapshot")
        assert ctr.ok(*run, "--rm", reference, "c1", "cat", "/hello") == "from the second layer"
        blobs = {path.name for path in (short_tmp / "content.d").glob("**/blobs/sha256/*")}
        assert {name.removeprefix("sha256:") for name in ctr.ok("content", "ls", "-q").split()} == blobs
        assert len(blobs) == len(layers) + 2
        ctr.ok(*run, "--detach", reference, "c2", "sleep", "100")
        ctr.ok("tasks", "exec", "--exec-id", "e", "c2", "touch", "/made-inside")
        assert ctr.run("snapshots", "--snapshotter", "our-snapshot", "diff", "c2").raw
        ctr.remove_tasks()
        ctr.ok("containers", "rm", "c2")
        ctr.ok("images", "rm", "--sync", reference)
        eventually(lambda: not list((short_tmp / "content.d").glob("**/blobs/sha256/*")), "the blobs are collected", 60)


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
        (("content", "native"), "only a io.containerd.content.v1 will do here"),
        (("content", "nosuch"), "not installed"),
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
