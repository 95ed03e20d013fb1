# SPDX-License-Identifier: Apache-2.0
"""Peers that mean harm: whatever they send costs bounded memory, breaks nothing, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.ctr import until
from tests.support.http2 import SERVICE, Service, connected, fields, joined, request

from orlop_sdk.http2 import connection, frames
from orlop_sdk.http2.flow import MAX_BACKLOG
from orlop_sdk.http2.frames import ErrorCode, encode, encode_reset, encode_settings, encode_window_update
from orlop_sdk.http2.headers import block
from orlop_sdk.http2.server import Server

WAIT = block(fields(f"/{SERVICE}/Wait"))
BLOCKS = [block(fields(f"/{SERVICE}/{name}")) for name in ("Echo", "Wait", "Produce", "Collect", "Chat", "Nothing")]

payloads = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([*BLOCKS, request(b"x"), request(b"x") * 2, b"\0\0\0\0\x01", bytes(4), bytes(5), bytes(8)]),
    st.integers(0, 2**32 - 1).map(lambda number: number.to_bytes(4, "big")),
    st.dictionaries(st.integers(0, 8), st.integers(0, 2**31), max_size=3).map(
        lambda values: encode_settings(values)[frames.HEADER_SIZE :]
    ),
)
any_frames = st.builds(
    encode,
    kind=st.integers(0, 10),
    flags=st.one_of(st.sampled_from([0, 1, 4, 5, 8, 0x24, 0x25, 0x2D]), st.integers(0, 255)),
    stream=st.one_of(st.integers(0, 9), st.sampled_from([2**31 - 1, 2**32 - 1])),
    payload=payloads,
)


async def attack(sent: bytes, *, hello: bool) -> None:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    service = Service()
    server = Server(service.methods())
    async with joined(server) as peer:
        if hello:
            peer.send(frames.PREFACE, encode(frames.SETTINGS, 0, 0))
        peer.send(sent)
        peer.writer.write_eof()
        async with asyncio.timeout(20):
            await peer.reader.read()
    await server.close(0)
    assert service.running == 0
    assert failures == []


@settings(max_examples=300, deadline=None)
@given(st.lists(any_frames, max_size=12))
def test_any_frames(sent: list[bytes]) -> None:
    asyncio.run(attack(b"".join(sent), hello=True))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes(sent: bytes, hello: bool) -> None:
    asyncio.run(attack(sent, hello=hello))


async def test_opening_and_resetting_in_a_row_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_LINGERING", 50)
    service = Service()
    async with connected(service.methods()) as (_, peer):
        begin = encode(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 0, block(fields(f"/{SERVICE}/Chat")))
        for stream in range(1, 20_001, 2):
            peer.send(begin[:5], stream.to_bytes(4, "big"), begin[9:], encode_reset(stream, ErrorCode.CANCEL))
        most = 0
        async with asyncio.timeout(20):
            while peer.connection.last_stream < 19_999:
                most = max(most, peer.connection.tasks)
                await asyncio.sleep(0)
        # One read of the socket may bring many; the next one waits until they have ended.
        assert most < 10_000
        assert await peer.is_alive()


async def test_a_stream_counts_until_its_handler_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_STREAMS", 3)
    service = Service()
    stubborn = asyncio.Event()

    async def wait(given: Any) -> Any:
        try:
            await service.wait(given)
        finally:
            await stubborn.wait()
        return given

    methods = service.methods()
    method = methods[f"/{SERVICE}/Wait"]
    methods[f"/{SERVICE}/Wait"] = type(method)(wait, method.request, method.response)
    async with connected(methods) as (_, peer):
        for stream in (1, 3, 5):
            peer.ask(stream, f"/{SERVICE}/Wait", request(b""))
        await until(lambda: service.running == 3)
        peer.send(*(encode_reset(stream, ErrorCode.CANCEL) for stream in (1, 3, 5)))
        peer.ask(7, f"/{SERVICE}/Wait", request(b""))
        refused = await peer.next(frames.RST_STREAM)
        assert (refused.stream, refused.number) == (7, ErrorCode.REFUSED_STREAM)
        stubborn.set()
        assert await peer.is_alive()
        peer.ask(9, f"/{SERVICE}/Echo", request(b"x"))
        assert (await peer.answer(9)).status == 0


@pytest.mark.parametrize(
    "flood",
    [encode(frames.PING, 0, 0, bytes(8)), encode_settings({frames.INITIAL_WINDOW_SIZE: 1}), encode_window_update(1, 0)],
    ids=["ping", "settings", "resets"],
)
async def test_answers_to_one_who_does_not_read_do_not_pile_up(flood: bytes) -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.send(encode(frames.HEADERS, frames.END_HEADERS, 1, WAIT))
        assert await peer.is_alive()
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        # More than the buffers of both sockets and of the transport take.
        for _ in range(150):
            peer.send(flood * (20_000 // len(flood)))
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0.001)
        size = peer.connection.outlet.transport.get_write_buffer_size()
        assert size < (1 << 20) + MAX_BACKLOG + (512 << 10)
        assert peer.writer.transport.get_write_buffer_size() > 0
        peer.reader._transport.resume_reading()  # type: ignore[attr-defined]
        assert await peer.is_alive()


async def test_windows_raised_for_many_streams_at_once_wake_each_of_them_once() -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.send(encode_settings({frames.INITIAL_WINDOW_SIZE: 0}))
        for stream in range(1, 1001, 2):
            peer.ask(stream, f"/{SERVICE}/Echo", request(b"x"))
        assert await peer.is_alive()
        peer.send(*(encode_settings({frames.INITIAL_WINDOW_SIZE: size}) for size in range(1, 2000)))
        ended: set[int] = set()
        while len(ended) < 500:
            frame = await peer.next(frames.HEADERS)
            if frame.flags & frames.END_STREAM:
                ended.add(frame.stream)
