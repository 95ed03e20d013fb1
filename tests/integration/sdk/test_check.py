# SPDX-License-Identifier: Apache-2.0
"""``orlop-sdk check``: the conformance suites, from the command line."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.ctr import environment, eventually
from tests.support.daemon import CONTAINERD, Daemon

PROGRAM = str(Path(sys.executable).parent / "orlop-sdk")
PLUGINS = '''\
"""Plugins of an author: a snapshotter with a flaw, a stream processor, a log driver."""

import codecs
import json
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from orlop.blocking import run_blocking
from orlop.interfaces.snapshotter import snapshotter
from orlop.plugin import InitContext, NoConfig
from orlop.values import Mount, SnapshotKind
from orlop_sdk.storage.directories import DirectorySnapshotter


class Flawed(DirectorySnapshotter):
    """Forgets that views are not to be written to."""

    def populate(self, directory, new):
        if new.parents:
            shutil.copytree(new.parents[0], directory, symlinks=True, dirs_exist_ok=True)

    def describe(self, snapshot):
        return [Mount("bind", str(self.directory(snapshot.id)), options=("rbind", "rw"))]


@snapshotter("flawed")
async def flawed(ctx: InitContext[NoConfig]):
    return await run_blocking(Flawed, ctx.root)


@snapshotter("broken")
async def broken(ctx: InitContext[NoConfig]):
    raise OSError("no disk today")


def read(uri):
    found = {}
    for line in Path(urlsplit(uri).path).read_bytes().splitlines():
        entry = json.loads(line)
        found[entry["stream"]] = found.get(entry["stream"], b"") + entry["log"].encode()
    return found
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An author's folder."""
    (tmp_path / "mine.py").write_text(PLUGINS)
    (tmp_path / "ends.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "garbled.py").write_text("def plugin(:\n")
    return tmp_path


def check(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [PROGRAM, "check", *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
    )
    assert "INTERNALERROR" not in done.stdout + done.stderr
    return done


@contextmanager
def serving(*args: str) -> Iterator[None]:
    """A proxy plugin that runs; *args* are those of ``orlop-sdk serve``."""
    socket = Path(args[args.index("--socket") + 1])
    process = subprocess.Popen([PROGRAM, "serve", *args], stderr=subprocess.PIPE, env=environment())
    try:
        eventually(socket.exists, "it serves")
        yield
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0, said
        assert not socket.exists()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_snapshotter_that_conforms(folder: Path) -> None:
    done = check(folder, "native")
    assert done.returncode == 0, done.stdout + done.stderr
    first, *checks, last = done.stdout.splitlines()
    assert first == "io.containerd.snapshotter.v1.native: SnapshotterSuite"
    assert "  ok       layers build on each other" in checks
    assert "  skipped  a parent can be given at commit (the snapshotter lacks the capability rebase)" in checks
    assert last.startswith("io.containerd.snapshotter.v1.native conforms: ")
    assert done.stderr == ""


def test_a_snapshotter_with_a_flaw(folder: Path) -> None:
    done = check(folder, "mine:flawed", "-k", "view or siblings")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "  ok       siblings do not see each other" in done.stdout.splitlines()
    assert "  FAILED   a view is read only" in done.stdout.splitlines()
    assert "does not conform: 1 ok, 0 skipped, 1 failed" in done.stdout


def test_what_a_plugin_cannot_do_is_said(folder: Path) -> None:
    words = "lower_directory or given_at_commit"
    without = check(folder, "overlayfs", "-k", words)
    assert without.returncode == 1
    done = check(folder, "io.containerd.snapshotter.v1.overlayfs", "--set", "renames_directories=no", "-k", words)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("target", ["content", "walking", "gzip"])
def test_other_kinds(folder: Path, target: str) -> None:
    uri = {
        "content": "io.containerd.content.v1.content",
        "walking": "walking",
        "gzip": "io.orlop.stream-processor.v1.gzip",
    }[target]
    settings = {"content": ("--set", "keeps_labels=no", "--set", "local=yes")}
    done = check(folder, uri, *settings.get(target, ()))
    assert done.returncode == 0, done.stdout + done.stderr


def test_samples(folder: Path) -> None:
    (folder / "in").write_bytes(gzip.compress(b"hello" * 100))
    (folder / "out").write_bytes(b"hello" * 100)
    (folder / "wrong").write_bytes(b"bye")
    gzipped = "application/vnd.oci.image.layer.v1.tar+gzip"
    target = "io.orlop.stream-processor.v1.gzip"
    assert check(folder, target, "--sample", f"{gzipped}=in:out").returncode == 0
    assert check(folder, target, "--sample", f"{gzipped}=in:wrong").returncode == 1


def test_a_log_driver(folder: Path) -> None:
    target = "io.orlop.log.v1.json-file"
    done = check(folder, target, "--uri", "json-file://{place}/log", "--read", "mine:read")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "needs --uri and --read" in check(folder, target).stderr


def test_a_proxy_plugin_that_runs(folder: Path, short_tmp: Path) -> None:
    socket = str(short_tmp / "s.sock")
    words = ("-k", "layers_build or labels or siblings or opening_again")
    with serving("snapshot", "native", "--socket", socket, "--root", str(short_tmp / "root")):
        done = check(folder, f"snapshot={socket}", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 ok, 1 skipped, 0 failed" in done.stdout
        # It was left as empty as it was found.
        assert check(folder, f"snapshot={socket}", *words).returncode == 0


def test_a_content_proxy_and_a_differ_proxy(folder: Path, short_tmp: Path) -> None:
    with Daemon(short_tmp, CONTAINERD) as containerd:
        content, diff = str(short_tmp / "c.sock"), str(short_tmp / "d.sock")
        target = "io.containerd.content.v1.content"
        with serving("content", target, "--socket", content, "--root", str(short_tmp / "content")):
            done = check(folder, f"content={content}", "--set", "keeps_labels=no", "-k", "walk or resumed or digest")
            assert done.returncode == 0, done.stdout + done.stderr
        stores = ("--stores", str(containerd.address))
        with serving("diff", "walking", "--socket", diff, "--root", str(short_tmp / "diff"), *stores):
            done = check(folder, f"diff={diff}", *stores, "-k", "same_trees or applied or apply")
            assert done.returncode == 0, done.stdout + done.stderr
        assert "say with --stores" in check(folder, f"diff={diff}").stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("nosuch",), "not installed; there are: "),
        (("mine:nosuch",), "cannot be imported"),
        (("nosuch.module:x",), "cannot be imported"),
        (("ends:plugin",), "cannot be imported: SystemExit: 3 ("),
        (("garbled:plugin",), "cannot be imported: SyntaxError: "),
        (("bolt",), "it is io.containerd.metadata.v1.bolt, and only a "),
        (("mine:Flawed",), "not a registration"),
        (("mine:broken",), "no disk today"),
        (("io.containerd.gc.v1.scheduler",), "only a io.containerd.snapshotter.v1 or"),
        (("native", "--set", "flies=yes"), "names are "),
        (("bucket=/run/x",), "write snapshot=SOCKET"),
        (("snapshot=/nonexistent/socket",), "/nonexistent/socket"),
        (("native", "-k", "nosuchcheck"), ""),
        (
            ("io.orlop.stream-processor.v1.zstd",),
            "does not claim application/vnd.oci.image.layer.v1.tar+gzip; say with",
        ),
    ],
)
def test_mistakes(folder: Path, args: tuple[str, ...], said: str) -> None:
    done = check(folder, *args)
    assert done.returncode == 1, done.stdout
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_of_the_folder_do_not_count(folder: Path) -> None:
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --nosuch-option\n")
    (folder / "conftest.py").write_text("raise RuntimeError\n")
    done = check(folder, "native", "-k", "closing_twice")
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.listdir(folder / "..") != []


def test_a_reader_that_goes_away(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        done = subprocess.run(
            [PROGRAM, "new", "hook", "unheard"],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "")
    assert (folder / "unheard/pyproject.toml").exists()
