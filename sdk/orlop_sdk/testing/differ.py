# SPDX-License-Identifier: Apache-2.0
"""The conformance suite for differs of tar layers.

Subclass it in a test file, and give it fixtures for yours and for the content store that it works with::

    class TestDemo(DifferSuite):
        @pytest.fixture
        def content(self, tmp_path: Path) -> ContentStore:
            return DemoStore(tmp_path)

        @pytest.fixture
        def differ(self, content: ContentStore) -> Differ:
            return DemoDiffer(content)

It needs root: layers have owners and devices. Trees are given to the differ as bind mounts of plain directories.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import os
import random
import tarfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Final

import pytest

from orlop.errors import NotFound, OrlopError, Unimplemented
from orlop.interfaces.content import ContentStore
from orlop.interfaces.differ import Differ
from orlop.interfaces.stream import TAR
from orlop.values import Descriptor, Mount
from orlop_sdk.linux.mount import mount_points
from orlop_sdk.testing.trees import (
    Step,
    append,
    chmod,
    chown,
    device,
    hardlink,
    manifest,
    mkdir,
    remove,
    run,
    symlink,
    write,
)

GZIP: Final = f"{TAR}+gzip"
UNCOMPRESSED: Final = "containerd.io/uncompressed"

BEFORE: Sequence[Step] = (
    mkdir("etc"),
    mkdir("var/lib", 0o750),
    write("etc/hosts", "127.0.0.1 localhost\n"),
    write("etc/motd", "hello\n"),
    write("etc/tool", "#!/bin/sh\n", 0o4755),
    symlink("etc/link", "hosts"),
    write("etc/names", "one file\n"),
    hardlink("etc/same", "etc/names"),
    mkdir("gone/deep"),
    write("gone/deep/file", "x"),
    mkdir("becomes-file"),
    write("becomes-directory", "y"),
    mkdir("kept"),
    write("kept/file", "same\n"),
)
CHANGES: Sequence[Step] = (
    append("etc/hosts", "::1 localhost\n"),
    remove("etc/motd"),
    chmod("etc/tool", 0o711),
    chown("var/lib", 12, 34),
    remove("gone"),
    remove("becomes-file"),
    write("becomes-file", "a file now"),
    remove("becomes-directory"),
    mkdir("becomes-directory/inside"),
    remove("etc/link"),
    symlink("etc/link", "/etc/names"),
    write("etc/ünïcode", "1"),
    write("etc/" + "n" * 120, "long name"),
    device("null", 1, 3),
    write("first", "two names"),
    hardlink("second", "first"),
)


def bind(path: Path, *, readonly: bool = False) -> list[Mount]:
    """The mount of a directory."""
    return [Mount("bind", str(path), options=("rbind", "ro" if readonly else "rw"))]


def layer(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar of these entries."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, data: bytes = b"", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    """A regular file."""
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = mode, 1_000_000
    return info, data


def digest(data: bytes) -> str:
    """As descriptors spell it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def linked(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    """A symbolic link, or a hard one."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


TRICKS: Mapping[str, Callable[[str], Sequence[tuple[tarfile.TarInfo, bytes]]]] = {
    "absolute name": lambda out: [member(f"{out}/evil")],
    "absolute name of a victim": lambda out: [member(f"{out}/victim", b"changed")],
    "dots": lambda _out: [member("../outside/victim", b"changed"), member("a/../../evil")],
    "through a link": lambda out: [linked("trap", out), member("trap/victim", b"changed")],
    "through two links": lambda out: [linked("a", "b"), linked("b", out), member("a/victim", b"changed")],
    "through a relative link": lambda _out: [linked("trap", "../outside"), member("trap/victim", b"changed")],
    "onto a link": lambda out: [linked("trap", f"{out}/victim"), member("trap", b"changed")],
    "hard link to a victim": lambda out: [linked("own", f"{out}/victim", tarfile.LNKTYPE), member("own", b"changed")],
    "hard link with dots": lambda _out: [
        linked("own", "../outside/victim", tarfile.LNKTYPE),
        member("own", b"changed"),
    ],
    "hard link through a link": lambda out: [
        linked("trap", out),
        linked("own", "trap/victim", tarfile.LNKTYPE),
        member("own", b"changed"),
    ],
    "whiteout with dots": lambda _out: [member("../outside/.wh.victim")],
    "whiteout through a link": lambda out: [linked("trap", out), member("trap/.wh.victim")],
    "opaque through a link": lambda out: [linked("trap", f"{out}/kept"), member("trap/.wh..wh..opq")],
    "whiteout of dots": lambda _out: [member(".wh..."), member(".wh..")],
    "mode of a link": lambda out: [linked("trap", f"{out}/victim"), member("trap/", mode=0o777)],
}
"""Layers, by name, that try to reach a directory outside of the tree that they are applied to."""


class DifferSuite:
    """What every differ of tar layers does."""

    compares: ClassVar[bool] = True
    """It makes layers too."""

    @pytest.fixture
    def content(self) -> ContentStore:
        """The store that the differ reads layers from and writes them to."""
        raise pytest.UsageError("a subclass of DifferSuite needs a fixture named content")

    @pytest.fixture
    def differ(self) -> Differ:
        """The differ under test."""
        raise pytest.UsageError("a subclass of DifferSuite needs a fixture named differ")

    # ---- apply ------------------------------------------------------------------------------------------------------

    async def test_applies_plain_and_compressed_layers(
        self, differ: Differ, content: ContentStore, tmp_path: Path
    ) -> None:
        plain = layer(member("a/b", b"content", 0o640))
        for media_type, blob in ((TAR, plain), (GZIP, gzip.compress(plain))):
            tree = make(tmp_path / media_type[-4:])
            applied = await differ.apply(await add(content, blob, media_type), bind(tree))
            assert applied == Descriptor(TAR, digest(plain), len(plain))
            assert (tree / "a/b").read_bytes() == b"content"
            assert (tree / "a/b").stat().st_mode & 0o7777 == 0o640
            assert (tree / "a/b").stat().st_mtime == 1_000_000

    async def test_whiteouts_remove(self, differ: Differ, content: ContentStore, tmp_path: Path) -> None:
        tree = make(tmp_path / "tree")
        run([mkdir("d/sub"), write("d/a", "1"), write("d/sub/b", "2"), write("c", "3"), write("keep", "4")], tree)
        blob = layer(member(".wh.c"), member("d/.wh..wh..opq"), member("d/new", b"5"))
        await differ.apply(await add(content, blob, TAR), bind(tree))
        assert set(manifest(tree)) == {".", "d", "d/new", "keep"}

    async def test_a_layer_cannot_leave_its_tree(self, differ: Differ, content: ContentStore, tmp_path: Path) -> None:
        outside = make(tmp_path / "outside")
        tree = make(tmp_path / "tree")
        trap = tarfile.TarInfo("trap")
        trap.type, trap.linkname = tarfile.SYMTYPE, str(outside)
        blob = layer((trap, b""), member("trap/evil"), member("../outside/evil"))
        await differ.apply(await add(content, blob, TAR), bind(tree))
        assert list(outside.iterdir()) == []

    @pytest.mark.parametrize("trick", sorted(TRICKS))
    async def test_hostile_layers_stay_inside(
        self, differ: Differ, content: ContentStore, tmp_path: Path, trick: str
    ) -> None:
        outside, tree = make(tmp_path / "outside"), make(tmp_path / "tree")
        run([write("victim", "untouched", 0o600), mkdir("kept"), write("kept/file", "x")], outside)
        before = manifest(outside)
        blob = layer(*TRICKS[trick](str(outside)))
        # Whether such a layer is refused or made harmless is the differ's own affair.
        with contextlib.suppress(OrlopError):
            await differ.apply(await add(content, blob, TAR), bind(tree))
        assert manifest(outside) == before
        assert not (tmp_path / "evil").exists()

    async def test_layers_are_applied_at_the_same_time(
        self, differ: Differ, content: ContentStore, tmp_path: Path
    ) -> None:
        async def one(number: int) -> None:
            plain = layer(*(member(f"{number}/{name}", os.urandom(2000)) for name in range(50)))
            tree = make(tmp_path / f"tree-{number}")
            applied = await differ.apply(await add(content, plain, TAR), bind(tree))
            assert applied.digest == digest(plain)
            assert len(list((tree / str(number)).iterdir())) == 50

        await asyncio.gather(*map(one, range(8)))

    async def test_a_cancelled_call_leaves_no_mount(
        self, differ: Differ, content: ContentStore, tmp_path: Path
    ) -> None:
        descriptor = await add(content, layer(*(member(f"file-{n}", bytes(100_000)) for n in range(200))), TAR)
        for delay in (0, 0.001, 0.02):
            tree = make(tmp_path / f"tree-{delay}")
            task = asyncio.create_task(differ.apply(descriptor, bind(tree)))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        tree = make(tmp_path / "whole")
        await differ.apply(descriptor, bind(tree))
        assert len(list(tree.iterdir())) == 200
        assert mount_points(tmp_path) == []

    async def test_foreign_types_are_left_to_others(
        self, differ: Differ, content: ContentStore, tmp_path: Path
    ) -> None:
        descriptor = await add(content, b"anything", "application/x-nobody-knows")
        with pytest.raises(Unimplemented, match="application/x-nobody-knows"):
            await differ.apply(descriptor, bind(make(tmp_path / "tree")))

    async def test_absent_content_is_not_found(self, differ: Differ, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            await differ.apply(Descriptor(TAR, digest(b"absent"), 6), bind(make(tmp_path / "tree")))

    async def test_damaged_layers_are_refused(self, differ: Differ, content: ContentStore, tmp_path: Path) -> None:
        blob = gzip.compress(layer(member("a", os.urandom(5000))))
        with pytest.raises(OrlopError) as caught:
            await differ.apply(await add(content, blob[:-100], GZIP), bind(make(tmp_path / "tree")))
        assert not isinstance(caught.value, Unimplemented)

    # ---- compare ----------------------------------------------------------------------------------------------------

    async def test_what_it_makes_it_can_apply(self, differ: Differ, content: ContentStore, tmp_path: Path) -> None:
        self._needs_compare()
        lower, upper, result = (make(tmp_path / name) for name in ("lower", "upper", "result"))
        for tree in (lower, upper, result):
            run(BEFORE, tree)
        run(CHANGES, upper)
        made = await differ.compare(bind(lower, readonly=True), bind(upper, readonly=True))
        assert made.media_type == GZIP
        await differ.apply(made, bind(result))
        assert manifest(result) == manifest(upper)
        assert (result / "first").stat().st_ino == (result / "second").stat().st_ino

    @pytest.mark.parametrize("seed", range(6))
    async def test_whatever_changed_arrives(
        self, differ: Differ, content: ContentStore, tmp_path: Path, seed: int
    ) -> None:
        self._needs_compare()
        chance = random.Random(seed)  # noqa: S311  # no secrets here
        lower, upper, result = (make(tmp_path / name) for name in ("lower", "upper", "result"))
        change_at_random(chance, 60, lower, upper, result)
        change_at_random(chance, 60, upper)
        made = await differ.compare(bind(lower, readonly=True), bind(upper, readonly=True), media_type=TAR)
        await differ.apply(made, bind(result))
        assert manifest(result) == manifest(upper)

    async def test_nothing_changed_is_an_empty_layer(
        self, differ: Differ, content: ContentStore, tmp_path: Path
    ) -> None:
        self._needs_compare()
        lower = make(tmp_path / "lower")
        run(BEFORE, lower)
        made = await differ.compare(bind(lower, readonly=True), bind(lower, readonly=True), media_type=TAR)
        with tarfile.open(fileobj=io.BytesIO(await read(content, made))) as archive:
            assert archive.getnames() == []

    async def test_layers_are_labelled(self, differ: Differ, content: ContentStore, tmp_path: Path) -> None:
        self._needs_compare()
        lower, upper = make(tmp_path / "lower"), make(tmp_path / "upper")
        run([write("a", "1")], upper)
        made = await differ.compare(bind(lower), bind(upper), labels={"mine": "yes"})
        info = await content.info(made.digest)
        plain = gzip.decompress(await read(content, made))
        assert info.size == made.size
        assert info.labels["mine"] == "yes"
        assert info.labels[UNCOMPRESSED] == digest(plain)

    async def test_the_same_trees_give_the_same_layer(
        self, differ: Differ, content: ContentStore, tmp_path: Path
    ) -> None:
        self._needs_compare()
        lower = make(tmp_path / "lower")
        epoch = datetime(2020, 1, 1, tzinfo=UTC)
        digests = set()
        for name in ("one", "two"):
            tree = make(tmp_path / name)
            run([write("b", "1"), mkdir("a"), write("a/c", "2", mtime=5)], tree)
            made = await differ.compare(bind(lower), bind(tree), media_type=TAR, source_date_epoch=epoch)
            digests.add(made.digest)
            with tarfile.open(fileobj=io.BytesIO(await read(content, made))) as archive:
                assert {info.name: info.mtime for info in archive} == {
                    "a": epoch.timestamp(),
                    "a/c": 5,
                    "b": epoch.timestamp(),
                }
        assert len(digests) == 1

    async def test_foreign_types_are_not_made(self, differ: Differ, tmp_path: Path) -> None:
        self._needs_compare()
        tree = make(tmp_path / "tree")
        with pytest.raises(Unimplemented):
            await differ.compare(bind(tree), bind(tree), media_type="application/x-nobody-knows")

    def _needs_compare(self) -> None:
        if not self.compares:
            pytest.skip("makes no layers")


def change_at_random(chance: random.Random, times: int, *trees: Path) -> None:
    """Make the same changes, of all kinds, in several equal trees."""
    for _ in range(times):
        name = "/".join(chance.choice("abcd") for _ in range(chance.randint(1, 3)))
        text, mode, owner = str(chance.random()), chance.choice((0o600, 0o644, 0o755, 0o4711)), chance.randint(0, 9)
        kind = chance.choice(("write", "write", "mkdir", "remove", "symlink", "chmod", "chown"))
        steps: dict[str, Step] = {
            "write": write(name, text, mode),
            "mkdir": mkdir(name, 0o700 | mode),
            "remove": remove(name),
            "symlink": symlink(name, text),
            "chmod": chmod(name, mode),
            "chown": chown(name, owner, owner),
        }
        for tree in trees:
            # What is in the way, or missing, is so in each of them.
            with contextlib.suppress(OSError):
                steps[kind](tree)


def make(path: Path) -> Path:
    """An empty directory."""
    path.mkdir()
    return path


async def add(content: ContentStore, blob: bytes, media_type: str) -> Descriptor:
    """Put a layer into the store."""
    name = digest(blob)
    writer = await content.writer(f"suite-{name}")
    try:
        await writer.write(blob)
        await writer.commit(size=len(blob), expected=name)
    finally:
        await writer.close()
    return Descriptor(media_type, name, len(blob))


async def read(content: ContentStore, descriptor: Descriptor) -> bytes:
    """A whole blob."""
    reader = await content.reader(descriptor)
    try:
        data = b""
        while len(data) < reader.size:
            data += await reader.read_at(len(data), reader.size - len(data))
        return data
    finally:
        await reader.close()
