# SPDX-License-Identifier: Apache-2.0
"""Owners seen differently through mounts."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from orlop.errors import InvalidArgument
from orlop.values import Mount
from orlop_sdk.linux.idmap import IdRange, change_owners, parse_mapping, to_host
from orlop_sdk.linux.mount import temporary_mount

MAPS = ("uidmap=0:100000:65536", "gidmap=0:200000:1000,1000:300000:10")


def owner(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid


def layer(path: Path, uid: int, gid: int) -> str:
    path.mkdir()
    (path / path.name).touch()
    os.chown(path / path.name, uid, gid)
    return str(path)


def test_mappings_are_read() -> None:
    mapping = parse_mapping("0:100000:1000,1000:5000:1")
    assert mapping == (IdRange(0, 100000, 1000), IdRange(1000, 5000, 1))
    assert [to_host(id, mapping) for id in (0, 999, 1000)] == [100000, 100999, 5000]
    with pytest.raises(InvalidArgument, match="1001"):
        to_host(1001, mapping)


def test_owners_are_changed(short_tmp: Path) -> None:
    """Each file once, whatever names it has; links themselves; and what the change of owner clears is set again."""
    outside = short_tmp / "outside"
    outside.touch()
    tree = short_tmp / "tree"
    (tree / "sub").mkdir(parents=True)
    file = tree / "sub/file"
    file.touch()
    os.chown(file, 1, 2)
    file.chmod(0o6755)
    (tree / "again").hardlink_to(file)
    (tree / "link").symlink_to(outside)
    (tree / "way").symlink_to(tree / "sub")
    os.chown(tree / "way", 7, 8, follow_symlinks=False)
    change_owners(tree, parse_mapping("0:10:10"), parse_mapping("0:10:1,1:30:10"))
    assert owner(tree) == owner(tree / "sub") == owner(tree / "link") == (10, 10)
    assert owner(file) == owner(tree / "again") == (11, 31)
    assert owner(tree / "way") == (17, 37)
    assert file.stat().st_mode & 0o7777 == 0o6755
    assert owner(outside) == (0, 0)


@pytest.mark.parametrize("text", ["", "0:1", "0:1:x", "0:1:2,", "-1:0:1"])
def test_malformed_mappings_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="container:host:size"):
        parse_mapping(text)


def test_layers_of_an_overlay_are_mapped(short_tmp: Path) -> None:
    lowers = [layer(short_tmp / "b", 5, 1005), layer(short_tmp / "a", 0, 0)]
    for name in ("upper", "work"):
        (short_tmp / name).mkdir()
    options = (f"workdir={short_tmp}/work", f"upperdir={short_tmp}/upper", f"lowerdir={':'.join(lowers)}", *MAPS)
    try:
        with temporary_mount([Mount("overlay", "overlay", options=options)], short_tmp) as tree:
            assert owner(tree / "a") == (100000, 200000)
            assert owner(tree / "b") == (100005, 300005)
            (tree / "a").write_text("copied up")
            assert owner(tree / "a") == (100000, 200000)
    except OSError as error:
        if error.errno == errno.EINVAL:
            pytest.skip("this kernel or file system cannot map ids")
        raise
    assert owner(short_tmp / "upper/a") == (100000, 200000)
    assert owner(short_tmp / "a/a") == (0, 0)


def test_binds_are_mapped(short_tmp: Path) -> None:
    source = layer(short_tmp / "a", 7, 8)
    with temporary_mount([Mount("bind", source, options=("ro", "rbind", *MAPS))], short_tmp) as tree:
        assert owner(tree / "a") == (100007, 200008)
        with pytest.raises(OSError, match="Read-only"):
            (tree / "new").touch()


def test_one_mapping_alone_is_refused(short_tmp: Path) -> None:
    with (
        pytest.raises(InvalidArgument, match="both"),
        temporary_mount([Mount("bind", str(short_tmp), options=("rbind", MAPS[0]))], short_tmp),
    ):
        pytest.fail("it was mounted")


def test_a_failure_leaves_nothing_mounted(short_tmp: Path) -> None:
    with (
        pytest.raises(OSError, match="missing"),
        temporary_mount([Mount("bind", str(short_tmp / "missing"), options=("rbind", *MAPS))], short_tmp),
    ):
        pytest.fail("it was mounted")
    assert "orlop-mapped" not in Path("/proc/self/mounts").read_text()
