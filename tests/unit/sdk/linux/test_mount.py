# SPDX-License-Identifier: Apache-2.0
"""Mount options, and real mounts of what snapshotters return."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from orlop.errors import InvalidArgument
from orlop.values import Mount
from orlop_sdk.linux import mount as linux_mount
from orlop_sdk.linux import syscalls as sc
from orlop_sdk.linux.mount import (
    mount_all,
    mount_points,
    readonly,
    split_lower,
    temporary_mount,
    unmount_all,
)
from orlop_sdk.linux.mount_options import parse_options


def test_options_become_flags_propagation_and_data() -> None:
    parsed = parse_options(("nosuid", "nodev", "ro", "rslave", "size=4m", "mode=0700", ""))
    assert parsed.flags == sc.MS_NOSUID | sc.MS_NODEV | sc.MS_RDONLY
    assert parsed.propagation == sc.MS_SLAVE | sc.MS_REC
    assert parsed.data == ("size=4m", "mode=0700")


def test_a_later_option_wins() -> None:
    assert parse_options(("ro", "noexec", "rw", "exec")).flags == 0


def test_loop_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="loop"):
        parse_options(("loop",))


def test_lower_directories_split_at_unescaped_colons() -> None:
    assert split_lower(r"/a:/b\:c:/d\\e") == ["/a", "/b:c", r"/d\e"]


def test_readonly_overlay_looks_at_the_upper_directory_too() -> None:
    mounts = [Mount("overlay", "overlay", options=("workdir=/w", "upperdir=/u", "lowerdir=/l2:/l1"))]
    assert readonly(mounts) == [Mount("overlay", "overlay", options=("lowerdir=/u:/l2:/l1", "ro"))]
    assert readonly([Mount("bind", "/x", options=("rbind", "rw"))]) == [Mount("bind", "/x", options=("rbind", "ro"))]


def test_a_read_only_bind_is_read_only(short_tmp: Path) -> None:
    source = short_tmp / "source"
    source.mkdir()
    with temporary_mount([Mount("bind", str(source), options=("rbind", "ro"))], short_tmp) as tree:
        with pytest.raises(OSError, match="Read-only") as caught:
            (tree / "file").touch()
        assert caught.value.errno == errno.EROFS
        (source / "file").touch()
        assert (tree / "file").exists()


def test_mounts_nest_below_their_targets(short_tmp: Path) -> None:
    target = short_tmp / "target"
    target.mkdir()
    outside = short_tmp / "outside"
    outside.mkdir()
    mount_all([Mount("tmpfs", "tmpfs")], target)
    try:
        (target / "inner").mkdir()
        (target / "link").symlink_to("../../../../inner")
        mount_all([Mount("tmpfs", "tmpfs", target="link", options=("size=1m",))], target)
        assert mount_points(target) == [str(target), str(target / "inner")]
    finally:
        unmount_all(target)
    assert mount_points(target) == []


def test_a_failure_undoes_the_mounts_before_it(short_tmp: Path) -> None:
    with pytest.raises(OSError, match="no-such-source") as caught:
        mount_all([Mount("tmpfs", "tmpfs"), Mount("bind", "/no-such-source", options=("rbind",))], short_tmp)
    assert caught.value.errno == errno.ENOENT
    assert mount_points(short_tmp) == []


def test_unmounting_nothing_is_fine(short_tmp: Path) -> None:
    unmount_all(short_tmp)
    unmount_all(short_tmp / "missing")


def test_a_busy_mount_is_detached_in_the_end(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux_mount, "_BUSY_TRIES", 2)
    with temporary_mount([Mount("tmpfs", "tmpfs")], short_tmp) as tree:
        held = (tree / "held").open("w")
    held.close()
    assert mount_points(short_tmp) == []


@pytest.mark.parametrize("by_descriptors", [False, True])
def test_overlays_of_more_than_a_page_of_paths(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch, by_descriptors: bool
) -> None:
    if by_descriptors:
        monkeypatch.setattr(linux_mount, "_MOST_VALUE", 0)
    layers = []
    for number in range(60):
        layer = short_tmp / ("l" * 100) / str(number)
        layer.mkdir(parents=True)
        (layer / f"file{number}").write_text(str(number))
        layers.append(str(layer))
    for name in ("upper", "work"):
        (short_tmp / name).mkdir()
    options = (
        f"workdir={short_tmp}/work",
        f"upperdir={short_tmp}/upper",
        f"lowerdir={':'.join(reversed(layers))}",
        "nosuid",
    )
    with temporary_mount([Mount("overlay", "overlay", options=options)], short_tmp) as tree:
        assert len(list(tree.iterdir())) == 60
        (tree / "new").touch()
        assert os.statvfs(tree).f_flag & os.ST_NOSUID
    assert (short_tmp / "upper/new").exists()


def test_a_page_of_options_for_another_file_system_is_an_error(short_tmp: Path) -> None:
    with pytest.raises(OSError, match="more than a page") as caught:
        mount_all([Mount("tmpfs", "tmpfs", options=tuple(f"nr_inodes={n}" for n in range(1000)))], short_tmp)
    assert caught.value.errno == errno.E2BIG
