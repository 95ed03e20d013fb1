# SPDX-License-Identifier: Apache-2.0
"""What entries do to each other within one layer, in the two ways that whiteouts can be kept."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from tests.support.unpacking import Bench, Member, bench, bind, directory, file, link, raw, symlink, xattrs

from orlop.values import Mount
from orlop_images import media
from orlop_sdk.linux.mount import temporary_mount


@pytest.fixture
async def parts(short_tmp: Path) -> AsyncIterator[Bench]:
    async with bench(short_tmp / "b") as made:
        yield made


class Tree:
    """A tree with something in it, and a layer on top of that."""

    def __init__(self, parts: Bench, place: Path, kind: str) -> None:
        self.parts = parts
        self.kind = kind
        for name in ("lower", "upper", "work"):
            (place / name).mkdir()
        self.lower, self.upper = place / "lower", place / "upper"
        if kind == "remove":
            self.upper = self.lower
            self.mounts = bind(self.lower)
        else:
            options = (f"lowerdir={self.lower}", f"upperdir={self.upper}", f"workdir={place / 'work'}", "index=off")
            self.mounts = [Mount("overlay", "overlay", options=options)]
        self.shown = place

    async def apply(self, members: Sequence[Member]) -> None:
        await self.parts.differ.apply(await self.parts.add(raw(members), media.TAR), self.mounts)

    def names(self) -> set[str]:
        """As users see it."""
        with temporary_mount(self.mounts) as root:
            return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.fixture(params=["remove", "overlay"])
def tree(parts: Bench, short_tmp: Path, request: pytest.FixtureRequest) -> Tree:
    return Tree(parts, short_tmp, request.param)


def fill(tree: Tree) -> None:
    (tree.lower / "d/sub").mkdir(parents=True)
    (tree.lower / "d/old").write_text("1")
    (tree.lower / "d/sub/old").write_text("1")
    (tree.lower / "f").write_text("1")


async def test_an_opaque_mark_spares_its_own_layer_wherever_it_stands(tree: Tree) -> None:
    fill(tree)
    await tree.apply([file("d/before"), file("d/sub/before"), file("d/.wh..wh..opq"), file("d/after")])
    assert tree.names() == {"d", "d/before", "d/sub", "d/sub/before", "d/after", "f"}


async def test_a_whiteout_spares_its_own_layer(tree: Tree) -> None:
    fill(tree)
    await tree.apply([file("f", b"new"), file(".wh.f"), directory("d"), file("d/new"), file(".wh.d")])
    assert tree.names() == {"f", "d", "d/new"}


async def test_what_was_removed_first_comes_back_empty(tree: Tree) -> None:
    fill(tree)
    await tree.apply([file(".wh.d"), directory("d"), file("d/new"), file(".wh.f"), directory("f")])
    assert tree.names() == {"d", "d/new", "f"}


async def test_the_root_can_be_opaque(tree: Tree) -> None:
    fill(tree)
    await tree.apply([file("a/b"), file(".wh..wh..opq"), file("c")])
    if tree.kind == "remove":
        assert tree.names() == {"a", "a/b", "c"}
    else:
        assert os.getxattr(tree.upper, "trusted.overlay.opaque") == b"y"


async def test_later_entries_win(tree: Tree) -> None:
    fill(tree)
    await tree.apply(
        [
            file("x", b"file"),
            directory("x"),
            file("x/inside", b"1"),
            file("x", b"file again", mode=0o640),
            symlink("d", "nowhere"),
            file("f", b"first", uid=5),
            file("f", b"second"),
            symlink("l", "f"),
            directory("l"),
            file("l/inside"),
            link("f2", "f"),
            file("f2", b"own"),
        ]
    )
    assert tree.names() == {"x", "d", "f", "l", "l/inside", "f2"}
    assert (tree.upper / "x").read_bytes() == b"file again"
    assert (tree.upper / "f").read_bytes() == b"second"
    assert (tree.upper / "f").stat().st_uid == 0
    assert (tree.upper / "f2").read_bytes() == b"own"
    assert (tree.upper / "d").is_symlink()


async def test_directories_that_exist_get_new_attributes_and_keep_their_content(tree: Tree) -> None:
    fill(tree)
    (tree.lower / "d").chmod(0o700)
    await tree.apply([directory("d", mode=0o2751, uid=3, gid=4, mtime=9, **xattrs(user__a=b"1"))])
    status = (tree.upper / "d").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime) == (0o2751, 3, 4, 9)
    assert tree.names() == {"d", "d/sub", "d/old", "d/sub/old", "f"}


async def test_parents_that_lie_below_look_as_there(tree: Tree) -> None:
    fill(tree)
    (tree.lower / "d").chmod(0o1750)
    os.chown(tree.lower / "d", 7, 8)
    os.setxattr(tree.lower / "d", "user.note", b"kept")
    os.utime(tree.lower / "d", (5, 5))
    await tree.apply([file("d/sub/new")])
    status = (tree.upper / "d").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o1750, 7, 8)
    assert os.getxattr(tree.upper / "d", "user.note") == b"kept"
    assert status.st_mtime == 5


async def test_groups_and_acls_of_parents_do_not_rub_off(tree: Tree) -> None:
    tree.lower.chmod(0o2755)
    os.chown(tree.lower, 0, 9)
    if tree.upper != tree.lower:
        tree.upper.chmod(0o2755)
        os.chown(tree.upper, 0, 9)
    acl = bytes.fromhex("0200000001000500ffffffff04000000ffffffff20000000ffffffff")
    os.setxattr(tree.upper, "system.posix_acl_default", acl)
    members = [
        file("f", mode=0o666),
        directory("d", mode=0o777),
        symlink("l", "x"),
        file("made/by/the/way", mode=0o777),
    ]
    await tree.apply(members)
    for name, mode in (("f", 0o666), ("d", 0o777), ("made/by/the/way", 0o777), ("made/by", 0o755)):
        assert (name, stat.S_IMODE((tree.upper / name).stat().st_mode) & 0o777) == (name, mode)
    for name in ("f", "d", "l"):
        assert (tree.upper / name).lstat().st_gid == 0


async def test_flushing_works(parts: Bench, short_tmp: Path) -> None:
    (short_tmp / "t").mkdir()
    await parts.differ.apply(await parts.add(raw([file("a")]), media.TAR), bind(short_tmp / "t"), sync=True)
    assert (short_tmp / "t/a").exists()


async def test_many_removals(tree: Tree) -> None:
    for number in range(400):
        (tree.lower / f"d{number}/x").mkdir(parents=True)
    members = [file(f"new/{number}") for number in range(3000)]
    members += [file(f".wh.d{number}") for number in range(400)]
    await tree.apply(members)
    assert len(tree.names()) == 3001


async def test_times_of_parents_do_not_go_to_what_replaces_them(tree: Tree) -> None:
    fill(tree)
    os.utime(tree.lower / "d", (5, 5))
    await tree.apply([file("d/.wh.old"), file("d", b"a file now", mtime=1234)])
    assert (tree.upper / "d").stat().st_mtime == 1234
