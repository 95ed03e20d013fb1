# SPDX-License-Identifier: Apache-2.0
"""Nasty layers, unpacked by the real containerd and by our differ: the trees have to be the same."""

from __future__ import annotations

import gzip
import random
import shlex
import tarfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest
from tests.support.daemon import CONTAINERD, Daemon
from tests.support.image import Image, tar, write_archive
from tests.support.place import short_directory
from tests.support.unpacking import CAPABILITY, Member, bench, directory, file, link, look, node, raw, symlink, xattrs

from orlop.values import Descriptor, Mount
from orlop_images import media
from orlop_sdk.linux.mount import temporary_mount

LONG = "/".join(f"a rather long name of a directory number {number}" for number in range(9))

BASE: list[Member] = [
    directory("./"),
    directory("etc"),
    file("etc/passwd", b"root:x:0:0::/:/bin/sh\n", uid=3, gid=70000, mode=0o640),
    file("etc/shadow", b"*", mode=0),
    directory("usr/bin", mode=0o2755, gid=50),
    file("usr/bin/su", b"#!", mode=0o4755),
    file("usr/bin/su-other", b"#!", mode=0o4755, uid=1000, gid=1000),
    file("usr/bin/grp", b"#!", mode=0o2711, uid=5, gid=6),
    file(
        "usr/bin/caps", b"ping", mode=0o755, uid=9, gid=9, **xattrs(security__capability=CAPABILITY, user__a=b"1\0\xff")
    ),
    directory("usr/share/empty", **xattrs(user__of__directory=b"yes")),
    symlink("bin", "usr/bin", uid=12, gid=13),
    symlink("broken", "/no/such\\place"),
    file("bin/through-link", b"lands in usr/bin"),
    symlink("lib", "/usr/lib"),
    file("lib/made/on/the/way", b"x"),
    link("etc/passwd-link", "etc/passwd", uid=3, gid=70000, mode=0o640),
    link("hard/deep/passwd", "./etc/../etc/passwd-link", uid=3, gid=70000, mode=0o640),
    symlink("etc/sym", "passwd"),
    link("etc/link-to-symlink", "etc/sym"),
    node("dev/null", tarfile.CHRTYPE, 1, 3, mode=0o666),
    node("dev/sda", tarfile.BLKTYPE, 8, 300, mode=0o660, gid=6),
    node("dev/fifo", tarfile.FIFOTYPE, mode=0o622, uid=1),
    directory("tmp", mode=0o1777, mtime=5),
    directory("opt/a/b/c", mtime=7),
    file("opt/a/b/c/file", b"abc", mtime=1234567890.123456789),
    file("old", b"", mtime=0),
    file("future", b"", mtime=4_000_000_000),
    file(f"{LONG}/file", b"deep"),
    symlink("longlink", LONG),
    file("n" * 255, b"longest name"),
    file("bytes-\udcff\udc80", b"not UTF-8"),
    file("ünïcode \n new", b"line"),
    file("d-becomes-file/in", b"1"),
    directory("d-becomes-file"),
    file("twice", b"first", mode=0o600),
    file("twice", b"second one", mode=0o644),
    file("../../outside", b"confined"),
    file("/absolute/./x/../y", b"absolute"),
    directory("opaque"),
    file("opaque/hidden", b"1"),
    directory("opaque/sub"),
    file("opaque/sub/hidden", b"1"),
    directory("removed"),
    file("removed/a", b"1"),
    file("removed/b", b"2"),
    file("big-owner", b"", uid=0o7777777 + 5, gid=3_000_000_000),
]

CHANGES: list[list[Member]] = [
    [
        directory("opaque"),
        file("opaque/.wh..wh..opq"),
        file("opaque/shown", b"2"),
        file("removed/.wh.a"),
        file(".wh.old"),
        file("d-becomes-file", b"now a file"),
        file("opt/.wh.a"),
        file("etc/new", b"parents are below", uid=1),
        file("usr/share/empty/file", b"parent with attributes is below"),
        file("usr/bin/inherits-group", b"", gid=0),
    ],
    [
        directory("old"),
        file("old/inside", b"was removed, comes back as a directory"),
        directory("d-becomes-file"),
        file("d-becomes-file/again", b"x"),
        directory("opaque/sub", mode=0o700),
        file("opaque/sub/new", b"3"),
        file(".wh.longlink"),
        file(".wh.bin"),
        directory("bin", mode=0o711),
        file("bin/own", b"no more a link"),
        directory("etc", mode=0o750, uid=4),
        file("removed/.wh..wh..opq"),
        file("removed/c", b"after the mark"),
    ],
]


@pytest.fixture(scope="module")
def containerd() -> Iterator[Daemon]:
    with short_directory() as base, Daemon(base, CONTAINERD) as daemon:
        yield daemon


def theirs(daemon: Daemon, place: Path, layers: Sequence[bytes], snapshotter: str) -> list[Mount]:
    """Unpack with containerd, and give what shows the result."""
    image = Image(layers, gzipped=True)
    ctr = daemon.ctr(f"unpack-{uuid.uuid4().hex}")
    ctr.ok(
        "images",
        "import",
        "--snapshotter",
        snapshotter,
        str(write_archive(place / "image.tar", {"example.org/nasty:1": image})),
    )
    # Nobody holds the view, so it may go at any time; the layers that its mount shows belong to the image and stay.
    words = shlex.split(
        ctr.ok("snapshots", "--snapshotter", snapshotter, "view", "--target", "/somewhere", "look", image.chain_ids[-1])
    )
    kind, source, options = words[words.index("-t") + 1], words[words.index("-t") + 2], words[words.index("-o") + 1]
    return [Mount(kind, source, options=tuple(options.split(",")))]


async def ours(
    base: Path, layers: Sequence[bytes], unsure: Sequence[str], snapshotter: str
) -> dict[str, dict[str, object]]:
    """Unpack with our differ on our snapshotter, and look at the result."""
    async with bench(base, native=snapshotter == "native") as parts:
        added: list[Descriptor] = []
        for number, layer in enumerate(layers):
            blob = gzip.compress(layer, 1) if number % 2 else layer
            added.append(await parts.add(blob, media.OCI_GZIP if number % 2 else media.TAR))
        name = await parts.unpack(added)
        mounts = await parts.snapshots.view("look", name)
        with temporary_mount(mounts) as root:
            return look(root, unsure=unsure)


async def compare(
    daemon: Daemon, place: Path, layers: Sequence[bytes], unsure: Sequence[str] = (), snapshotter: str = "overlayfs"
) -> None:
    with temporary_mount(theirs(daemon, place, layers, snapshotter)) as root:
        expected = look(root, unsure=unsure)
    actual = await ours(place, layers, unsure, snapshotter)
    assert actual.keys() == expected.keys()
    for name, said in expected.items():
        assert (name, actual[name]) == (name, said)


# Made on the way, or hidden ones made again to hold something: their times are those of the day.
UNSURE = (
    *"usr usr/lib usr/lib/made usr/lib/made/on usr/lib/made/on/the hard hard/deep dev opt usr/share absolute".split(),
    *"d-becomes-file removed usr/bin etc usr/share/empty opaque".split(),
    *("/".join(LONG.split("/")[:depth]) for depth in range(1, 10)),
)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
async def test_nasty_layers(containerd: Daemon, short_tmp: Path, format: Literal[1, 2], snapshotter: str) -> None:
    # containerd's copies of trees make two links of one that has two names, which is not the differ's doing.
    base = [member for member in BASE if snapshotter != "native" or member[0].name != "etc/link-to-symlink"]
    layers = [raw(base, format), *(raw(change, format) for change in CHANGES)]
    await compare(containerd, short_tmp, layers, UNSURE, snapshotter)


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
async def test_many_layers(containerd: Daemon, short_tmp: Path, snapshotter: str) -> None:
    source = random.Random(5)
    layers = [tar([directory("d"), *(file(f"d/{number}", bytes([number]) * number) for number in range(40))])]
    for step in range(1, 24):
        members = [directory("d", mtime=step)]
        for number in sorted(source.sample(range(40), 4)):
            members.append(
                source.choice([file(f"d/.wh.{number}"), file(f"d/{number}", b"%d" % step, mode=0o600 + step)])
            )
        layers.append(tar(members))
    await compare(containerd, short_tmp, layers, snapshotter=snapshotter)


async def test_docker_style_sparse_and_old_archives(containerd: Daemon, short_tmp: Path) -> None:
    holes = b"A" * 512 + b"B" * 100
    info, _ = file("sparse", mode=0o600)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "really-sparse",
        "GNU.sparse.realsize": "1000000",
    }
    stored = b"2\n0\n512\n999900\n100\n".ljust(512, b"\0") + holes
    info.size = len(stored)
    older, _ = file("older-sparse")
    older.pax_headers = {"GNU.sparse.map": "4096,512,8192,100", "GNU.sparse.size": "9000", "GNU.sparse.numblocks": "2"}
    older.size = len(holes)
    old = bytearray(tarfile.TarInfo("v7dir/").tobuf(tarfile.USTAR_FORMAT))
    old[156:157], old[257:265] = b"\0", bytes(8)
    old[148:156] = b"%06o\0 " % (sum(old[:148]) + sum(old[156:]) + 256)
    layer = raw([(info, stored), (older, holes)], tarfile.PAX_FORMAT, end=False) + bytes(old) + bytes(1024)
    await compare(containerd, short_tmp, [layer])
