# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from orlop.errors import InvalidArgument, Unimplemented
from orlop.values import Mount
from orlop_images.places import Place, place, topmost

UPPER = Mount("overlay", "overlay", options=("index=off", "workdir=/w", "upperdir=/u", "lowerdir=/l1:/l2"))
VIEW = Mount("overlay", "overlay", options=("lowerdir=/u:/l1:/l2",))
LOWER = Mount("overlay", "overlay", options=("lowerdir=/l1:/l2",))
BIND = Mount("bind", "/b", options=("rbind", "rw"))


def where(*mounts: Mount, user_namespace: bool = False) -> Place:
    return place(mounts, "/scratch", user_namespace=user_namespace)


def test_overlays_are_written_into_their_top() -> None:
    assert where(UPPER) == Place("/u", "overlay", ["/l1", "/l2"])


def test_an_overlay_without_lower_layers_keeps_its_marks() -> None:
    assert where(Mount("overlay", "overlay", options=("upperdir=/u",))) == Place("/u", "overlay")


def test_colons_in_layers_are_escaped() -> None:
    assert where(Mount("overlay", "o", options=("upperdir=/u", r"lowerdir=/a\:b:/c"))).lowers == ["/a:b", "/c"]


def test_user_namespaces_mount_overlays() -> None:
    assert where(UPPER, user_namespace=True).target == "/scratch"


def test_binds_are_written_into_their_source() -> None:
    assert where(BIND) == Place("/b", "remove")


@pytest.mark.parametrize(
    "mounts",
    [
        (Mount("bind", "/b", options=("rbind", "ro")),),
        (VIEW,),
        (BIND, UPPER),
        (Mount("bind", "/b", target="sub", options=("rbind",)),),
        (Mount("btrfs", "/dev/sda", options=("subvolid=5",)),),
    ],
)
def test_everything_else_is_mounted(mounts: tuple[Mount, ...]) -> None:
    made = where(*mounts)
    assert (made.target, made.whiteouts) == ("/scratch", "remove")
    assert [item[0] for item in made.mounts] == [mount.type for mount in mounts]


def test_nothing_is_no_place() -> None:
    with pytest.raises(InvalidArgument):
        where()


@pytest.mark.parametrize("mount", [Mount("format/overlay", "o"), Mount("erofs", "/x", options=("loop",))])
def test_mounts_that_need_a_manager_are_left_to_others(mount: Mount) -> None:
    with pytest.raises(Unimplemented):
        where(mount)


@pytest.mark.parametrize(
    ("lower", "upper", "top"),
    [
        ([LOWER], [UPPER], "/u"),
        ([LOWER], [VIEW], "/u"),
        (
            [Mount("bind", "/l", options=("ro", "rbind"))],
            [Mount("overlay", "o", options=("upperdir=/u", "lowerdir=/l"))],
            "/u",
        ),
        ([Mount("bind", "/l", options=("ro", "rbind"))], [Mount("overlay", "o", options=("lowerdir=/u:/l",))], "/u"),
        ([VIEW], [UPPER], ""),
        ([], [UPPER], ""),
        ([], [BIND], ""),
        ([BIND], [BIND], ""),
        ([LOWER], [LOWER], ""),
        ([LOWER, BIND], [UPPER], ""),
    ],
)
def test_the_top_layer_alone_is_read_where_it_is_the_difference(
    lower: list[Mount], upper: list[Mount], top: str
) -> None:
    assert topmost(lower, upper) == top
