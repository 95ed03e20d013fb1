# SPDX-License-Identifier: Apache-2.0
"""The archive reader, against archives of the standard library and against broken ones."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Iterator, Sequence
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.unpacking import Member, directory, file, raw, symlink

from orlop_images.worker.fault import DAMAGED, INVALID, Fault
from orlop_images.worker.stream import ByteStream
from orlop_images.worker.tar import MOST_EXTENDED, Entry, TarReader
from orlop_images.worker.tree import clean

SECOND = 1_000_000_000
Format = Literal[0, 1, 2]


def stream(data: bytes, step: int = 700) -> ByteStream:
    """The data in chunks that fit nothing."""
    chunks = iter([data[at : at + step] for at in range(0, len(data), step)])
    return ByteStream(lambda: next(chunks, b""))


def entries(data: bytes, step: int = 700) -> Iterator[tuple[Entry, bytes]]:
    reader = TarReader(stream(data, step))
    while (entry := reader.next()) is not None:
        stored = entry.stored
        yield entry, b"".join(bytes(piece) for piece in reader.stream.pieces(stored))


def one(member: Member, format: Format = tarfile.PAX_FORMAT) -> Entry:
    return next(entries(raw([member], format)))[0]


@settings(max_examples=150, deadline=None)
@given(
    name=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=120),
        min_size=1,
        max_size=4,
    ),
    data=st.binary(max_size=2000),
    mode=st.integers(0, 0o7777),
    ids=st.tuples(st.integers(0, 2**31), st.integers(0, 2**31)),
    mtime=st.integers(0, 2**36),
    format=st.sampled_from((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)),
    step=st.sampled_from((1, 511, 512, 513, 100_000)),
)
def test_reads_what_the_standard_library_writes(
    name: Sequence[str], data: bytes, mode: int, ids: tuple[int, int], mtime: int, format: Format, step: int
) -> None:
    path = "/".join(name)
    member = file(path, data, mode=mode, uid=ids[0], gid=ids[1], mtime=mtime)
    found = list(entries(raw([member, directory("next")], format), step))
    assert len(found) == 2
    entry, content = found[0]
    assert (entry.name, content, entry.size) == (path.encode(), data, len(data))
    assert (entry.mode, entry.uid, entry.gid, entry.mtime) == (mode, *ids, mtime * SECOND)
    assert (found[1][0].name.rstrip(b"/"), found[1][0].kind) == (b"next", b"5")


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1.5", 1_500_000_000),
        ("0", 0),
        ("1.123456789123", 1_123_456_789),
        ("-1.25", -1_250_000_000),
        ("7.", 7 * SECOND),
    ],
)
def test_times_are_exact(text: str, nanoseconds: int) -> None:
    info, data = file("a")
    info.pax_headers = {"mtime": text, "atime": "0"}
    assert one((info, data)).mtime == nanoseconds


def test_extended_headers_replace_plain_ones() -> None:
    info, data = symlink("short", "target")
    info.pax_headers = {
        "path": "long/name",
        "linkpath": "other",
        "uid": "4000000",
        "gid": "5",
        "SCHILY.xattr.user.a": "1",
        "LIBARCHIVE.xattr.user.b": "Mg==",
        "comment": "no matter",
    }
    entry = one((info, data))
    assert (entry.name, entry.link, entry.uid, entry.gid, entry.xattrs) == (
        b"long/name",
        b"other",
        4_000_000,
        5,
        {"user.a": b"1"},
    )


def test_global_headers_change_nothing() -> None:
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "x", "comment": "abc"}
    ) as tar:
        tar.addfile(tarfile.TarInfo("a"))
    assert [entry.name for entry, _ in entries(buffer.getvalue())] == [b"a"]


def test_old_archives_have_directories_by_their_slash() -> None:
    block = bytearray(tarfile.TarInfo("old/").tobuf(tarfile.USTAR_FORMAT))
    block[156:157] = b"\0"
    block[257:265] = bytes(8)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    assert next(entries(bytes(block)))[0].kind == b"5"


def test_an_archive_may_end_without_zeros() -> None:
    assert len(list(entries(raw([file("a", b"1")], end=False)))) == 1
    assert list(entries(b"")) == []


def test_sparse_map_of_gnu(tmp_path: object) -> None:
    block = bytearray(tarfile.TarInfo("s").tobuf(tarfile.GNU_FORMAT))
    block[156:157] = b"S"
    block[124:136] = b"%011o\0" % 30
    for index, (offset, length) in enumerate([(0, 10), (100, 20), (1000, 0)]):
        block[386 + 24 * index : 410 + 24 * index] = b"%011o\0%011o\0" % (offset, length)
    block[483:495] = b"%011o\0" % 1000
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    entry, data = next(entries(bytes(block) + b"x" * 30 + bytes(482) + bytes(1024)))
    assert (entry.kind, entry.size, entry.sparse) == (b"0", 1000, [(0, 10), (100, 20), (1000, 0)])
    assert data == b"x" * 30


@pytest.mark.parametrize("pairs", ["0,10", "10,5,0,5", "0,5,3,5", "0,5,99,5", "0,5,x,5", "0,5,-1,5", "0,5,10"])
def test_sparse_maps_that_cannot_be_are_damage(pairs: str) -> None:
    info, _ = file("s")
    info.pax_headers = {"GNU.sparse.map": pairs, "GNU.sparse.size": "50"}
    info.size = 10 if pairs != "0,10" else 11
    with pytest.raises(Fault) as caught:
        list(entries(raw([(info, b"x" * info.size)], tarfile.PAX_FORMAT)))
    assert caught.value.kind == DAMAGED


def test_headers_without_end_are_refused() -> None:
    long = file("n" * (MOST_EXTENDED + 1))
    with pytest.raises(Fault) as caught:
        list(entries(raw([long], tarfile.GNU_FORMAT)))
    assert caught.value.kind == INVALID
    with pytest.raises(Fault):
        list(entries(raw([file("h", type=b"L")] * 40, tarfile.GNU_FORMAT)))


@pytest.mark.parametrize("seed", range(40))
def test_broken_archives_are_faults_and_nothing_else(seed: int) -> None:
    source = random.Random(seed)
    info, data = file("p" * 150, b"abc" * 300)
    info.pax_headers = {"SCHILY.xattr.user.a": "x", "mtime": "12.5"}
    good = raw([directory("d"), (info, data), file("l" * 200, b"1"), symlink("s", "t" * 200)], tarfile.PAX_FORMAT)
    for _ in range(60):
        broken = bytearray(good)
        for _ in range(source.randint(1, 6)):
            at = source.randrange(len(broken))
            broken[at] = source.choice((0, 255, 0x30, source.randrange(256)))
            block = at // 512 * 512
            if source.random() < 0.7:  # past the checksum, into what it guards
                header = broken[block : block + 512]
                header[148:156] = b" " * 8
                broken[block + 148 : block + 156] = b"%06o\0 " % sum(header)
        cut = source.randrange(len(broken)) if source.random() < 0.3 else len(broken)
        assert ending(bytes(broken[:cut])) in ("well", DAMAGED, INVALID)


def ending(data: bytes) -> str:
    """How reading ends; any other exception is a failure."""
    try:
        for entry, content in entries(data):
            assert len(content) == entry.stored
    except Fault as fault:
        return fault.kind
    return "well"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a", "a"),
        ("./a", "a"),
        ("./", ""),
        (".", ""),
        ("", ""),
        ("/", ""),
        ("//a//b/", "a/b"),
        ("/a", "a"),
        ("../a", "a"),
        ("../../..", ""),
        ("a/../b", "b"),
        ("a/../../b", "b"),
        ("a/./b/.", "a/b"),
        ("a/..", ""),
        ("...", "..."),
        ("a./b", "a./b"),
        ("a/.b", "a/.b"),
        ("a/..b", "a/..b"),
        ("././a", "a"),
        ("./../a", "a"),
        (".//a", "a"),
    ],
)
def test_names_are_cleaned(name: str, path: str) -> None:
    assert clean(name.encode()) == path.encode()
