# SPDX-License-Identifier: Apache-2.0
"""``ctr images`` against both daemons."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from tests.support.comparison import differential
from tests.support.transcript import Recorder

BUSY = "example.com/busy:1"
MANY = "example.com/many:1"


def archive_members(path: Path) -> list[str]:
    """Names and sizes of what an exported archive holds."""
    with tarfile.open(path) as archive:
        return sorted(f"{member.name} {member.size}" for member in archive if member.isfile())


def collect(ctr: Recorder) -> None:
    """Have garbage collected: without, it depends on time whether it still shows."""
    ctr.quietly("leases", "create", "--id", "collect")
    ctr.quietly("leases", "rm", "--sync", "collect")


def reference(ctr: Recorder, name: str) -> str:
    return f"{ctr.data['registry']}/{name}:latest"


@differential()
def test_pull(ctr: Recorder) -> None:
    """A pull from a registry, one that finds everything there, and what it leaves in the stores."""
    ctr("images", "pull", "--plain-http", reference(ctr, "busy"), out=False)
    ctr("images", "pull", "--plain-http", reference(ctr, "busy"), out=False)
    ctr("images", "ls")
    ctr("images", "check")
    ctr("content", "ls")
    ctr("snapshots", "tree")
    ctr("leases", "ls")


@differential()
def test_pull_many_layers(ctr: Recorder) -> None:
    """Layers on layers, with labels of one's own."""
    ctr("images", "pull", "--plain-http", "--label", "mine=yes", reference(ctr, "many"), out=False)
    ctr("images", "ls")
    ctr("content", "ls")
    ctr("snapshots", "ls")
    ctr("snapshots", "usage")


@differential()
def test_pull_all_platforms(ctr: Recorder) -> None:
    ctr("images", "pull", "--plain-http", "--all-platforms", "--all-metadata", reference(ctr, "busy"), out=False)
    ctr("images", "ls", "-q")
    ctr("content", "ls", "-q")


@differential()
def test_pull_into_another_snapshotter(ctr: Recorder) -> None:
    ctr("images", "pull", "--plain-http", "--snapshotter", "native", reference(ctr, "many"), out=False)
    ctr("snapshots", "--snapshotter", "native", "tree")
    ctr("snapshots", "tree")
    ctr("images", "check", "--snapshotter", "native")
    ctr("images", "check")


@differential()
def test_pull_what_is_not_there(ctr: Recorder) -> None:
    ctr("images", "pull", "--plain-http", reference(ctr, "nobody"), out=False)
    ctr("images", "pull", "--plain-http", "--snapshotter", "nosuch", reference(ctr, "busy"), out=False)
    ctr("images", "ls")


@differential()
def test_fetch_without_unpacking(ctr: Recorder) -> None:
    ctr("content", "fetch", "--plain-http", reference(ctr, "busy"), out=False)
    ctr("images", "ls")
    ctr("images", "check")
    ctr("snapshots", "ls")


@differential()
def test_push(ctr: Recorder) -> None:
    """An image goes to the registry under another name and comes back the same."""
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    target = f"{ctr.data['registry']}/{ctr.namespace}:pushed"
    ctr("images", "push", "--plain-http", target, BUSY, out=False)
    ctr("images", "push", "--plain-http", target, "example.com/nobody:1", out=False)
    ctr("images", "pull", "--plain-http", target, out=False)
    ctr("images", "ls")


@differential()
def test_import(ctr: Recorder) -> None:
    ctr("images", "import", str(ctr.data["busy"]))
    ctr("images", "import", "--digests", "--base-name", "example.com/base", str(ctr.data["many"]))
    ctr("images", "import", "--no-unpack", str(ctr.data["many"]))
    ctr("images", "ls")
    collect(ctr)
    ctr("content", "ls")
    ctr("snapshots", "tree")
    ctr("images", "import", str(ctr.data["noise"]))
    ctr("images", "import", "/nosuch/file")


@differential()
def test_export(ctr: Recorder) -> None:
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    ctr.quietly("images", "import", str(ctr.data["many"]))
    path = ctr.directory / "out.tar"
    ctr("images", "export", str(path), BUSY, MANY)
    for line in archive_members(path):
        ctr.note(line)
    with tarfile.open(path) as archive:
        index = archive.extractfile("index.json")
        assert index is not None
        ctr.note(json.dumps(json.load(index), sort_keys=True))
    ctr("images", "export", "--platform", "linux/s390x", str(path), BUSY)
    ctr("images", "export", str(path), "example.com/nobody:1")


@differential()
def test_tag(ctr: Recorder) -> None:
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    ctr("images", "tag", BUSY, "example.com/busy:2")
    ctr("images", "tag", BUSY, "example.com/busy:2")
    ctr("images", "tag", "--force", BUSY, "example.com/busy:2")
    ctr("images", "tag", "example.com/nobody:1", "example.com/busy:3")
    ctr("images", "ls")


@differential()
def test_label(ctr: Recorder) -> None:
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    ctr("images", "label", BUSY, "a=1", "b.c/d=2")
    ctr("images", "label", BUSY, "a=")
    ctr("images", "label", "--replace-all", BUSY, "only=this")
    ctr("images", "label", BUSY, f"long={'x' * 5000}")
    ctr("images", "label", "example.com/nobody:1", "a=1")
    ctr("images", "ls")


@differential()
def test_list_with_filters(ctr: Recorder) -> None:
    for name in ("busy", "many"):
        ctr.quietly("images", "import", str(ctr.data[name]))
    ctr.quietly("images", "label", BUSY, "colour=red", "a.b/c-d=e")
    for expression in (
        "name==example.com/busy:1",
        "name!=example.com/busy:1",
        "name~=busy",
        'name~="^example.*y:[0-9]$"',
        "name~=/many/",
        "labels.colour",
        "labels.colour==red",
        "labels.colour==blue",
        "labels.colour!=blue",
        'labels."a.b/c-d"==e',
        "target.mediatype~=manifest",
        "labels.colour==red,name~=many",
        "nosuchfield==1",
        "name==",
        "name=~x",
        "==x",
        'name=="unfinished',
    ):
        ctr("images", "ls", "-q", expression)
    ctr("images", "ls", "-q", "name~=busy", "name~=many")


@differential()
def test_remove(ctr: Recorder) -> None:
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    ctr.quietly("images", "import", str(ctr.data["many"]))
    ctr("images", "rm", "--sync", BUSY)
    ctr("images", "ls", "-q")
    ctr("content", "ls", "-q")
    ctr("snapshots", "ls")
    ctr("images", "rm", "--sync", MANY)
    ctr("content", "ls")
    ctr("snapshots", "ls")
    ctr("images", "rm", "example.com/nobody:1")
    ctr("images", "rm")


@differential()
def test_mount(ctr: Recorder) -> None:
    """An image shows on a directory, read-only and writable, and goes away again."""
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    target = ctr.directory / "mnt"
    target.mkdir()
    ctr("images", "mount", BUSY, str(target))
    try:
        ctr.note(" ".join(sorted(entry.name for entry in target.iterdir())))
        ctr("images", "mount", BUSY, str(target))
    finally:
        ctr("images", "unmount", str(target))
    ctr("snapshots", "ls", hide=[(str(target), "<target>")])
    ctr("images", "unmount", "--rm", str(target))
    ctr("snapshots", "ls")
    ctr("images", "mount", "--rw", BUSY, str(target))
    try:
        (target / "new").write_text("x")
    finally:
        ctr("images", "unmount", "--rm", str(target))
    ctr("snapshots", "ls")
    ctr("images", "mount", "example.com/nobody:1", str(target))


@differential()
def test_convert(ctr: Recorder) -> None:
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    ctr("images", "convert", "--uncompress", "--oci", BUSY, "example.com/plain:1")
    ctr("images", "ls")
    ctr("content", "ls")
