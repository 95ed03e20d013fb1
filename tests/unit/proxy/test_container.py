# SPDX-License-Identifier: Apache-2.0
"""What a plugin's container is made of, without making one; and, as root, directories whose mounts are shared."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from orlop.errors import SkipPlugin
from orlop.values import Mount
from orlop_proxy.container import FILES, Box, find_runtime, outermost, python_box, share, unshare
from orlop_sdk.linux.mount import mount_one, mount_points, unmount_all

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def mounts(spec: dict[str, Any]) -> dict[str, list[str]]:
    """Options of the bind mounts by where they are."""
    return {each["destination"]: each["options"] for each in spec["mounts"] if each["type"] == "bind"}


def test_a_box_has_what_it_is_given_and_no_more(tmp_path: Path) -> None:
    box = Box(
        "/usr/sbin/runc",
        tmp_path / "bundle",
        ["/server", "--flag"],
        {"A": "b"},
        rootfs=tmp_path / "root",
        writable=[tmp_path / "w", tmp_path / "w/inner"],
        readonly=[tmp_path / "r"],
        devices=[Path("/dev/null")],
        capabilities=FILES,
        memory=1 << 20,
    )
    spec = box.spec()
    assert spec["process"]["args"] == ["/server", "--flag"]
    assert spec["process"]["env"] == ["A=b"]
    assert {tuple(held) for held in spec["process"]["capabilities"].values()} == {FILES}
    assert spec["root"] == {"path": str(tmp_path / "root"), "readonly": True}
    assert mounts(spec) == {
        str(tmp_path / "r"): ["rbind", "ro", "rslave"],
        str(tmp_path / "w"): ["rbind", "rw", "rshared"],
        "/dev/null": ["rbind", "rw", "rslave"],
    }
    resources = spec["linux"]["resources"]
    assert resources["memory"] == {"limit": 1 << 20}
    assert resources["devices"][-1] == {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
    assert {"type": "network"} in spec["linux"]["namespaces"]
    assert spec["linux"]["cgroupsPath"] == f"/{box.id}"


def test_ids_differ_by_directory(tmp_path: Path) -> None:
    one, same, other = (Box("runc", tmp_path / name, ["x"]).id for name in ("a", "a", "b"))
    assert one == same != other


def test_a_python_box_can_import_what_this_process_can(tmp_path: Path) -> None:
    box = python_box("runc", tmp_path / "c", FILES, network=True)
    seen = [Path(path) for path in mounts(box.spec())]
    for name in (sys.prefix, sys.base_prefix, *filter(os.path.exists, filter(None, sys.path))):
        assert any(Path(name).is_relative_to(path) for path in seen), name
    assert {"type": "network"} not in box.spec()["linux"]["namespaces"]
    box.write()
    assert json.loads((tmp_path / "c/config.json").read_text()) == box.spec()
    for name in ("bin", "lib64"):
        if os.path.islink(f"/{name}"):
            assert os.readlink(tmp_path / "c/rootfs" / name) == os.readlink(f"/{name}")
    box.write()  # again, as each start does


def test_outermost() -> None:
    paths = ["/b/c", "/a", "/b", "/a-b", "/a/x/y", "/b"]
    assert outermost(map(Path, paths)) == [Path("/a"), Path("/a-b"), Path("/b")]


def test_a_runtime_that_is_not_there() -> None:
    with pytest.raises(SkipPlugin, match='no OCI runtime "nosuch" is installed'):
        find_runtime("nosuch")


@needs_root
def test_shared_directories_are_mount_points_once(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    share(path)
    try:
        share(path)
        assert mount_points(path) == [str(path)]
        lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        (fields,) = [fields for fields in lines if fields[4] == str(path)]
        assert any(field.startswith("shared:") for field in fields)
        # While something is mounted there, it stays.
        (path / "inner").mkdir()
        mount_one(Mount("tmpfs", "tmpfs"), path / "inner")
        unshare(path)
        assert mount_points(path) == [str(path), str(path / "inner")]
        unmount_all(path / "inner")
        unshare(path)
        assert mount_points(path) == []
        unshare(path)
    finally:
        for target in reversed(mount_points(path)):
            unmount_all(target)
