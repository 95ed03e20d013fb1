# SPDX-License-Identifier: Apache-2.0
"""Layers that our differ makes: applied again, they give the tree they were made from, by whichever way it was read."""

from __future__ import annotations

import gzip
import io
import os
import random
import socket
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.unpacking import CAPABILITY, Bench, bench, bind, look

from orlop.errors import FailedPrecondition
from orlop.values import Descriptor, Mount
from orlop_images import media
from orlop_sdk.linux.mount import mount_points, temporary_mount
from orlop_sdk.testing.differ import BEFORE, CHANGES, read
from orlop_sdk.testing.trees import append, mkdir, remove, rename, run, setxattr, symlink, write


@pytest.fixture
async def parts(short_tmp: Path) -> AsyncIterator[Bench]:
    async with bench(short_tmp / "b") as made:
        yield made


async def base(parts: Bench, name: str = "base") -> str:
    """A committed snapshot with the suite's first tree."""
    with temporary_mount(await parts.snapshots.prepare("base-active", "")) as root:
        run(BEFORE, root)
        run([setxattr("etc/tool", "security.capability", CAPABILITY), mkdir("moved/inside")], root)
    await parts.snapshots.commit(name, "base-active")
    return name


async def entries(parts: Bench, layer: Descriptor) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(await read(parts.content, layer))) as archive:
        return archive.getmembers()


async def round_trip(parts: Bench, layer: Descriptor, parent: str) -> dict[str, dict[str, object]]:
    """What the layer makes of the parent."""
    mounts = await parts.snapshots.prepare("again", parent)
    await parts.differ.apply(layer, mounts)
    with temporary_mount(mounts) as root:
        return look(root, times=False)


@pytest.mark.parametrize("by_top_layer", [True, False], ids=["top layer", "whole trees"])
@pytest.mark.parametrize("media_type", [media.TAR, media.OCI_GZIP, media.OCI_ZSTD])
async def test_an_active_snapshot(parts: Bench, short_tmp: Path, media_type: str, by_top_layer: bool) -> None:
    parent = await base(parts)
    mounts = await parts.snapshots.prepare("active", parent)
    with temporary_mount(mounts) as root:
        run(CHANGES, root)
        run(
            [
                remove("kept"),
                mkdir("kept/opaque"),
                write("etc/caps", "x"),
                setxattr("etc/caps", "security.capability", CAPABILITY),
                setxattr("etc/caps", "user.note", b"\x00\xffbinary"),
                write("etc/not-utf8-\udcff", "1"),
            ],
            root,
        )
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(root / "sock"))
        os.unlink(root / "sock") if not by_top_layer else None
        expected = look(root, times=False)
    expected.pop("sock", None)
    lower = await parts.snapshots.view("lower", parent)
    if by_top_layer:
        made = await parts.differ.compare(lower, mounts, media_type=media_type)
    else:
        copy = short_tmp / "copy"
        copy.mkdir()
        with temporary_mount(lower, short_tmp) as shown:
            made = await parts.differ.compare(bind(shown), mounts, media_type=media_type)
    assert await round_trip(parts, made, parent) == expected
    assert mount_points(short_tmp) == []


async def test_a_renamed_directory_is_written_whole(parts: Bench, short_tmp: Path) -> None:
    parent = await base(parts)
    mounts = await parts.snapshots.prepare("active", parent)
    redirecting = [Mount(mount.type, mount.source, options=(*mount.options, "redirect_dir=on")) for mount in mounts]
    with temporary_mount(redirecting) as root:
        run([rename("etc", "etc2"), append("etc2/motd", "more")], root)
        expected = look(root, times=False)
    made = await parts.differ.compare(await parts.snapshots.view("lower", parent), redirecting)
    assert await round_trip(parts, made, parent) == expected


async def test_only_changes_and_their_parents_are_written(parts: Bench, tmp_path: Path) -> None:
    for name in ("lower", "upper"):
        (tmp_path / name).mkdir()
        run([*BEFORE, mkdir("a/b/c"), write("a/b/c/d", "1", mtime=100), mkdir("a/other")], tmp_path / name)
    run([write("a/b/c/d", "2", mtime=100), remove("gone/deep/file")], tmp_path / "upper")
    for root in (tmp_path / "lower", tmp_path / "upper"):
        for path in root.rglob("*"):
            os.utime(path, (5, 5), follow_symlinks=False)
    made = await parts.differ.compare(bind(tmp_path / "lower"), bind(tmp_path / "upper"), media_type=media.TAR)
    assert [info.name for info in await entries(parts, made)] == [
        "a",
        "a/b",
        "a/b/c",
        "a/b/c/d",
        "gone",
        "gone/deep",
        "gone/deep/.wh.file",
    ]


async def test_a_new_name_for_an_old_file(parts: Bench, tmp_path: Path) -> None:
    for name in ("lower", "upper"):
        (tmp_path / name).mkdir()
        run([write("b", "content", mtime=7)], tmp_path / name)
    for name in ("a", "c"):
        (tmp_path / "upper" / name).hardlink_to(tmp_path / "upper/b")
    made = await parts.differ.compare(bind(tmp_path / "lower"), bind(tmp_path / "upper"), media_type=media.TAR)
    found = [(info.name, info.type, info.linkname) for info in await entries(parts, made)]
    assert found == [("a", tarfile.REGTYPE, ""), ("b", tarfile.LNKTYPE, "a"), ("c", tarfile.LNKTYPE, "a")]


async def test_links_of_the_tree_are_not_followed(parts: Bench, tmp_path: Path) -> None:
    for name in ("lower", "upper", "outside"):
        (tmp_path / name).mkdir()
    run([write("secret", "s")], tmp_path / "outside")
    run([symlink("a", str(tmp_path / "outside")), symlink("b", str(tmp_path / "outside/secret"))], tmp_path / "upper")
    made = await parts.differ.compare(bind(tmp_path / "lower"), bind(tmp_path / "upper"), media_type=media.TAR)
    assert [info.type for info in await entries(parts, made)] == [tarfile.SYMTYPE, tarfile.SYMTYPE]


async def test_the_blob_may_be_there_already(parts: Bench, tmp_path: Path) -> None:
    for name in ("lower", "upper"):
        (tmp_path / name).mkdir()
    run([write("a", "1", mtime=1)], tmp_path / "upper")
    first = await parts.differ.compare(bind(tmp_path / "lower"), bind(tmp_path / "upper"))
    second = await parts.differ.compare(bind(tmp_path / "lower"), bind(tmp_path / "upper"), labels={"more": "1"})
    assert first == second
    info = await parts.content.info(first.digest)
    assert info.labels["more"] == "1"
    plain = gzip.decompress(await read(parts.content, first))
    assert len(plain) % 512 == 0
    assert await parts.content.statuses() == []


async def test_mounts_that_fail_leave_no_ingest(parts: Bench, tmp_path: Path) -> None:
    missing = [Mount("bind", str(tmp_path / "missing"), options=("rbind", "ro"))]
    with pytest.raises(Exception, match="missing"):
        await parts.differ.compare(missing, missing)
    assert await parts.content.statuses() == []


async def test_read_only_mounts_cannot_be_unpacked_into(parts: Bench, tmp_path: Path) -> None:
    layer = await parts.differ.compare(bind(tmp_path), bind(tmp_path), media_type=media.TAR)
    assert layer.size == 1024
    (tmp_path / "upper").mkdir()
    run([write("a", "1")], tmp_path / "upper")
    (tmp_path / "lower").mkdir()
    layer = await parts.differ.compare(bind(tmp_path / "lower"), bind(tmp_path / "upper"))
    with pytest.raises(FailedPrecondition, match="[Rr]ead-only"):
        await parts.differ.apply(layer, [Mount("bind", str(tmp_path / "lower"), options=("rbind", "ro"))])


@pytest.mark.parametrize("seed", range(12))
async def test_random_trees(parts: Bench, short_tmp: Path, seed: int) -> None:
    """Any tree can be turned into any other, through files as well as through overlays."""
    source = random.Random(seed)
    trees = [short_tmp / "one", short_tmp / "other"]
    for tree in trees:
        tree.mkdir()
        grow(tree, source, depth=3)
    made = await parts.differ.compare(bind(trees[0]), bind(trees[1]))
    expected = look(trees[1], times=False)
    first = await parts.differ.compare(bind(empty(short_tmp)), bind(trees[0]))
    await parts.unpack([first])
    assert await round_trip(parts, made, f"{first.digest}-0") == {**expected, ".": expected["."] | {"mode": MODE}}
    await parts.differ.apply(made, bind(trees[0]))
    assert look(trees[0], times=False) == expected


MODE = "drwxr-xr-x0o40755"


def empty(place: Path) -> Path:
    (place / "empty").mkdir()
    return place / "empty"


def grow(root: Path, source: random.Random, depth: int) -> None:
    """Fill a directory from few names, so that two trees have much in common."""
    for name in source.sample("abcdefg", source.randint(1, 6)):
        path = root / name
        kind = source.choice("ffffddddslpc")
        if kind == "d" and depth:
            path.mkdir()
            grow(path, source, depth - 1)
            path.chmod(source.choice((0o755, 0o700, 0o1777)))
        elif kind == "s":
            path.symlink_to(source.choice(("a", "../b", "/c", "/nowhere")))
        elif kind == "p":
            os.mkfifo(path)
        elif kind == "c":
            os.mknod(path, 0o020600, os.makedev(1, source.randint(3, 5)))
        elif kind == "l" and (files := [item for item in root.rglob("*") if item.is_file() and not item.is_symlink()]):
            path.hardlink_to(source.choice(sorted(files)))
        else:
            path.write_bytes(source.randbytes(source.choice((0, 1, 511, 512, 513, 3000))))
            os.chown(path, source.choice((0, 0, 1000)), source.choice((0, 7)))
            path.chmod(source.choice((0o644, 0o4755, 0o600)))
            os.utime(path, (source.randint(1, 3), source.randint(1, 3)))
