# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import io
import random
import sys
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import pytest
from tests.support.unpacking import zstd_compress

from orlop_images import codecs
from orlop_images.worker.fault import Fault


class Trickle(io.BytesIO):
    """Gives a few bytes at a time, like a slow pipe."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 1, 3) if size and size > 0 else 3)


@pytest.fixture(params=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    return str(request.param)


def decoded(codec: Callable[[BinaryIO], BinaryIO], data: bytes, source: Any = io.BytesIO) -> bytes:
    reader = codec(cast(BinaryIO, source(data)))
    return b"".join(iter(lambda: reader.read(1000), b""))


@pytest.mark.parametrize("source", [io.BytesIO, Trickle])
def test_gzip_members_and_padding(library: str, source: Any) -> None:
    first, second = gzip.compress(b"one" * 300), gzip.compress(b"", mtime=0)
    data = first + bytes(600) + second + first + bytes(20)
    assert decoded(codecs.gunzip, data, source) == b"one" * 600


@pytest.mark.parametrize("flags", [0, 2, 4, 8, 16, 28, 30])
@pytest.mark.parametrize("source", [io.BytesIO, Trickle])
def test_gzip_headers_of_all_kinds(library: str, flags: int, source: Any) -> None:
    plain = b"content"
    deflated = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflated.compress(plain) + deflated.flush()
    header = b"\x1f\x8b\x08" + bytes((flags,)) + bytes(6)
    for flag, field in ((4, b"\x04\0ab\0d"), (8, b"name\0"), (16, b"comment\0")):
        header += field if flags & flag else b""
    if flags & 2:
        header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    data = header + body + zlib.crc32(plain).to_bytes(4, "little") + len(plain).to_bytes(4, "little")
    assert decoded(codecs.gunzip, data * 2, source) == plain * 2


def test_much_from_little_comes_in_bounded_steps(library: str) -> None:
    reader = codecs.gunzip(cast(BinaryIO, io.BytesIO(gzip.compress(bytes(30_000_000)))))
    sizes = [len(piece) for piece in iter(lambda: reader.read(1), b"")]
    assert sum(sizes) == 30_000_000
    assert max(sizes) <= 1 << 21


@pytest.mark.parametrize("seed", range(30))
def test_damage_is_a_fault_or_goes_unnoticed_by_no_checksum(library: str, seed: int) -> None:
    source = random.Random(seed)
    plain = source.randbytes(2000) + b"text " * 500
    data = bytearray(gzip.compress(plain, mtime=0))
    at = source.randrange(10, len(data))
    data[at] ^= 1 << source.randrange(8)
    with pytest.raises(Fault):
        decoded(codecs.gunzip, bytes(data))


@pytest.mark.parametrize("seed", range(30))
def test_cut_data_is_a_fault(library: str, seed: int) -> None:
    source = random.Random(seed)
    for codec, data in (
        (codecs.gunzip, gzip.compress(source.randbytes(500))),
        (codecs.unzstd, zstd_compress(b"a" * 900)),
    ):
        with pytest.raises(Fault, match="too early|not gzip"):
            decoded(codec, data[: source.randrange(len(data))])


def test_sniffing_passes_on_what_it_does_not_know() -> None:
    for data in (b"", b"\x1f", b"\x1f\x8b", b"\x28\xb5\x2f", b"plain text", b"\x50\x2a\x4d"):
        assert decoded(codecs.sniff, data, Trickle) == data
