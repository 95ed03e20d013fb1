# SPDX-License-Identifier: Apache-2.0
"""Lines out of what containers write, however it arrives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orlop_sdk.logs.lines import Lines

LONGEST = 8
CHUNKS = st.lists(st.one_of(st.binary(max_size=20), st.text("aé€😀\n", max_size=12).map(str.encode)), max_size=12)


def pieces_of(chunks: list[bytes]) -> list[tuple[bytes, bool]]:
    """The text of each piece, and whether its line ends there."""
    lines = Lines(LONGEST)
    found = [*map(lines.feed, chunks), lines.end()]
    return [(text, index not in pieces.unended) for pieces in found for index, text in enumerate(pieces.texts)]


@given(CHUNKS)
def test_nothing_is_lost_and_no_piece_is_too_long(chunks: list[bytes]) -> None:
    pieces = pieces_of(chunks)
    text = b"".join(chunks)
    said = b"".join(piece + (b"\n" if ended else b"") for piece, ended in pieces)
    # A last line without newline ends all the same.
    assert said == text + (b"\n" if text and not text.endswith(b"\n") else b"")
    assert all(len(piece) <= LONGEST for piece, _ in pieces)
    assert not pieces or pieces[-1][1]


@given(st.text("aé€😀", max_size=40))
def test_characters_stay_whole(text: str) -> None:
    for piece, _ in pieces_of([text.encode()]):
        piece.decode()


@given(st.lists(st.text("aé\n", max_size=3).map(str.encode), max_size=12))
def test_lines_that_are_short_enough_are_whole(chunks: list[bytes]) -> None:
    text = b"".join(chunks).removesuffix(b"\n")
    if max(map(len, text.split(b"\n"))) <= LONGEST:
        assert [piece for piece, _ in pieces_of(chunks)] == (text.split(b"\n") if b"".join(chunks) else [])
