# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.http2 import fields

from orlop_sdk.http2.frames import ConnectionFault, ErrorCode
from orlop_sdk.http2.headers import MAX_FIELDS, Blocks, Fields, Malformed, block, check_trailers, request

names = st.sampled_from([":path", "te", "content-type", "grpc-timeout", "a", "b-bin"])
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200)
blocks = st.lists(st.tuples(names, values, st.booleans()), max_size=8)


@given(st.lists(st.one_of(blocks, st.integers(0, 4096)), max_size=30), st.booleans())
def test_remembered_blocks_mean_what_their_table_says(
    sent: list[list[tuple[str, str, bool]] | int], huff: bool
) -> None:
    # The encoder adds to the table, changes its size, and repeats itself; a decoder without memory is the judge.
    encoder, judge = hpack.Encoder(), hpack.Decoder()
    ours: Blocks[Fields] = Blocks(lambda found: found)
    for each in [*sent, *sent]:
        if isinstance(each, int):
            # Told the same size twice, this encoder forgets to tell its peer.
            if each != encoder.header_table_size:
                encoder.header_table_size = each
            continue
        data = encoder.encode(each, huffman=huff)
        assert ours.decode(data) == [(str(name), str(value)) for name, value in judge.decode(data)]


def test_equal_blocks_are_parsed_once_until_the_table_changes() -> None:
    parsed: list[Fields] = []

    def parse(found: Fields) -> Fields:
        parsed.append(found)
        return found

    known = Blocks(parse)
    constant = block([("a", "b")])
    assert known.decode(constant) is known.decode(constant)
    # Index 62 is what was added last.
    assert known.decode(b"\x40\x01x\x011") == [("x", "1")]
    assert known.decode(b"\xbe") == [("x", "1")]
    assert known.decode(b"\x40\x01x\x012") == [("x", "2")]
    assert known.decode(b"\xbe") == [("x", "2")]
    assert len(parsed) == 5


@given(st.lists(st.tuples(names, values), max_size=5), st.integers(0, 70_000))
def test_sent_blocks_need_no_table(sent: Fields, size: int) -> None:
    sent = [*sent, (":status", "200"), ("long", "x" * size)]
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    assert [(str(name), str(value)) for name, value in decoder.decode(block(sent))] == sent
    assert not decoder.header_table.dynamic_entries


@given(st.binary(max_size=300))
def test_any_bytes_are_fields_or_a_fault(data: bytes) -> None:
    with contextlib.suppress(ConnectionFault):
        assert all(isinstance(text, str) for field in Blocks(lambda each: each).decode(data) for text in field)


def test_few_bytes_cannot_become_many_fields() -> None:
    # One field that the table keeps, and many references to it.
    bomb = b"\x40" + block([("x", "y" * 3000)])[1:] + b"\xbe" * 100
    with pytest.raises(ConnectionFault) as caught:
        Blocks(lambda each: each).decode(bomb)
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM
    assert len(bomb) < MAX_FIELDS // 16


def test_a_request_is_taken_apart() -> None:
    found = request(fields("/a/B", ("content-length", "12"), ("x", "")))
    assert (found.method, found.path, found.length) == ("POST", "/a/B", 12)
    assert found.fields[-1] == ("x", "")


@pytest.mark.parametrize(
    "bad",
    [
        [(":method", "POST"), (":path", "/")],
        [(":method", "POST"), (":scheme", "http"), (":path", "")],
        [*fields("/"), (":authority", "late")],
        [(":path", "/"), *fields("/")],
        [(":status", "200"), *fields("/")],
        [*fields("/"), ("Upper", "case")],
        [*fields("/"), ("", "nameless")],
        [*fields("/"), ("sp ace", "")],
        [*fields("/"), ("a", "new\nline")],
        [*fields("/"), ("a", "nul\0")],
        [*fields("/"), ("connection", "close")],
        [*fields("/"), ("transfer-encoding", "chunked")],
        fields("/", ("te", "gzip")),
        [*fields("/"), ("content-length", "-1")],
        [*fields("/"), ("content-length", "1"), ("content-length", "2")],
    ],
)
def test_malformed_requests_are_told(bad: Fields) -> None:
    with pytest.raises(Malformed):
        request(bad)


@pytest.mark.parametrize("bad", [[(":path", "/")], [("Upper", "")], [("connection", "x")]])
def test_malformed_trailers_are_told(bad: Fields) -> None:
    check_trailers([("x", "y")])
    with pytest.raises(Malformed):
        check_trailers(bad)
