# SPDX-License-Identifier: Apache-2.0
"""Measuring and removing trees, hostile ones included."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from orlop.values import Mount
from orlop_sdk.linux import tree
from orlop_sdk.linux.mount import mount_all, unmount_all
from orlop_sdk.linux.tree import directories, disk_usage, remove_tree


def nest(top: Path, depth: int, name: str = "d") -> None:
    """Directories in one another, deeper than any path may be long."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def test_usage_counts_inodes_and_blocks_once(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_bytes(os.urandom(20_000))
    (tmp_path / "same").hardlink_to(tmp_path / "dir/file")
    (tmp_path / "link").symlink_to("/etc")
    os.mkfifo(tmp_path / "fifo")
    usage = disk_usage(tmp_path)
    assert usage.inodes == 5
    listed = subprocess.run(
        ["du", "--summarize", "--block-size=1", str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert usage.size == int(listed.stdout.split()[0])


def test_a_walk_leaves_out_what_vanished(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    seen = []
    for directory in directories(tmp_path):
        seen.append(directory.path)
        for name in ("a", "b"):
            if name not in seen and (tmp_path / name).exists() and len(seen) == 1:
                (tmp_path / name).rmdir()
    assert seen == ["."]


def test_a_walk_does_not_follow_a_directory_that_became_a_link(tmp_path: Path) -> None:
    (tmp_path / "top/inner").mkdir(parents=True)
    (tmp_path / "outside/secret").mkdir(parents=True)
    seen = []
    for directory in directories(tmp_path / "top"):
        seen.append(directory.path)
        if directory.path == ".":
            (tmp_path / "top/inner").rmdir()
            (tmp_path / "top/inner").symlink_to(tmp_path / "outside")
    assert seen == ["."]


@pytest.mark.parametrize(("name", "depth"), [("d", 3000), ("long" * 50, 1000)])
def test_trees_deeper_than_paths_may_be_long(tmp_path: Path, name: str, depth: int) -> None:
    top = tmp_path / "top"
    top.mkdir()
    nest(top, depth, name)
    assert disk_usage(top).inodes == depth + 2
    remove_tree(top)
    assert not top.exists()


def test_removal_of_everything_a_container_can_make(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    top = tmp_path / "top"
    (top / "dir/dir/dir").mkdir(parents=True)
    for number in range(5):
        (top / f"dir/{number}").mkdir()
        (top / f"dir/{number}/file").touch()
    (top / "link").symlink_to(outside)
    (top / "dir/link").symlink_to("../../outside")
    os.mkfifo(top / "fifo")
    os.mknod(top / "whiteout", 0o020000, os.makedev(0, 0))
    (top / os.fsdecode(b"\xff\xfe")).mkdir()
    (top / "forbidden").mkdir(mode=0)
    remove_tree(top)
    assert not top.exists()
    assert (outside / "kept").exists()


def test_removing_nothing_is_fine(tmp_path: Path) -> None:
    remove_tree(tmp_path / "missing")


def test_files_made_immutable_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "dir/inner").mkdir(parents=True)
    (top / "dir/inner/file").touch()
    (top / "dir/file").touch()
    for path in ("dir/inner/file", "dir/inner", "dir/file", "dir"):
        try:
            subprocess.run(["chattr", "+i", str(top / path)], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no immutable files here: {error.stderr!r}")
    remove_tree(top)
    assert not top.exists()


def test_what_is_mounted_in_a_tree_is_not_touched(short_tmp: Path) -> None:
    outside, top = short_tmp / "outside", short_tmp / "top"
    outside.mkdir()
    (outside / "kept").touch()
    (top / "dir/dir").mkdir(parents=True)
    mount_all([Mount("bind", str(outside), options=("rbind",))], top / "dir/dir")
    try:
        with pytest.raises(OSError, match="busy") as caught:
            remove_tree(top)
        assert caught.value.errno == errno.EBUSY
        assert disk_usage(top).inodes == 3
    finally:
        unmount_all(top)
    assert (outside / "kept").exists()
    remove_tree(top)


def test_few_descriptors_are_open_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nest(tmp_path, 300)
    most = 0
    for _ in directories(tmp_path):
        most = max(most, len(os.listdir("/proc/self/fd")))
    assert most <= len(os.listdir("/proc/self/fd")) + 3
    assert tree.disk_usage(tmp_path).inodes == 302
