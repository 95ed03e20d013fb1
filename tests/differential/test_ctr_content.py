# SPDX-License-Identifier: Apache-2.0
"""``ctr content``, ``snapshots``, ``leases`` and ``namespaces`` against both daemons."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.comparison import differential
from tests.support.transcript import Recorder

BLOB = b"hello, blob\n"
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
UNKNOWN = f"sha256:{'12' * 32}"
BUSY = "example.com/busy:1"


@differential()
def test_ingest(ctr: Recorder) -> None:
    """Blobs come in with and without claims about them, which are checked."""
    ctr("content", "ingest", "one", stdin=BLOB)
    ctr("content", "ingest", "one", stdin=BLOB)
    ctr("content", "ingest", "--expected-digest", DIGEST, "--expected-size", str(len(BLOB)), "two", stdin=BLOB)
    ctr("content", "ingest", "--expected-digest", UNKNOWN, "three", stdin=BLOB)
    ctr("content", "ingest", "--expected-size", "5", "four", stdin=b"other")
    ctr("content", "ingest", "--expected-size", "6", "five", stdin=b"shorter")
    ctr("content", "ingest", "--expected-digest", "sha256:12", "six", stdin=BLOB)
    ctr("content", "ingest", "", stdin=BLOB)
    ctr("content", "ls")
    ctr("content", "active", ordered=False)


@differential()
def test_ingest_nothing(ctr: Recorder) -> None:
    ctr("content", "ingest", "empty", stdin=b"")
    ctr("content", "ls")


@differential()
def test_large_blob(ctr: Recorder) -> None:
    data = ctr.data["noise"].read_bytes()
    name = f"sha256:{hashlib.sha256(data).hexdigest()}"
    ctr("content", "ingest", "--expected-digest", name, "--expected-size", str(len(data)), "large", stdin=data)
    shown = ctr("content", "get", name, out=False)
    ctr.note(str(len(shown.out)))
    ctr("content", "ls")


@differential()
def test_get(ctr: Recorder) -> None:
    ctr("content", "ingest", "one", stdin=BLOB)
    ctr("content", "get", DIGEST)
    ctr("content", "get", UNKNOWN)
    ctr("content", "get", "sha256:12")


@differential()
def test_label(ctr: Recorder) -> None:
    ctr.quietly("content", "ingest", "one", stdin=BLOB)
    ctr("content", "label", DIGEST, "a=1", "b.c/d=2")
    ctr("content", "label", DIGEST, "a=")
    ctr("content", "label", DIGEST, f"long={'x' * 5000}")
    ctr("content", "label", UNKNOWN, "a=1")
    ctr("content", "ls")
    ctr("content", "ls", "labels.a==1")
    ctr("content", "ls", 'labels."b.c/d"==2')
    ctr("content", "ls", f"digest~={DIGEST[7:12]}")
    ctr("content", "ls", "nosuch==1")


@differential()
def test_remove(ctr: Recorder) -> None:
    ctr.quietly("content", "ingest", "one", stdin=BLOB)
    ctr("content", "rm", DIGEST)
    ctr("content", "rm", DIGEST)
    ctr("content", "ls")


@differential()
def test_prune_references(ctr: Recorder) -> None:
    """Layers that are unpacked need not be kept."""
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    ctr("content", "prune", "references", "--dry")
    ctr("content", "prune", "references")
    ctr("content", "ls")
    ctr("images", "check")


@differential()
def test_snapshot_life(ctr: Recorder) -> None:
    """Prepare, commit, view and remove, with what is refused between."""
    snapshots = ("snapshots", "--snapshotter", "native")
    ctr(*snapshots, "prepare", "a")
    ctr(*snapshots, "prepare", "a")
    ctr(*snapshots, "prepare", "b", "nosuch")
    ctr(*snapshots, "prepare", "b", "a")
    ctr(*snapshots, "commit", "base", "a")
    ctr(*snapshots, "commit", "base", "nosuch")
    ctr(*snapshots, "prepare", "b", "base")
    ctr(*snapshots, "view", "v", "base")
    ctr(*snapshots, "view", "v", "base")
    ctr.loosely("containerd looks for a directory that views do not have", *snapshots, "commit", "v2", "v")
    ctr(*snapshots, "commit", "base", "b")
    ctr(*snapshots, "info", "b")
    ctr(*snapshots, "info", "base")
    ctr(*snapshots, "info", "nosuch")
    ctr(*snapshots, "ls")
    ctr(*snapshots, "tree")
    ctr(*snapshots, "usage")
    ctr(*snapshots, "label", "b", "mine=1")
    ctr(*snapshots, "label", "nosuch", "mine=1")
    ctr(*snapshots, "info", "b")
    ctr(*snapshots, "rm", "base")
    ctr(*snapshots, "rm", "v", "b")
    ctr(*snapshots, "rm", "base")
    ctr(*snapshots, "rm", "base")
    ctr(*snapshots, "ls")


@differential()
def test_snapshot_mounts(ctr: Recorder) -> None:
    """What is to be mounted for a snapshot of each kind, as both snapshotters say it."""
    numbers = ((r"snapshots/\d+", "snapshots/<n>"), (r",$", ""))
    ctr.quietly("images", "import", str(ctr.data["many"]))
    for name in ("overlayfs", "native"):
        ctr.quietly("images", "import", "--snapshotter", name, str(ctr.data["many"]))
        lines = ctr.quietly("snapshots", "--snapshotter", name, "ls").splitlines()[1:]
        parents = {line.split()[1] for line in lines}
        top = next(line.split()[0] for line in lines if line.split()[0] not in parents)
        target = str(ctr.directory / "mnt")
        snapshots = ("snapshots", "--snapshotter", name)
        ctr(*snapshots, "prepare", "--mounts", "active", top, hide=numbers, ordered=False)
        ctr(*snapshots, "view", "--mounts", "view", top, hide=numbers, ordered=False)
        ctr(*snapshots, "mounts", target, "active", hide=numbers)
        ctr(*snapshots, "mounts", target, top, hide=numbers)
        ctr(*snapshots, "mounts", target, "nosuch", hide=numbers)
        ctr(*snapshots, "prepare", "--mounts", "alone", hide=numbers)


@differential()
def test_unknown_snapshotter(ctr: Recorder) -> None:
    for call in (("ls",), ("prepare", "a"), ("info", "a"), ("rm", "a"), ("usage", "a")):
        ctr("snapshots", "--snapshotter", "nosuch", *call)


def time_of(item: tarfile.TarInfo) -> int:
    """When an entry was changed. A whiteout never was: one daemon says now, the other the epoch."""
    return 0 if Path(item.name).name.startswith(".wh.") else int(item.mtime)


def members(layer: bytes) -> list[str]:
    """What is in a layer, one line for each entry, in order of their names."""
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        return sorted(
            f"{item.name} {item.type!r} {item.mode:o} {item.uid}:{item.gid} {item.size} {time_of(item)} {item.linkname}"
            for item in archive
        )


@differential()
def test_snapshot_diff(ctr: Recorder) -> None:
    """The difference between two snapshots is a layer of the same entries, whoever makes it."""
    ctr.quietly("images", "import", str(ctr.data["many"]))
    names = [line.split()[0] for line in ctr.quietly("snapshots", "ls").splitlines()[1:]]
    for name in names[1:3]:
        layer = ctr("snapshots", "diff", "--media-type", "application/vnd.oci.image.layer.v1.tar", name, out=False)
        for line in members(layer.raw):
            ctr.note(line)
    ctr("snapshots", "diff", "--keep", "--ref", "r", "--label", "mine=1", names[1], out=False)
    ctr("snapshots", "diff", "nosuch")
    ctr("snapshots", "diff", "--media-type", "text/plain", names[1])


@differential()
def test_unpack(ctr: Recorder) -> None:
    ctr.quietly("images", "import", "--no-unpack", str(ctr.data["many"]))
    manifest = ctr.quietly("images", "ls").splitlines()[1].split()[2]
    ctr("snapshots", "unpack", manifest)
    ctr("snapshots", "tree")
    ctr("snapshots", "unpack", UNKNOWN)


@differential()
def test_leases(ctr: Recorder) -> None:
    ctr("leases", "create", "--id", "one", "mine=1")
    ctr("leases", "create", "--id", "one")
    ctr("leases", "create", "--id", "two", "--expires", "0")
    ctr("leases", "create", "--id", "any id / at all")
    ctr("leases", "ls")
    ctr("leases", "ls", "-q")
    ctr("leases", "ls", "-q", "id==one")
    ctr("leases", "ls", "-q", "labels.mine==1")
    ctr("leases", "ls", "-q", "==")
    ctr("leases", "rm", "one")
    ctr("leases", "rm", "--sync", "two")
    ctr("leases", "rm", "one")
    ctr("leases", "ls", "-q")


def own_namespaces(ctr: Recorder) -> None:
    """Note the namespaces that this scenario made."""
    for line in ctr.quietly("namespaces", "ls").splitlines():
        if ctr.namespace in line:
            ctr.note(line)


@differential()
def test_namespaces(ctr: Recorder) -> None:
    name = f"{ctr.namespace}-x"
    ctr("namespaces", "create", name, "a=1", "b=2")
    ctr("namespaces", "create", name)
    own_namespaces(ctr)
    ctr("namespaces", "label", name, "a=", "c=3")
    own_namespaces(ctr)
    ctr("namespaces", "create", "not@valid")
    ctr("namespaces", "create", "")
    ctr("namespaces", "create", "x" * 77)
    ctr("namespaces", "label", name, f"long={'x' * 5000}")
    ctr("namespaces", "rm", name)
    ctr("namespaces", "rm", name)
    own_namespaces(ctr)


@differential()
def test_namespace_in_use(ctr: Recorder) -> None:
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    own_namespaces(ctr)
    ctr("namespaces", "rm", ctr.namespace)
    ctr("images", "rm", "--sync", BUSY)
    ctr("namespaces", "rm", ctr.namespace)
    own_namespaces(ctr)


@differential()
def test_namespace_that_cannot_be(ctr: Recorder) -> None:
    """Calls in a namespace with an impossible name, and in one that nobody made."""
    for name in ("not@valid", "x" * 77, f"{ctr.namespace}-never"):
        for call in (("images", "ls"), ("containers", "ls"), ("tasks", "ls"), ("content", "ls"), ("leases", "ls")):
            ctr("--namespace", name, *call)
    own_namespaces(ctr)


def fields(ctr: Recorder, line: str) -> Mapping[str, object]:
    """The payload of an event line."""
    payload: Mapping[str, object] = json.loads(line[line.index("{") :])
    return payload


@differential()
def test_events_of_stores(ctr: Recorder) -> None:
    """Everything that changes in the stores is told, in this order."""
    with ctr.events() as log:
        ctr.quietly("images", "import", "--no-unpack", str(ctr.data["busy"]))
        ctr.quietly("images", "tag", BUSY, "example.com/busy:2")
        ctr.quietly("images", "label", BUSY, "a=1")
        ctr.quietly("images", "rm", "example.com/busy:2")
        ctr.quietly("snapshots", "prepare", "s")
        ctr.quietly("snapshots", "commit", "t", "s")
        ctr.quietly("snapshots", "rm", "t")
        ctr.quietly("containers", "create", "--snapshotter", "native", "--config", spec(ctr), "c1")
        ctr.quietly("containers", "label", "c1", "a=1")
        ctr.quietly("containers", "rm", "c1")
        for line in log.lines(10):
            ctr.note(line)


def spec(ctr: Recorder) -> str:
    """The path of a runtime spec."""
    path = ctr.directory / "config.json"
    path.write_text(ctr.quietly("oci", "spec"))
    return str(path)
