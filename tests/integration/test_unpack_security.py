# SPDX-License-Identifier: Apache-2.0
"""Hostile and damaged layers: nothing outside is touched, the error says what is wrong, nothing stays behind."""

from __future__ import annotations

import asyncio
import copy
import gzip
import os
import signal
import stat
import tarfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio
from tests.support.unpacking import Bench, Member, bench, bind, directory, file, link, node, raw, symlink

from orlop.errors import DataLoss, InvalidArgument, OrlopError, ResourceExhausted, Unavailable, Unknown
from orlop.interfaces.content import ContentReader, ContentStore
from orlop.values import Descriptor, Mount
from orlop_images import media
from orlop_images.walking import Parts, WalkingConfig, WalkingDiffer
from orlop_sdk.linux.mount import mount_one, mount_points, unmount_all

SECRET = "secret outside"


@pytest_asyncio.fixture
async def parts(short_tmp: Path) -> AsyncIterator[Bench]:
    async with bench(short_tmp / "b") as made:
        yield made


@pytest.fixture
def outside(short_tmp: Path) -> Path:
    """A directory beside the tree that no layer may touch or see."""
    path = short_tmp / "outside"
    path.mkdir()
    (path / "passwd").write_text(SECRET)
    return path


def kinds_of_target(short_tmp: Path) -> dict[str, list[Mount]]:
    """The same empty tree in the three ways a worker writes: overlay's top, a bind's source, and mounts of its own."""
    for name in ("upper", "work", "lower", "bound", "mounted", "upper2", "work2"):
        (short_tmp / name).mkdir()
    (short_tmp / "upper2/inner").mkdir()

    def overlay(number: str) -> Mount:
        layers = {"upperdir": f"upper{number}", "workdir": f"work{number}", "lowerdir": "lower"}
        return Mount("overlay", "overlay", options=tuple(f"{key}={short_tmp / name}" for key, name in layers.items()))

    return {
        "upper": [overlay("")],
        "bound": bind(short_tmp / "bound"),
        # Two mounts, so that neither short cut applies.
        "upper2": [
            overlay("2"),
            Mount("bind", str(short_tmp / "mounted"), target="inner", options=("rbind", "rw")),
        ],
    }  # fmt: skip


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


ESCAPES: dict[str, list[Member]] = {
    "dot dot": [file("../outside/evil", b"x"), file("a/../../../outside/evil", b"x"), directory("..")],
    "absolute": [file("/outside/evil", b"x"), directory("/")],
    "link to parent": [symlink("a", "../outside"), file("a/evil", b"x")],
    "absolute link": [symlink("a", "{outside}"), file("a/evil", b"x"), file("a/passwd", b"y")],
    "chain of links": [symlink("a", "b"), symlink("b", "{outside}/.."), file("a/outside/evil", b"x")],
    "link replaces directory": [directory("a"), file("a/x", b"1"), symlink("a", "{outside}"), file("a/evil", b"x")],
    "directory through link": [symlink("a", "{outside}"), directory("a", mode=0o777), file("a/evil", b"x")],
    "file through link": [symlink("a", "{outside}/passwd"), file("a", b"overwritten")],
    "attributes through link": [symlink("a", "{outside}/passwd"), link("b", "a", mode=0o777, uid=7)],
    "whiteout through link": [symlink("a", "{outside}"), file("a/.wh.passwd")],
    "opaque through link": [symlink("a", "{outside}"), file("a/.wh..wh..opq")],
    "whiteout through dots": [file("../outside/.wh.passwd")],
    "device": [node("sda", tarfile.BLKTYPE, 8, 0), file("sda", b"not onto the disk")],
    "fifo": [node("pipe", tarfile.FIFOTYPE), file("pipe", b"does not wait for a reader")],
}


@pytest.mark.parametrize("where", ["upper", "bound", "upper2"])
@pytest.mark.parametrize("members", ESCAPES.values(), ids=ESCAPES.keys())
async def test_nothing_leaves_the_tree(
    parts: Bench, short_tmp: Path, outside: Path, members: Sequence[Member], where: str
) -> None:
    before = os.stat(outside / "passwd"), os.stat(outside)
    layer = raw([(with_place(info, outside), data) for info, data in members])
    await parts.differ.apply(await parts.add(layer, media.TAR), kinds_of_target(short_tmp)[where])
    assert names(outside) == {"passwd"}
    assert (outside / "passwd").read_text() == SECRET
    after = os.stat(outside / "passwd"), os.stat(outside)
    for old, new in zip(before, after, strict=True):
        assert (old.st_mode, old.st_uid, old.st_mtime_ns, old.st_nlink) == (
            new.st_mode,
            new.st_uid,
            new.st_mtime_ns,
            new.st_nlink,
        )


def with_place(info: tarfile.TarInfo, outside: Path) -> tarfile.TarInfo:
    placed = copy.copy(info)
    placed.linkname = info.linkname.replace("{outside}", str(outside))
    return placed


REFUSED: dict[str, tuple[list[Member], str]] = {
    "hard link out by dots": ([link("a", "../outside/passwd")], "not in this layer"),
    "hard link out by root": ([link("a", "{outside}/passwd")], "not in this layer"),
    "hard link through link": ([symlink("d", "{outside}"), link("a", "d/passwd")], "not in this layer"),
    "hard link to a directory": ([directory("d"), link("a", "d")], "hard link to a directory"),
    "hard link to the root": ([link("a", "..")], "hard link to a directory"),
    "hard link to itself": ([file("a"), link("a", "a")], "hard link to itself"),
    "whiteout of nothing": ([file(".wh.")], "invalid whiteout"),
    "whiteout of here": ([file("d/.wh..")], "invalid whiteout"),
    "whiteout of parent": ([file("d/.wh...")], "invalid whiteout"),
    "file below a file": ([file("a"), file("a/b")], "not a directory"),
    "links in a circle": ([symlink("a", "b"), symlink("b", "a"), file("a/x")], "too many symbolic links"),
    "too long a name": ([file("n" * 256)], "name too long"),
    "unknown type": ([node("x", b"Z")], "unknown type"),
}


@pytest.mark.parametrize(("members", "words"), REFUSED.values(), ids=REFUSED.keys())
async def test_impossible_entries_are_refused(
    parts: Bench, short_tmp: Path, outside: Path, members: Sequence[Member], words: str
) -> None:
    layer = raw([(with_place(info, outside), data) for info, data in members])
    target = short_tmp / "t"
    target.mkdir()
    with pytest.raises(InvalidArgument, match=f"(?i){words}"):
        await parts.differ.apply(await parts.add(layer, media.TAR), bind(target))
    assert (outside / "passwd").stat().st_nlink == 1


async def test_forged_overlay_attributes_are_dropped(parts: Bench, short_tmp: Path) -> None:
    info, data = directory("d")
    info.pax_headers = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.overlay.opaque": "y"}
    mounts = kinds_of_target(short_tmp)["upper"]
    await parts.differ.apply(await parts.add(raw([(info, data)], tarfile.PAX_FORMAT), media.TAR), mounts)
    assert os.listxattr(short_tmp / "upper/d") == []


async def test_a_whiteout_of_nothing_leaves_no_ghost(parts: Bench, short_tmp: Path) -> None:
    mounts = kinds_of_target(short_tmp)["upper"]
    (short_tmp / "lower/there").write_text("1")
    layer = raw([file("nowhere/.wh.nothing"), file(".wh.there")])
    await parts.differ.apply(await parts.add(layer, media.TAR), mounts)
    assert names(short_tmp / "upper") == {"nowhere", "there"}
    assert stat.S_ISCHR((short_tmp / "upper/there").stat().st_mode)


GOOD = raw([directory("d"), file("d/f", bytes(range(256)) * 40), file("e", b"x")])


def damaged_archives() -> dict[str, tuple[bytes, str, type[OrlopError], str]]:
    zipped = gzip.compress(GOOD, mtime=0)
    huge_size, negative, huge_pax = bytearray(GOOD), bytearray(GOOD), bytearray(GOOD)
    for block, field in ((huge_size, b"\x80" + b"\x7f" * 11), (negative, b"\xff" * 11 + b"\xf0")):
        block[512 + 124 : 512 + 136] = field
        checksum(block, 512)
    huge_pax[156:157] = b"x"
    huge_pax[124:136] = b"77777777777\0"
    checksum(huge_pax, 0)
    wrong = bytearray(GOOD)
    wrong[0] ^= 1
    garbage_pax, _ = file("p")
    bad_record = raw([file("header", b"99999 path=x\n", type=b"x"), (garbage_pax, b"")])
    return {
        "gzip cut short": (zipped[:-50], media.OCI_GZIP, DataLoss, "gzip data ends too early"),
        "gzip with a flipped byte": (flipped(zipped, len(zipped) // 2), media.OCI_GZIP, DataLoss, "gzip"),
        "gzip with a wrong checksum": (flipped(zipped, len(zipped) - 6), media.OCI_GZIP, DataLoss, "gzip"),
        "gzip with garbage behind": (zipped + b"garbage", media.OCI_GZIP, DataLoss, "followed by something"),
        "not gzip at all": (b"<html>not found</html>", media.OCI_GZIP, DataLoss, "not gzip"),
        "empty gzip": (b"", media.OCI_GZIP, DataLoss, "ends too early"),
        "not zstd at all": (b"<html>not found</html>", media.OCI_ZSTD, DataLoss, "zstd"),
        "tar cut in a file": (GOOD[:3000], media.TAR, DataLoss, "ends in the middle"),
        "tar cut in a header": (GOOD[:700], media.TAR, DataLoss, "ends in the middle"),
        "no tar": (b"<html>not found</html>" * 99, media.DOCKER, DataLoss, "tar header"),
        "wrong header checksum": (bytes(wrong), media.TAR, DataLoss, "checksum"),
        "size beyond all files": (bytes(huge_size), media.TAR, DataLoss, "out of range"),
        "negative size": (bytes(negative), media.TAR, DataLoss, "out of range"),
        "extended header of gigabytes": (bytes(huge_pax), media.TAR, InvalidArgument, "extension headers"),
        "malformed extended header": (bad_record, media.TAR, DataLoss, "malformed"),
    }


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 0x55,)) + data[at + 1 :]


def checksum(block: bytearray, at: int) -> None:
    block[at + 148 : at + 156] = b" " * 8
    block[at + 148 : at + 156] = b"%06o\0 " % sum(block[at : at + 512])


@pytest.mark.parametrize("case", damaged_archives().values(), ids=damaged_archives().keys())
async def test_damaged_layers_are_told(
    parts: Bench, short_tmp: Path, case: tuple[bytes, str, type[OrlopError], str]
) -> None:
    blob, media_type, error, words = case
    target = short_tmp / "t"
    target.mkdir()
    with pytest.raises(error, match=words):
        await parts.differ.apply(await parts.add(blob, media_type), bind(target))


async def test_limits_hold(short_tmp: Path) -> None:
    target = short_tmp / "t"
    target.mkdir()
    bomb = gzip.compress(raw([file("zeros", bytes(50_000_000))]), 9)
    many = raw([file(str(number)) for number in range(50)])
    async with bench(short_tmp / "b", config=WalkingConfig(max_layer_size=10_000_000, max_layer_entries=40)) as parts:
        with pytest.raises(ResourceExhausted, match="max_layer_size"):
            await parts.differ.apply(await parts.add(bomb), bind(target))
        with pytest.raises(ResourceExhausted, match="max_layer_entries"):
            await parts.differ.apply(await parts.add(many, media.TAR), bind(target))


async def test_a_full_disk_is_told(parts: Bench, short_tmp: Path) -> None:
    target = short_tmp / "small"
    target.mkdir()
    mount_one(Mount("tmpfs", "tmpfs", options=("size=1m",)), target)
    try:
        with pytest.raises(ResourceExhausted, match="No space left"):
            await parts.differ.apply(await parts.add(raw([file("large", bytes(3_000_000))]), media.TAR), bind(target))
    finally:
        unmount_all(target)


class Stalled:
    """A content store whose blobs come from elsewhere, and stop coming."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content

    async def reader(self, descriptor: Descriptor) -> ContentReader:
        return StalledReader(await self._content.reader(descriptor))


class StalledReader:
    """Gives the first bytes, and then waits for ever."""

    def __init__(self, reader: ContentReader) -> None:
        self._reader = reader
        self.size = reader.size

    async def read_at(self, offset: int, size: int) -> bytes:
        if offset:
            await asyncio.Event().wait()
        return await self._reader.read_at(offset, 2000)

    async def close(self) -> None:
        await self._reader.close()


@asynccontextmanager
async def stalled(parts: Bench, short_tmp: Path) -> AsyncIterator[WalkingDiffer]:
    """A differ that reads a stalled store."""
    content = cast(ContentStore, Stalled(parts.content))
    differ = WalkingDiffer(Parts(content, {}, lambda _, __: None, short_tmp / "stalled"))
    try:
        yield differ
    finally:
        await differ.close()


async def test_a_killed_worker_leaves_an_error_and_no_mounts(parts: Bench, short_tmp: Path) -> None:
    mounts = kinds_of_target(short_tmp)["upper2"]
    layer = await parts.add(GOOD, media.TAR)
    async with stalled(parts, short_tmp) as differ:
        applying = asyncio.create_task(differ.apply(layer, mounts))
        os.kill(await worker_below(os.getpid()), signal.SIGKILL)
        with pytest.raises(Unknown, match="killed"):
            await applying
    assert mount_points(short_tmp) == []
    # And the next one works.
    await parts.differ.apply(layer, mounts)


async def test_cancelling_ends_the_worker(parts: Bench, short_tmp: Path) -> None:
    target = short_tmp / "t"
    target.mkdir()
    layer = await parts.add(GOOD, media.TAR)
    async with stalled(parts, short_tmp) as differ:
        applying = asyncio.create_task(differ.apply(layer, bind(target)))
        worker = await worker_below(os.getpid())
        applying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await applying
        assert state(worker) in ("gone", "Z")  # at most its host has not collected it yet


async def test_closing_ends_workers(parts: Bench, short_tmp: Path) -> None:
    target = short_tmp / "t"
    target.mkdir()
    layer = await parts.add(GOOD, media.TAR)
    async with stalled(parts, short_tmp) as differ:
        applying = asyncio.create_task(differ.apply(layer, bind(target)))
        await worker_below(os.getpid())
        await differ.close()
        with pytest.raises((Unknown, Unavailable), match="killed|closed"):
            await applying


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "gone"


async def worker_below(pid: int) -> int:
    """A grandchild of this process, once it is confined: a job of the worker host."""
    for _ in range(2000):
        found = [
            job
            for child in children(pid)
            if "orlop_images/worker" in command(child)
            for job in children(child)
            if root(job) != "/"
        ]
        if found:
            return found[0]
        await asyncio.sleep(0.002)
    pytest.fail("no worker appeared")


def root(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/root")
    except FileNotFoundError:
        return "/"


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(pid: int) -> list[int]:
    found = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in listing.read_text().split()]
        except FileNotFoundError:
            continue
    return found
