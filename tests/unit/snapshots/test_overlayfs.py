# SPDX-License-Identifier: Apache-2.0
"""What is special about the overlay snapshotter: its mounts, its label, and whether it works at a place."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from orlop.errors import SkipPlugin
from orlop.values import Mount
from orlop_sdk.linux.mount import mount_one, mount_points, temporary_mount
from orlop_snapshots import overlayfs
from orlop_snapshots.overlayfs import UPPERDIR_LABEL, OverlaySnapshotter, check, default_options, overlay_mount


def test_mounts_of_one_layer_are_binds() -> None:
    own = Path("/s/2")
    assert overlay_mount(own, [], active=True) == Mount("bind", "/s/2/fs", options=("rw", "rbind"))
    assert overlay_mount(own, [], active=False) == Mount("bind", "/s/2/fs", options=("ro", "rbind"))
    assert overlay_mount(own, ["/s/1/fs"], active=False) == Mount("bind", "/s/1/fs", options=("ro", "rbind"))


def test_mounts_of_more_layers_are_overlays() -> None:
    lower = ["/s/2/fs", "/s/1/fs"]
    assert overlay_mount(Path("/s/3"), lower, active=True, options=["index=off"]) == Mount(
        "overlay",
        "overlay",
        options=("workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs", "index=off"),
    )
    assert overlay_mount(Path("/s/3"), lower, active=False).options == ("lowerdir=/s/2/fs:/s/1/fs",)


def test_default_options_fit_this_kernel() -> None:
    has_index = os.path.exists("/sys/module/overlay/parameters/index")
    assert default_options() == (["index=off"] if has_index else [])


def test_it_works_here(tmp_path: Path) -> None:
    check(tmp_path / "root", default_options())
    assert os.listdir(tmp_path / "root") == []


def test_an_unfit_file_system_is_told_with_a_remedy(short_tmp: Path) -> None:
    for name in ("lower", "upper", "work"):
        (short_tmp / name).mkdir()
    options = (f"workdir={short_tmp}/work", f"upperdir={short_tmp}/upper", f"lowerdir={short_tmp}/lower")
    with temporary_mount([Mount("overlay", "overlay", options=options)], short_tmp) as tree:
        # An overlay cannot be the upper layer of another one.
        with pytest.raises(SkipPlugin, match="skip plugin") as caught:
            check(tree / "root", ["index=off"])
        assert "root_path" in str(caught.value)
        assert os.listdir(tree / "root") == []


def test_a_file_system_without_types_of_entries_is_told(short_tmp: Path) -> None:
    image, place = short_tmp / "image", short_tmp / "place"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(20 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^filetype", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=False, capture_output=True).returncode:
        pytest.skip("no loop devices here")
    try:
        with pytest.raises(SkipPlugin, match="root_path"):
            check(place / "root", ["index=off"])
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_bad_option_is_told(tmp_path: Path) -> None:
    with pytest.raises(SkipPlugin, match="cannot be mounted"):
        check(tmp_path, ["no_such_option=1"])


async def test_the_upper_directory_can_be_told(tmp_path: Path) -> None:
    snapshotter = OverlaySnapshotter(tmp_path, upperdir_label=True)
    (mount,) = await snapshotter.prepare("key", labels={"a": "1"})
    expected = {"a": "1", UPPERDIR_LABEL: mount.source}
    assert (await snapshotter.stat("key")).labels == expected
    assert [info.labels async for info in snapshotter.walk([f'labels."{UPPERDIR_LABEL}"'])] == [expected]
    await snapshotter.close()


async def test_options_of_the_operator_reach_the_mount(short_tmp: Path) -> None:
    snapshotter = OverlaySnapshotter(short_tmp / "root", options=["index=off", "volatile"])
    await snapshotter.prepare("key")
    await snapshotter.commit("base", "key")
    mounts = await snapshotter.prepare("key", "base")
    assert mounts[0].options[-2:] == ("index=off", "volatile")
    with temporary_mount(mounts, short_tmp):
        mounted = await asyncio.to_thread(Path("/proc/self/mounts").read_text)
    assert "volatile" in mounted
    await snapshotter.close()


def test_user_namespaces_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlayfs, "_in_user_namespace", lambda: True)
    assert default_options()[-1] == "userxattr"


async def test_owners_are_mapped_as_the_labels_say(short_tmp: Path) -> None:
    labels = {
        "containerd.io/snapshot/uidmapping": "0:100000:65536",
        "containerd.io/snapshot/gidmapping": "0:200000:65536",
    }
    snapshotter = OverlaySnapshotter(short_tmp / "root", options=default_options())
    (base,) = await snapshotter.prepare("key")
    (Path(base.source) / "file").touch()
    os.chown(Path(base.source) / "file", 3, 4)
    await snapshotter.commit("base", "key")
    mounts = await snapshotter.prepare("mapped", "base", labels=labels)
    assert mounts[0].options[-2:] == ("uidmap=0:100000:65536", "gidmap=0:200000:65536")
    with temporary_mount(mounts, short_tmp) as tree:
        for path, owner in ((tree, (100000, 200000)), (tree / "file", (100003, 200004))):
            found = await asyncio.to_thread(path.stat)
            assert (found.st_uid, found.st_gid) == owner
    await snapshotter.close()


def test_what_a_killed_daemons_check_left_is_removed(tmp_path: Path) -> None:
    shown = tmp_path / "check-left/shown"
    shown.mkdir(parents=True)
    mount_one(Mount("tmpfs", "tmpfs"), shown)
    check(tmp_path, ())
    assert (mount_points(tmp_path), os.listdir(tmp_path)) == ([], [])
