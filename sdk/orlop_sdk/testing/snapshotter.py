# SPDX-License-Identifier: Apache-2.0
"""The conformance suite for snapshotters.

Subclass it in a test file, and give it a fixture that returns how to open yours::

    class TestDemo(SnapshotterSuite):
        @pytest.fixture
        def open_snapshotter(self, tmp_path: Path) -> OpenSnapshotter:
            async def open() -> Snapshotter:
                return DemoSnapshotter(tmp_path)

            return open

It needs root, because it mounts what the snapshotter returns. Class variables say what yours cannot do.
"""

from __future__ import annotations

import asyncio
import errno
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar, TypeAlias

import pytest
import pytest_asyncio

from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from orlop.interfaces.snapshotter import Cleaner, Snapshotter
from orlop.values import EMPTY, Labels, Mount, SnapshotInfo, SnapshotKind
from orlop_sdk.linux.mount import temporary_mount
from orlop_sdk.testing.trees import (
    Entry,
    Step,
    append,
    chmod,
    chown,
    device,
    hardlink,
    manifest,
    mkdir,
    remove,
    rename,
    run,
    setxattr,
    symlink,
    write,
)

OpenSnapshotter: TypeAlias = Callable[[], Awaitable[Snapshotter]]

BASE: Sequence[Step] = (
    mkdir("etc"),
    mkdir("var/lib", 0o750),
    write("etc/hosts", "127.0.0.1 localhost\n"),
    write("etc/shadow", "root:*\n", 0o600),
    write("etc/tool", "#!/bin/sh\n", 0o4755),
    chown("etc/shadow", 0, 42),
    symlink("etc/link", "hosts"),
    write("etc/names", "one file\n"),
    hardlink("etc/same", "etc/names"),
    device("null", 1, 3),
)
"""A layer with some of everything."""


class SnapshotterSuite:
    """What every snapshotter does. Each test has a snapshotter of its own, empty at the start."""

    reopens: ClassVar[bool] = True
    """Opening again, after `close`, gives the same snapshots."""
    rebases: ClassVar[bool] = False
    """It has the capability ``rebase``."""
    renames_directories: ClassVar[bool] = True
    """Directories of lower layers can be renamed; on overlayfs that fails with EXDEV, and programs copy instead."""

    @pytest.fixture
    def open_snapshotter(self) -> OpenSnapshotter:
        """How to open the snapshotter under test, always in the same place within one test."""
        pytest.fail(f"{type(self).__name__} lacks the fixture open_snapshotter; see {__name__}")

    @pytest_asyncio.fixture
    async def snapshotter(self, open_snapshotter: OpenSnapshotter) -> AsyncIterator[Snapshotter]:
        """The snapshotter under test."""
        opened = await open_snapshotter()
        yield opened
        await opened.close()

    # ---- trees --------------------------------------------------------------------------------------------------

    async def test_layers_build_on_each_other(self, snapshotter: Snapshotter) -> None:
        await check_layers(
            snapshotter,
            BASE,
            [write("etc/hosts", "10.0.0.1 box\n"), mkdir("srv"), write("srv/index", "hello"), remove("etc/link")],
        )
        with pytest.raises(NotFound):
            await snapshotter.stat("active-0")
        assert [info.name async for info in snapshotter.walk()].count("layer-1") == 1

    async def test_nothing_in_a_layer_is_lost(self, snapshotter: Snapshotter) -> None:
        await check_layers(snapshotter, [*BASE, setxattr("etc/hosts", "user.orlop", b"\0value")], [append("null2", "")])

    async def test_an_empty_snapshot_has_an_ordinary_root(self, snapshotter: Snapshotter) -> None:
        assert await look(await snapshotter.prepare("empty")) == {".": Entry("d", "rwxr-xr-x", (0, 0))}
        assert await look(await snapshotter.view("empty-view")) == {".": Entry("d", "rwxr-xr-x", (0, 0))}

    async def test_the_looks_of_the_root_are_inherited(self, snapshotter: Snapshotter) -> None:
        await check_layers(snapshotter, [chmod(".", 0o711), chown(".", 3, 4)], [write("file", "")])

    async def test_a_file_rewritten_at_once_with_the_same_size(self, snapshotter: Snapshotter) -> None:
        await check_layers(snapshotter, *([write("file", f"{n}", mtime=1_000_000)] for n in range(5)))

    async def test_a_directory_made_anew_hides_the_old_one(self, snapshotter: Snapshotter) -> None:
        await check_layers(
            snapshotter,
            [mkdir("dir/inner"), write("dir/inner/old", "old")],
            [remove("dir"), mkdir("dir"), write("dir/new", "new")],
            [write("dir/newer", "newer")],
        )

    async def test_owners_can_be_changed(self, snapshotter: Snapshotter) -> None:
        await check_layers(
            snapshotter,
            BASE,
            [chown("etc", 1, 1), chown("etc/hosts", 2, 3), chown("etc/link", 4, 5)],
            [chown("etc", 6, 6), write("etc/more", "")],
        )

    async def test_modes_of_directories_can_be_changed(self, snapshotter: Snapshotter) -> None:
        await check_layers(
            snapshotter,
            BASE,
            [chmod("var", 0o700), chmod("var/lib", 0o1777)],
            [chmod("var", 0o755), chmod("etc", 0o500)],
        )

    async def test_deleted_names_stay_deleted(self, snapshotter: Snapshotter) -> None:
        await check_layers(
            snapshotter,
            [*BASE, mkdir("gone/deep"), write("gone/deep/file", "x")],
            [remove("gone"), remove("etc/hosts"), remove("null")],
            [write("etc/hosts", "back again"), write("etc/new", "")],
        )

    async def test_a_lower_file_can_be_renamed(self, snapshotter: Snapshotter) -> None:
        await check_layers(
            snapshotter,
            [mkdir("dir"), write("dir/file", "text", 0o640), write("other", "other")],
            [rename("dir/file", "moved")],
            [rename("moved", "dir/file"), rename("other", "dir/other")],
        )

    async def test_a_lower_directory_can_be_renamed(self, snapshotter: Snapshotter) -> None:
        if not self.renames_directories:
            pytest.skip("directories of lower layers cannot be renamed on this file system")
        await check_layers(
            snapshotter,
            [mkdir("dir/inner"), write("dir/inner/file", "text")],
            [rename("dir", "moved"), append("moved/inner/file", " more")],
            [rename("moved/inner", "inner")],
        )

    async def test_128_layers(self, snapshotter: Snapshotter) -> None:
        # Each adds a file and takes one away, so that none can be missing unnoticed; every eighth file stays. More
        # than that would be copied over and over by snapshotters that copy.
        layers = [
            [write(f"file-{number}", str(number)), write("last", str(number)), append("log", f"{number}\n")]
            + ([remove(f"file-{number - 4}")] if number >= 4 and number % 8 != 4 else [])
            for number in range(128)
        ]
        await check_layers(snapshotter, *layers, look_between=False)

    async def test_a_view_is_read_only(self, snapshotter: Snapshotter) -> None:
        for number, parent in enumerate(await add_layers(snapshotter, BASE, [write("more", "")])):
            mounts = await snapshotter.view(f"view-{number}", parent)
            with pytest.raises(OSError, match="Read-only") as caught:
                await change(mounts, [write("etc/hosts", "changed")])
            assert caught.value.errno == errno.EROFS
            assert await snapshotter.mounts(f"view-{number}") == mounts

    async def test_siblings_do_not_see_each_other(self, snapshotter: Snapshotter) -> None:
        (parent,) = await add_layers(snapshotter, BASE)
        one, two = [await snapshotter.prepare(key, parent) for key in ("one", "two")]
        with temporary_mount(one) as first, temporary_mount(two) as second:
            (first / "etc/hosts").write_text("one")
            assert (second / "etc/hosts").read_text() == "127.0.0.1 localhost\n"
        assert (await look(await snapshotter.mounts("one")))["etc/hosts"].content == b"one"

    # ---- records ------------------------------------------------------------------------------------------------

    async def test_an_active_snapshot_tells_what_it_is(self, snapshotter: Snapshotter) -> None:
        (parent,) = await add_layers(snapshotter, BASE)
        await snapshotter.prepare("key", parent, labels={"a": "1"})
        check_info(await snapshotter.stat("key"), SnapshotKind.ACTIVE, "key", parent, {"a": "1"})
        await snapshotter.view("view", parent, labels={"b": "2"})
        check_info(await snapshotter.stat("view"), SnapshotKind.VIEW, "view", parent, {"b": "2"})

    async def test_a_committed_snapshot_tells_what_it_is(self, snapshotter: Snapshotter) -> None:
        (parent,) = await add_layers(snapshotter, BASE)
        await snapshotter.prepare("key", parent, labels={"dropped": "yes"})
        await snapshotter.commit("name", "key", labels={"kept": "yes"})
        check_info(await snapshotter.stat("name"), SnapshotKind.COMMITTED, "name", parent, {"kept": "yes"})
        with pytest.raises(NotFound):
            await snapshotter.stat("key")

    async def test_parents_form_a_chain(self, snapshotter: Snapshotter) -> None:
        names = await add_layers(snapshotter, [write("a", "")], [write("b", "")], [write("c", "")])
        parents = [(await snapshotter.stat(name)).parent for name in names]
        assert parents == ["", *names[:-1]]
        for name in names:
            with pytest.raises(FailedPrecondition):
                await snapshotter.commit(f"{name}-again", name)

    async def test_wrong_keys_and_parents_are_refused(self, snapshotter: Snapshotter) -> None:
        (parent,) = await add_layers(snapshotter, BASE)
        await snapshotter.prepare("active", parent)
        for make in (snapshotter.prepare, snapshotter.view):
            for used in ("active", parent):
                with pytest.raises(AlreadyExists):
                    await make(used, parent)
            with pytest.raises(NotFound):
                await make("new", "missing")
            with pytest.raises(InvalidArgument):
                await make("new", "active")
        with pytest.raises(NotFound):
            await snapshotter.stat("new")

    async def test_what_is_missing_is_not_found(self, snapshotter: Snapshotter) -> None:
        for call in (snapshotter.stat, snapshotter.usage, snapshotter.mounts, snapshotter.remove):
            with pytest.raises(NotFound):
                await call("missing")
        with pytest.raises(NotFound):
            await snapshotter.commit("name", "missing")
        with pytest.raises(NotFound):
            await snapshotter.update(SnapshotInfo(SnapshotKind.ACTIVE, "missing"))

    async def test_only_active_snapshots_are_committed_and_mounted(self, snapshotter: Snapshotter) -> None:
        (parent,) = await add_layers(snapshotter, BASE)
        await snapshotter.view("view", parent)
        with pytest.raises(FailedPrecondition):
            await snapshotter.commit("name", "view")
        with pytest.raises(FailedPrecondition):
            await snapshotter.mounts(parent)
        await snapshotter.prepare("key", parent)
        with pytest.raises(AlreadyExists):
            await snapshotter.commit(parent, "key")
        assert (await snapshotter.stat("key")).kind == SnapshotKind.ACTIVE

    async def test_labels_are_replaced_added_and_removed(self, snapshotter: Snapshotter) -> None:
        (name,) = await add_layers(snapshotter, BASE)
        before = await snapshotter.stat(name)
        steps: list[tuple[dict[str, str], list[str], dict[str, str]]] = [
            ({"a": "1", "b.c": "2"}, ["labels"], {"a": "1", "b.c": "2"}),
            ({"a": "3", "d": "4"}, ["labels.a", "labels.d"], {"a": "3", "b.c": "2", "d": "4"}),
            ({"b.c": "5", "d": ""}, ["labels.b.c", "labels.d"], {"a": "3", "b.c": "5"}),
            ({"only": "6"}, [], {"only": "6"}),
            ({}, ["labels"], {}),
        ]
        for labels, paths, expected in steps:
            wrong = SnapshotInfo(SnapshotKind.ACTIVE, name, "other", labels)
            after = await snapshotter.update(wrong, paths)
            check_info(after, SnapshotKind.COMMITTED, name, "", expected)
            assert after == await snapshotter.stat(name)
            assert after.created_at == before.created_at
            assert after.updated_at > before.updated_at
            before = after
        for path in ("parent", "kind", "name"):
            with pytest.raises(InvalidArgument):
                await snapshotter.update(SnapshotInfo(SnapshotKind.COMMITTED, name, "other"), [path])

    async def test_what_has_children_cannot_be_removed(self, snapshotter: Snapshotter) -> None:
        names = await add_layers(snapshotter, [write("a", "")], [write("b", "")], [write("c", "")])
        await snapshotter.prepare("key", names[-1])
        await snapshotter.view("view", names[0])
        for name in names:
            with pytest.raises(FailedPrecondition):
                await snapshotter.remove(name)
        for name in ("view", "key", *reversed(names)):
            await snapshotter.remove(name)
            with pytest.raises(NotFound):
                await snapshotter.stat(name)
        assert [info async for info in snapshotter.walk()] == []

    async def test_keys_can_be_used_again(self, snapshotter: Snapshotter) -> None:
        for text in ("first", "second"):
            await change(await snapshotter.prepare("key"), [write(text, text)])
            assert set(await look(await snapshotter.mounts("key"))) == {".", text}
            await snapshotter.remove("key")
        await snapshotter.prepare("key")
        await snapshotter.commit("name", "key")
        await snapshotter.prepare("key", "name")

    async def test_walk_finds_what_filters_ask_for(self, snapshotter: Snapshotter) -> None:
        (parent,) = await add_layers(snapshotter, BASE)
        await snapshotter.prepare("active", parent, labels={"color": "red", "a.b/c": "x"})
        await snapshotter.view("view", parent, labels={"color": "blue"})
        await snapshotter.prepare("root")
        everything = {parent, "active", "view", "root"}
        for filters, expected in (
            ([], everything),
            (["kind==active"], {"active", "root"}),
            (["kind==view"], {"view"}),
            (["kind==committed"], {parent}),
            ([f"name=={parent}"], {parent}),
            ([f"parent=={parent}"], {"active", "view"}),
            (["labels.color==red"], {"active"}),
            (["labels.color"], {"active", "view"}),
            (["labels.color!=red"], everything - {"active"}),
            (['labels."a.b/c"==x'], {"active"}),
            (["kind==active,labels.color==red"], {"active"}),
            (["kind==active,labels.color==blue"], set()),
            (["kind==view", "name==root"], {"view", "root"}),
            (["name~=^(active|view)$"], {"active", "view"}),
        ):
            assert {info.name async for info in snapshotter.walk(filters)} == expected, filters

    async def test_malformed_filters_are_refused(self, snapshotter: Snapshotter) -> None:
        for malformed in ("kind==", "name~=(", "labels..a"):
            with pytest.raises(InvalidArgument):
                assert [info async for info in snapshotter.walk([malformed])]

    async def test_other_calls_can_be_made_while_walking(self, snapshotter: Snapshotter) -> None:
        names = await add_layers(snapshotter, [write("a", "")], [write("b", "")])
        seen = []
        async for info in snapshotter.walk():
            assert await snapshotter.stat(info.name) == info
            await snapshotter.prepare(f"on-{info.name}", info.name)
            seen.append(info.name)
        assert sorted(seen) == sorted(names)

    async def test_usage_counts_the_layer(self, snapshotter: Snapshotter) -> None:
        mounts = await snapshotter.prepare("key")
        empty = await snapshotter.usage("key")
        await change(mounts, [write("a", "x" * 100_000), write("b", ""), hardlink("c", "a")])
        filled = await snapshotter.usage("key")
        # Block sizes and delayed allocation are the file system's affair; names of one file count once.
        assert filled.size >= empty.size
        assert filled.inodes == empty.inodes + 2
        await snapshotter.commit("name", "key")
        committed = await snapshotter.usage("name")
        assert committed.inodes == filled.inodes
        assert committed.size >= 100_000

    async def test_a_parent_can_be_given_at_commit(self, snapshotter: Snapshotter) -> None:
        if not self.rebases:
            pytest.skip("the snapshotter lacks the capability rebase")
        (parent,) = await add_layers(snapshotter, BASE)
        await change(await snapshotter.prepare("key"), [write("more", "more")])
        for wrong, error in (("missing", NotFound), ("key", InvalidArgument)):
            with pytest.raises(error):
                await snapshotter.commit("name", "key", parent=wrong)
        await snapshotter.commit("name", "key", parent=parent)
        check_info(await snapshotter.stat("name"), SnapshotKind.COMMITTED, "name", parent, {})
        assert {"more", "etc/hosts"} <= set(await look(await snapshotter.view("view", "name")))
        await snapshotter.prepare("other", "name")
        with pytest.raises(FailedPrecondition):
            await snapshotter.commit("again", "other", parent=parent)

    # ---- life ---------------------------------------------------------------------------------------------------

    async def test_closing_twice_is_fine(self, snapshotter: Snapshotter) -> None:
        await snapshotter.close()
        await snapshotter.close()

    async def test_everything_is_there_after_opening_again(self, open_snapshotter: OpenSnapshotter) -> None:
        if not self.reopens:
            pytest.skip("the snapshotter under test cannot be opened again")
        first = await open_snapshotter()
        (parent,) = await add_layers(first, BASE)
        await change(await first.prepare("key", parent, labels={"a": "1"}), [write("more", "")])
        await first.prepare("removed", parent)
        await first.remove("removed")
        before = [info async for info in first.walk()], await first.mounts("key"), await first.usage(parent)
        tree = await look(await first.mounts("key"))
        await first.close()
        again = await open_snapshotter()
        try:
            assert before == (
                [info async for info in again.walk()],
                await again.mounts("key"),
                await again.usage(parent),
            )
            assert await look(await again.mounts("key")) == tree
            await again.prepare("next", parent)
        finally:
            await again.close()

    async def test_cleanup_takes_only_what_was_removed(self, snapshotter: Snapshotter) -> None:
        if not isinstance(snapshotter, Cleaner):
            pytest.skip("the snapshotter has nothing to clean up")
        (parent,) = await add_layers(snapshotter, BASE)
        await snapshotter.prepare("removed", parent)
        await snapshotter.remove("removed")
        before = await look(await snapshotter.prepare("key", parent))
        try:
            await asyncio.gather(*(snapshotter.cleanup() for _ in range(3)))
        except Unimplemented:
            pytest.skip("the snapshotter on the other side has nothing to clean up")
        assert await look(await snapshotter.mounts("key")) == before

    async def test_calls_may_overlap(self, snapshotter: Snapshotter) -> None:
        (parent,) = await add_layers(snapshotter, BASE)

        async def life(number: int) -> None:
            await change(await snapshotter.prepare(f"key-{number}", parent), [write(f"file-{number}", "")])
            await snapshotter.commit(f"name-{number}", f"key-{number}")
            tree = await look(await snapshotter.view(f"view-{number}", f"name-{number}"))
            assert [name for name in tree if name.startswith("file")] == [f"file-{number}"]
            await snapshotter.remove(f"view-{number}")
            if number % 2:
                await snapshotter.remove(f"name-{number}")

        await asyncio.gather(*(life(number) for number in range(12)))
        assert {info.name async for info in snapshotter.walk()} == {parent, *(f"name-{n}" for n in range(0, 12, 2))}

    async def test_of_equal_calls_at_once_one_wins(self, snapshotter: Snapshotter) -> None:
        results = await asyncio.gather(*(snapshotter.prepare("key") for _ in range(8)), return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == [*["AlreadyExists"] * 7, "list"]
        await change(await snapshotter.mounts("key"), [write("file", "")])

    async def test_a_cancelled_call_leaves_no_half_snapshot(self, snapshotter: Snapshotter) -> None:
        (parent,) = await add_layers(snapshotter, BASE)
        for number in range(8):
            task = asyncio.create_task(snapshotter.prepare(f"key-{number}", parent))
            for _ in range(number):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        # Whatever came of them, they are whole: those that exist can be mounted, and all go away.
        for number in range(8):
            try:
                tree = await look(await snapshotter.mounts(f"key-{number}"))
            except NotFound:
                continue
            assert "etc/hosts" in tree


async def check_layers(snapshotter: Snapshotter, *layers: Iterable[Step], look_between: bool = True) -> None:
    """Build layers on one another, and compare each with a plain directory that the same steps were done to."""
    with tempfile.TemporaryDirectory(prefix="orlop-flat-") as name:
        flat = Path(name)
        await asyncio.to_thread(flat.chmod, 0o755)
        parent = ""
        for number, layer in enumerate(layers):
            steps = list(layer)
            mounts = await snapshotter.prepare(f"active-{number}", parent)
            await change(mounts, steps)
            await asyncio.to_thread(run, steps, flat)
            if look_between:
                assert await look(mounts) == manifest(flat), f"layer {number}, while active"
            parent = f"layer-{number}"
            await snapshotter.commit(parent, f"active-{number}")
            if look_between:
                assert await look(await snapshotter.view(f"view-{number}", parent)) == manifest(flat), f"layer {number}"
        assert await look(await snapshotter.prepare("on-top", parent)) == manifest(flat)


async def add_layers(snapshotter: Snapshotter, *layers: Iterable[Step]) -> list[str]:
    """Commit layers on one another and return their names."""
    names = [""]
    for number, layer in enumerate(layers):
        await change(await snapshotter.prepare(f"adding-{number}", names[-1]), layer)
        names.append(f"layer-{number}")
        await snapshotter.commit(names[-1], f"adding-{number}")
    return names[1:]


async def change(mounts: Sequence[Mount], steps: Iterable[Step]) -> None:
    """Mount a snapshot, take steps in it, and unmount it."""

    def blocking() -> None:
        with temporary_mount(mounts) as tree:
            run(steps, tree)

    await asyncio.to_thread(blocking)


async def look(mounts: Sequence[Mount]) -> dict[str, Entry]:
    """What a snapshot holds."""

    def blocking() -> dict[str, Entry]:
        with temporary_mount(mounts) as tree:
            return manifest(tree)

    return await asyncio.to_thread(blocking)


def check_info(info: SnapshotInfo, kind: SnapshotKind, name: str, parent: str = "", labels: Labels = EMPTY) -> None:
    """Compare all of an info but its times, which only have to make sense."""
    assert (info.kind, info.name, info.parent, dict(info.labels)) == (kind, name, parent, dict(labels))
    assert info.created_at.timestamp() > 0
    assert info.updated_at >= info.created_at
