# SPDX-License-Identifier: Apache-2.0
"""``orlop fsck`` on the root of a daemon that pulled an image, damaged in every way that disks and people do it."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.cli import PROGRAM, Orlop
from tests.support.ctr import environment
from tests.support.daemon import ORLOPD, Daemon
from tests.support.image import Image, busybox_layer, descriptor, entry, noise, tar, write_layout
from tests.support.place import short_directory
from tests.support.registry import Registry

from orlop_cli.commands.fsck import FsckCommand
from orlop_cli.console import Console

NAMESPACE = f"fsck-{os.getpid()}"
IMAGE = Image([busybox_layer(), tar([entry("data", noise(1, 200_000))])])
LAYERS, CONFIG, MANIFEST = IMAGE.blobs()[:2], IMAGE.blobs()[2], IMAGE.blobs()[3]
CONTENT = "io.containerd.content.v1.content"
OVERLAY = "io.containerd.snapshotter.v1.overlayfs"
METADATA = "io.containerd.metadata.v1.bolt"
WRITTEN = b"what a container wrote\n"


def blob(part: tuple[str, bytes]) -> str:
    """Where a blob is, below the root."""
    return f"{CONTENT}/blobs/sha256/{descriptor(*part)['digest'].removeprefix('sha256:')}"


@dataclass
class Place:
    """The root of a daemon that is stopped."""

    daemon: Daemon
    reference: str

    @property
    def root(self) -> Path:
        return self.daemon.root

    def fsck(self, *args: str, code: int | None = 0) -> list[dict[str, Any]]:
        """Check, and give the findings; the exit status has to be this one, or 0 or 1 for None."""
        parser, fsck, output = argparse.ArgumentParser(), FsckCommand(), io.StringIO()
        fsck.configure(parser)
        with contextlib.redirect_stdout(output):
            status = fsck.run(parser.parse_args(["--config", str(self.daemon.config), *args]), Console("", "", "json"))
        report = json.loads(output.getvalue())
        assert status in ((0, 1) if code is None else (code,)), report
        assert {CONTENT, OVERLAY, METADATA} <= set(report["checked"]) or code
        assert report["left"] == sum(not each["repaired"] and not each["note"] for each in report["findings"])
        assert status == bool(report["left"])
        return report["findings"]  # type: ignore[no-any-return]

    def snapshots(self) -> dict[str, int]:
        """The numbers of the snapshots in their store, by the client's names."""
        with sqlite3.connect(self.root / OVERLAY / "snapshots.db") as db:
            found = {name.rpartition("/")[2]: id for id, name in db.execute("SELECT id, name FROM snapshot")}
        db.close()
        return found

    def directory(self, name: str) -> Path:
        """The directory of a snapshot."""
        return self.root / OVERLAY / "snapshots" / str(self.snapshots()[name])

    def query(self, file: str, statement: str, *parameters: object) -> None:
        """Change a database behind its owner's back."""
        db = sqlite3.connect(self.root / file)
        assert db.execute(statement, parameters).rowcount
        db.commit()
        db.close()

    def records(self, statement: str, *parameters: object) -> None:
        """Change the metadata behind the store's back."""
        self.query(f"{METADATA}/meta.sqlite", statement, *parameters)

    def works(self) -> None:
        """A pull heals what fsck could not, a container runs, and then nothing is wrong."""
        self.daemon.ctr(NAMESPACE)
        self.daemon.start()
        orlop = Orlop(self.daemon.address, NAMESPACE)
        orlop.ok("pull", "--plain-http", self.reference)
        words = ("run", "--rm", "--pull", "never", self.reference, "sh", "-c", "cat /data | wc -c")
        assert orlop.ok(*words) == "200000\n"
        ctr = self.daemon.ctr(NAMESPACE)
        ctr.ok("leases", "create", "--id", "collect")
        ctr.ok("leases", "rm", "--sync", "collect")
        assert self.daemon.stop() == 0
        assert [each for each in self.fsck() if not each["note"]] == []


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The root of a stopped daemon with the image, and an active snapshot ``mine`` on it; and the image's name."""
    base = tmp_path_factory.mktemp("fsck")
    layout = write_layout(base / "layout", {"latest": IMAGE})
    with Registry(base / "r") as registry, short_directory() as place:
        reference = registry.push(layout, "image")
        daemon = Daemon(place, ORLOPD)
        with daemon:
            Orlop(daemon.address, NAMESPACE).ok("pull", "--plain-http", reference)
            daemon.ctr(NAMESPACE).ok("snapshots", "prepare", "mine", IMAGE.chain_ids[1])
            daemon.ctr(NAMESPACE).ok("snapshots", "label", "mine", "containerd.io/gc.root=yes")
        found = Place(daemon, reference)
        (found.directory("mine") / "fs" / "written").write_bytes(WRITTEN)
        yield daemon.root, reference


@pytest.fixture
def place(pulled: tuple[Path, str]) -> Iterator[Place]:
    """A copy of it, to damage."""
    root, reference = pulled
    with short_directory() as base:
        daemon = Daemon(base, ORLOPD)
        shutil.copytree(root, daemon.root, symlinks=True)
        yield Place(daemon, reference)
        daemon.close()


def test_nothing_is_wrong(place: Place) -> None:
    assert place.fsck() == []
    assert place.fsck("--quick") == []
    assert place.fsck("--repair") == []


def test_for_people(place: Place) -> None:
    (place.root / blob(LAYERS[1])).chmod(0o644)
    os.truncate(place.root / blob(LAYERS[1]), 100)
    digest = descriptor(*LAYERS[1])["digest"]
    words = [*PROGRAM, "fsck", "--config", str(place.daemon.config)]
    done = subprocess.run([*words, "--repair"], capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0
    assert f'repaired: blob "{digest}" is damaged: its 100 bytes have another digest\n  done: move it to' in done.stdout
    assert f'note: content "{descriptor(*MANIFEST)["digest"]}"' in done.stdout
    assert f'remedy: nothing, unless "{place.reference}" is to be pushed' in done.stdout
    assert f"checking {CONTENT}\n" in done.stderr
    assert "3 findings, 2 repaired, 0 left\n" in done.stderr


def test_it_refuses_while_a_daemon_runs(place: Place) -> None:
    with place.daemon:
        words = ["fsck", "--config", str(place.daemon.config), "--repair"]
        message = Orlop(place.daemon.address, NAMESPACE).fails(*words, code=2)
        assert message.startswith(f'root "{place.root}": a daemon is using it (')
    assert place.fsck() == []


def test_wrong_usage(place: Place) -> None:
    orlop = Orlop(place.daemon.address, NAMESPACE)
    assert orlop.fails("fsck", "--root", "/nonexistent", code=2).startswith('root "/nonexistent": no such directory')
    assert orlop.run("fsck", "--mend").code == 2


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("part", "damage"),
    [(LAYERS[0], truncate), (LAYERS[1], flip), (LAYERS[0], Path.unlink), (CONFIG, flip), (MANIFEST, Path.unlink)],
    ids=["layer truncated", "layer flipped", "layer gone", "config flipped", "manifest gone"],
)
def test_a_damaged_blob(place: Place, part: tuple[str, bytes], damage: Callable[[Path], None]) -> None:
    damage(place.root / blob(part))
    digest = descriptor(*part)["digest"]
    assert any(digest in each["subject"] for each in place.fsck(code=1))
    # Containers do not miss the blob of a layer that is unpacked.
    left = 0 if part in LAYERS else 1
    repaired = place.fsck("--repair", code=left)
    assert {each["subject"] for each in repaired if each["repaired"]} <= {
        f'blob "{digest}"',
        f'content "{digest}" in namespace "{NAMESPACE}"',
    }
    (finding,) = place.fsck(code=left)
    assert "pull " in finding["remedy"]
    if damage is not Path.unlink:
        assert (place.root / CONTENT / "lost+found" / digest.removeprefix("sha256:")).exists()
    if part in (LAYERS[1], MANIFEST):
        place.works()


def lose_directory(place: Place) -> None:
    shutil.rmtree(place.directory(IMAGE.chain_ids[0]))


def lose_layer(place: Place) -> None:
    shutil.rmtree(place.directory(IMAGE.chain_ids[0]) / "fs")


def lose_stored_row(place: Place) -> None:
    number = place.snapshots()[IMAGE.chain_ids[0]]
    place.query(f"{OVERLAY}/snapshots.db", "DELETE FROM snapshot WHERE id = ?", number)


@pytest.mark.parametrize("damage", [lose_directory, lose_layer, lose_stored_row])
def test_a_lost_snapshot(place: Place, damage: Callable[[Place], None]) -> None:
    """It goes, with what is made on top of it; what a container wrote is put away."""
    damage(place)
    assert any(IMAGE.chain_ids[1] in each["subject"] for each in place.fsck(code=1))
    findings = place.fsck("--repair")
    assert {each["subject"] for each in findings if each["subject"].endswith(f'namespace "{NAMESPACE}"')} == {
        f'snapshot "{key}" of overlayfs in namespace "{NAMESPACE}"' for key in (*IMAGE.chain_ids, "mine")
    }
    (kept,) = (place.root / OVERLAY / "lost+found").iterdir()
    assert kept.name.endswith("mine")
    assert (kept / "fs" / "written").read_bytes() == WRITTEN
    assert place.fsck() == []
    if damage is lose_directory:
        place.works()


DIGEST = descriptor(*LAYERS[0])["digest"]


@pytest.mark.parametrize(
    ("table", "kind", "name"),
    [
        ("content", "content", DIGEST),
        ("node", "content", DIGEST),
        ("snapshot", "snapshots/overlayfs", IMAGE.chain_ids[0]),
        ("node", "snapshots/overlayfs", IMAGE.chain_ids[0]),
        ("snapshot", "snapshots/overlayfs", "mine"),
        ("edge", "snapshots/overlayfs", "mine"),
        ("edge", "content", descriptor(*MANIFEST)["digest"]),
        ("image", "", ""),
        ("label", "", ""),
        ("edge", "", ""),
        ("node", "namespaces", NAMESPACE),
        ("node", "", ""),
    ],
)
def test_lost_records(place: Place, table: str, kind: str, name: str) -> None:
    """Rows of one table of the metadata vanish: those of one thing, or all."""
    column = {"node": "id", "edge": "src"}.get(table, "node")
    which = f"WHERE {column} IN (SELECT id FROM node WHERE kind = ? AND name = ?)" if name else ""  # noqa: S608
    place.records(f"DELETE FROM {table} {which}", *((kind, name) if name else ()))  # noqa: S608
    before = place.fsck(code=None)
    left = [each for each in place.fsck("--repair", code=None) if not each["repaired"] and not each["note"]]
    assert all("again" in each["remedy"] or "find out" in each["remedy"] for each in left), left
    again = [each for each in place.fsck(code=None) if not each["note"]]
    assert [each["subject"] for each in again] == [each["subject"] for each in left]
    # Labels, and with them what holds the parts of an image together, are nowhere else.
    assert before or table == "label"
    if name == NAMESPACE:
        place.works()


def test_a_damaged_index_of_the_records(place: Place) -> None:
    """As if a write to it had got lost: the index misses a row that the table has."""
    file = place.root / METADATA / "meta.sqlite"
    db = sqlite3.connect(file)
    db.execute("PRAGMA writable_schema = ON")
    (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'label_value'").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    with file.open("r+b") as stream:
        # An empty leaf page of an index.
        stream.seek((root - 1) * size)
        stream.write(bytes([10, 0, 0, 0, 0, size >> 8, size & 255, 0]))
    assert any("label_value" in each["problem"] for each in place.fsck(code=1))
    assert all(each["repaired"] for each in place.fsck("--repair"))
    assert place.fsck() == []


@pytest.mark.parametrize("file", [f"{METADATA}/meta.sqlite", f"{OVERLAY}/snapshots.db"])
def test_a_file_that_is_no_database_any_more(place: Place, file: str) -> None:
    (place.root / file).write_bytes(b"not a database" * 1000)
    (finding,) = (each for each in place.fsck("--repair", code=1) if "does not come up" in each["problem"])
    assert finding["subject"] == file.partition("/")[0]
    assert (place.root / file).read_bytes() == b"not a database" * 1000


def test_strangers(place: Place) -> None:
    """What is not ours is put away; what only takes space is no fault."""
    strange = {
        f"{CONTENT}/blobs/junk": "junk",
        f"{CONTENT}/blobs/sha256/abc": "abc",
        f"{CONTENT}/blobs/sha256/{'x' * 64}": "x" * 64,
        f"{CONTENT}/ingest/file": "file",
    }
    for path in strange:
        (place.root / path).write_bytes(b"strange")
    orphan = ("application/x", b"orphan")
    (place.root / blob(orphan)).write_bytes(orphan[1])
    (place.root / OVERLAY / "snapshots" / "99").mkdir()
    findings = place.fsck()
    assert len(findings) == 6
    assert all(each["note"] for each in findings)
    assert all(each["repaired"] for each in place.fsck("--repair"))
    assert sorted(path.name for path in (place.root / CONTENT / "lost+found").iterdir()) == sorted(strange.values())
    assert not (place.root / blob(orphan)).exists()
    assert place.fsck() == []


THIRD_PARTY = """
from orlop.interfaces.check import Finding
from orlop.interfaces.snapshotter import snapshotter
from orlop.plugin import PluginType
from orlop.interfaces.introspection import INTERNAL
from orlop_snapshots.native import NativeSnapshotter

class Acme(NativeSnapshotter):
    async def check_up(self, checkup):
        flaw = self.root / "flaw"
        checkup.progress(1, 1)
        if flaw.exists():
            if checkup.repair:
                flaw.unlink()
            yield Finding("acme", "has a flaw", "remove it", repaired=checkup.repair)

@snapshotter("acme")
async def acme(ctx):
    return Acme(ctx.root)

class Silent:
    async def start(self): ...
    async def close(self): ...

class Other(Silent):
    async def check_up(self, checkup):
        raise OSError(5, "Input/output error")
        yield

@INTERNAL.plugin("acme-other", capabilities=("check",))
async def other(ctx):
    return Other()

@INTERNAL.plugin("acme-silent", capabilities=("check",))
async def silent(ctx):
    return Silent()
"""


def test_plugins_of_others_take_part(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "acme_fsck.py").write_text(THIRD_PARTY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with place.daemon.config.open("a") as config:
        config.write(
            "[plugin_modules]\n"
            '"io.containerd.snapshotter.v1.acme" = "acme_fsck:acme"\n'
            '"io.containerd.internal.v1.acme-other" = "acme_fsck:other"\n'
            '"io.containerd.internal.v1.acme-silent" = "acme_fsck:silent"\n'
        )
    root = place.root / "io.containerd.snapshotter.v1.acme"
    root.mkdir()
    (root / "flaw").touch()
    words = [*PROGRAM, "--format", "json", "fsck", "--repair", "--config", str(place.daemon.config)]
    env = environment() | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert [each["problem"] for each in report["findings"]] == [
        "has a flaw",
        "cannot be checked: [Errno 5] Input/output error",
    ]
    assert [each["repaired"] for each in report["findings"]] == [True, False]
    assert report["not_checked"] == {"io.containerd.internal.v1.acme-silent": "it offers no check"}
    assert not (root / "flaw").exists()
