# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_sdk.http2 import frames
from orlop_sdk.http2.frames import PREFACE, ConnectionFault, Decoder, ErrorCode

LARGEST = 500
sent_frames = st.tuples(
    st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=LARGEST)
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(sent_frames, max_size=6), st.lists(st.integers(0, 3000), max_size=20))
def test_frames_survive_any_fragmentation(sent: list[tuple[int, int, int, bytes]], places: list[int]) -> None:
    data = PREFACE + b"".join(frames.encode(*frame) for frame in sent)
    decoder = Decoder(LARGEST)
    assert [frame for piece in cut(data, places) for frame in decoder.feed(piece)] == sent


@given(st.lists(st.integers(0, 40), max_size=20))
def test_a_frame_that_is_too_long_is_refused_when_its_size_is_known(places: list[int]) -> None:
    data = PREFACE + frames.header(frames.DATA, 0, 1, LARGEST + 1)
    decoder = Decoder(LARGEST)
    with pytest.raises(ConnectionFault) as caught:
        for piece in cut(data, places):
            list(decoder.feed(piece))
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR


@given(st.binary(min_size=1).filter(lambda data: not PREFACE.startswith(data[: len(PREFACE)])))
def test_another_preface_is_refused_at_its_first_wrong_byte(data: bytes) -> None:
    decoder = Decoder(LARGEST)
    with pytest.raises(ConnectionFault):
        for at in range(len(data)):
            list(decoder.feed(data[at : at + 1]))


def test_the_reserved_bit_of_a_stream_is_ignored() -> None:
    ((*_, stream, _payload),) = Decoder(LARGEST).feed(PREFACE + frames.encode(frames.PING, 0, (1 << 31) | 7))
    assert stream == 7


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        (frames.ENABLE_PUSH, 2, ErrorCode.PROTOCOL_ERROR),
        (frames.INITIAL_WINDOW_SIZE, 1 << 31, ErrorCode.FLOW_CONTROL_ERROR),
        (frames.MAX_FRAME_SIZE, frames.DEFAULT_FRAME - 1, ErrorCode.PROTOCOL_ERROR),
        (frames.MAX_FRAME_SIZE, frames.LARGEST_FRAME + 1, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_settings_out_of_range_are_refused(name: int, value: int, code: ErrorCode) -> None:
    payload = frames.encode_settings({name: value})[frames.HEADER_SIZE :]
    with pytest.raises(ConnectionFault) as caught:
        list(frames.decode_settings(payload))
    assert caught.value.code is code


def test_settings_are_read_as_written() -> None:
    values = {frames.INITIAL_WINDOW_SIZE: 0, frames.MAX_FRAME_SIZE: frames.LARGEST_FRAME, 0xFE03: 1}
    assert dict(frames.decode_settings(frames.encode_settings(values)[frames.HEADER_SIZE :])) == values
    with pytest.raises(ConnectionFault, match="multiple of 6"):
        list(frames.decode_settings(bytes(7)))


@given(st.binary(max_size=50), st.integers(0, 255))
def test_padding_comes_off(data: bytes, size: int) -> None:
    assert frames.unpadded(frames.PADDED, bytes((size,)) + data + bytes(size)) == data
    assert frames.unpadded(0, data) == data


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05abcd"])
def test_padding_longer_than_its_frame_is_refused(payload: bytes) -> None:
    with pytest.raises(ConnectionFault):
        frames.unpadded(frames.PADDED, payload)
