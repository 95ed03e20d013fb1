# SPDX-License-Identifier: Apache-2.0
"""Copies of trees keep everything a container could tell apart."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from orlop_sdk.linux.copy import copy_tree
from orlop_sdk.testing.trees import chmod, chown, device, hardlink, manifest, mkdir, run, setxattr, symlink, write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    top = tmp_path / "source"
    top.mkdir()
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    run(
        [
            mkdir("dir/inner", 0o1777),
            write("dir/file", "text", 0o640),
            chown("dir/file", 5, 6),
            chmod("dir/file", 0o6755),
            setxattr("dir/file", "user.one", b"\0\1"),
            setxattr("dir/file", "security.capability", capability),
            setxattr("dir", "trusted.two", b"2"),
            hardlink("dir/inner/same", "dir/file"),
            symlink("link", "/does/not/exist"),
            chown("link", 7, 8),
            device("null", 1, 3),
            write("empty", ""),
            chown(".", 1, 2),
            chmod(".", 0o750),
        ],
        top,
    )
    os.mkfifo(top / "fifo", 0o600)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(top / "socket"))
    for directory, names, files in os.walk(top, topdown=False):
        for name in (*names, *files):
            os.utime(Path(directory, name), ns=(10**18 + 1, 10**18 + 2), follow_symlinks=False)
    os.utime(top, ns=(10**18 + 3, 10**18 + 4))
    return top


def copied(source: Path) -> Path:
    target = source.with_name("target")
    target.mkdir()
    copy_tree(source, target)
    return target


def test_copies_are_equal(source: Path) -> None:
    before = manifest(source)
    target = copied(source)
    assert manifest(target) == before == manifest(source)
    assert (target / "dir/file").stat().st_ino == (target / "dir/inner/same").stat().st_ino
    assert os.getxattr(target / "dir", "trusted.two") == b"2"
    assert os.getxattr(target / "dir/file", "security.capability") == os.getxattr(
        source / "dir/file", "security.capability"
    )
    for path in before:
        assert (target / path).lstat().st_mtime_ns == (source / path).lstat().st_mtime_ns, path


def test_holes_stay_holes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        file.seek(50 << 20)
        file.write(b"middle")
        file.truncate(100 << 20)
    (source / "hole").touch()
    os.truncate(source / "hole", 10 << 20)
    target = copied(source)
    assert (target / "sparse").stat().st_blocks <= 64
    assert (target / "hole").stat().st_blocks == 0
    assert (target / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert (target / "hole").stat().st_size == 10 << 20


def test_files_are_copied_where_the_kernel_cannot(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "not here")

    (source / "large").write_bytes(os.urandom(3 << 20))
    monkeypatch.setattr(os, "copy_file_range", refuse)
    assert manifest(copied(source)) == manifest(source)


def test_a_full_disk_is_an_error(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    with pytest.raises(OSError, match="no space"):
        copied(source)
