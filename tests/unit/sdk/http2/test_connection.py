# SPDX-License-Identifier: Apache-2.0
"""What a server does about a peer that breaks the rules of RFC 9113, and about one that only looks as if it did."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from tests.support.http2 import SERVICE, Peer, Service, connected, fields, joined, request

from orlop_sdk.http2 import frames
from orlop_sdk.http2.connection import MAX_BLOCK, MAX_CONTINUATIONS, MAX_FRAME
from orlop_sdk.http2.flow import STREAM_WINDOW
from orlop_sdk.http2.frames import ErrorCode, encode, encode_reset, encode_settings, encode_window_update
from orlop_sdk.http2.headers import block
from orlop_sdk.http2.server import Server

WAIT = block(fields(f"/{SERVICE}/Wait"))
OPEN = frames.END_HEADERS
ENDED = frames.END_HEADERS | frames.END_STREAM
#: A request whose content is still to come, on stream 1.
BEGUN = encode(frames.HEADERS, OPEN, 1, WAIT)
#: A request that is complete, and answered at once.
DONE = encode(frames.HEADERS, ENDED, 1, block(fields(f"/{SERVICE}/Nothing")))

CONNECTION_FAULTS = {
    "data-without-stream": (encode(frames.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data-on-an-idle-stream": (encode(frames.DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data-on-an-even-stream": (BEGUN + encode(frames.DATA, 0, 2, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data-all-padding": (BEGUN + encode(frames.DATA, frames.PADDED, 1, b"\x02x"), ErrorCode.PROTOCOL_ERROR),
    "frame-too-long": (frames.header(frames.DATA, 0, 1, MAX_FRAME + 1), ErrorCode.FRAME_SIZE_ERROR),
    "headers-without-stream": (encode(frames.HEADERS, ENDED, 0, WAIT), ErrorCode.PROTOCOL_ERROR),
    "headers-on-an-even-stream": (encode(frames.HEADERS, ENDED, 2, WAIT), ErrorCode.PROTOCOL_ERROR),
    "headers-going-back": (
        encode(frames.HEADERS, OPEN, 5, WAIT) + encode(frames.HEADERS, OPEN, 3, WAIT),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "headers-after-the-end": (DONE + encode(frames.HEADERS, ENDED, 1, WAIT), ErrorCode.STREAM_CLOSED),
    "headers-undecodable": (encode(frames.HEADERS, ENDED, 1, b"\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "headers-priority-cut": (
        encode(frames.HEADERS, ENDED | frames.HAS_PRIORITY, 1, b"\0\0"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "depends-on-itself": (encode(frames.PRIORITY, 0, 3, b"\0\0\0\x03\0"), ErrorCode.PROTOCOL_ERROR),
    "priority-without-stream": (encode(frames.PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "block-interrupted": (encode(frames.HEADERS, 0, 1, WAIT) + encode(frames.PING, 0, 0, bytes(8)), 1),
    "block-continued-elsewhere": (
        encode(frames.HEADERS, 0, 1, WAIT) + encode(frames.CONTINUATION, OPEN, 3),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "continuation-of-nothing": (encode(frames.CONTINUATION, OPEN, 1, WAIT), ErrorCode.PROTOCOL_ERROR),
    "continuations-without-content": (
        encode(frames.HEADERS, 0, 1) + encode(frames.CONTINUATION, 0, 1) * (MAX_CONTINUATIONS + 1),
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "continuations-too-long": (
        encode(frames.HEADERS, 0, 1) + encode(frames.CONTINUATION, 0, 1, bytes(MAX_BLOCK // 8)) * 9,
        ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "block-too-long": (encode(frames.HEADERS, OPEN, 1, bytes(MAX_BLOCK + 1)), ErrorCode.ENHANCE_YOUR_CALM),
    "reset-without-stream": (encode_reset(0, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
    "reset-of-an-idle-stream": (encode_reset(1, ErrorCode.CANCEL), ErrorCode.PROTOCOL_ERROR),
    "reset-cut": (BEGUN + encode(frames.RST_STREAM, 0, 1, b"\0"), ErrorCode.FRAME_SIZE_ERROR),
    "settings-of-a-stream": (encode(frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "settings-ack-with-content": (encode(frames.SETTINGS, frames.ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "push-promise": (encode(frames.PUSH_PROMISE, OPEN, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "ping-of-a-stream": (encode(frames.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "ping-cut": (encode(frames.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "goaway-of-a-stream": (encode(frames.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "goaway-cut": (encode(frames.GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "window-of-an-idle-stream": (encode_window_update(1, 1), ErrorCode.PROTOCOL_ERROR),
    "window-by-nothing": (encode_window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "window-cut": (encode(frames.WINDOW_UPDATE, 0, 0, b"\0"), ErrorCode.FRAME_SIZE_ERROR),
    "window-too-large": (encode_window_update(0, frames.LARGEST_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
    "initial-window-too-large": (
        BEGUN + encode_window_update(1, 1 << 30) + encode_settings({frames.INITIAL_WINDOW_SIZE: (1 << 31) - 1}),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
}

STREAM_FAULTS = {
    "data-after-the-end": (
        encode(frames.HEADERS, ENDED, 1, WAIT) + encode(frames.DATA, 0, 1, b"x"),
        ErrorCode.STREAM_CLOSED,
    ),
    "headers-after-half-the-end": (
        BEGUN + encode(frames.DATA, frames.END_STREAM, 1, request(b"")) + encode(frames.HEADERS, ENDED, 1, WAIT),
        ErrorCode.STREAM_CLOSED,
    ),
    "trailers-that-end-nothing": (BEGUN + encode(frames.HEADERS, OPEN, 1, block([("a", "b")])), 1),
    "trailers-with-a-path": (BEGUN + encode(frames.HEADERS, ENDED, 1, block([(":path", "/")])), 1),
    "malformed": (encode(frames.HEADERS, ENDED, 1, block([("a", "b")])), ErrorCode.PROTOCOL_ERROR),
    "priority-cut": (BEGUN + encode(frames.PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "window-by-nothing": (BEGUN + encode_window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
    "window-too-large": (BEGUN + encode_window_update(1, frames.LARGEST_WINDOW), ErrorCode.FLOW_CONTROL_ERROR),
    "content-beyond-its-length": (
        encode(frames.HEADERS, OPEN, 1, block(fields(f"/{SERVICE}/Wait", ("content-length", "3"))))
        + encode(frames.DATA, 0, 1, b"four"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "content-short-of-its-length": (
        encode(frames.HEADERS, OPEN, 1, block(fields(f"/{SERVICE}/Wait", ("content-length", "3"))))
        + encode(frames.DATA, frames.END_STREAM, 1, b"2b"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "no-content-of-some-length": (
        encode(frames.HEADERS, ENDED, 1, block(fields(f"/{SERVICE}/Wait", ("content-length", "3")))),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "data-beyond-its-window": (
        encode(frames.HEADERS, OPEN, 1, block(fields(f"/{SERVICE}/Hoard")))
        + encode(frames.DATA, 0, 1, request(bytes(100_000))) * (STREAM_WINDOW // 100_000 + 1),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
}

HARMLESS = {
    "unknown-frame": encode(99, 255, 7, b"whatever"),
    "unknown-setting": encode_settings({0xFE03: 1}),
    "priority-of-an-idle-stream": encode(frames.PRIORITY, 0, 9, bytes(5)),
    "goaway": encode(frames.GOAWAY, 0, 0, bytes(8)),
    "window-of-a-closed-stream": DONE + encode_window_update(1, 5) + encode_reset(1, ErrorCode.CANCEL),
    "reset-twice": BEGUN + encode_reset(1, ErrorCode.CANCEL) * 2,
    "data-that-crosses-an-early-answer": encode(frames.HEADERS, OPEN, 1, block(fields("/Nothing")))
    + encode(frames.DATA, frames.END_STREAM, 1, b"x"),
    "trailers-that-cross-an-early-answer": encode(frames.HEADERS, OPEN, 1, block(fields("/Nothing")))
    + encode(frames.HEADERS, ENDED, 1, block([("a", "b")])),
    "padding": encode(frames.HEADERS, OPEN | frames.PADDED, 1, b"\x03" + WAIT + bytes(3))
    + encode(frames.DATA, frames.PADDED, 1, b"\x03" + bytes(3)),
}


@pytest.mark.parametrize("name", CONNECTION_FAULTS)
async def test_faults_of_a_connection_end_it(name: str) -> None:
    sent, code = CONNECTION_FAULTS[name]
    async with connected(Service().methods()) as (_, peer):
        peer.send(sent)
        assert await peer.goaway() == code


@pytest.mark.parametrize("name", STREAM_FAULTS)
async def test_faults_of_a_stream_end_only_that(name: str) -> None:
    sent, code = STREAM_FAULTS[name]
    async with connected(Service().methods()) as (_, peer):
        peer.send(sent)
        frame = await peer.next(frames.RST_STREAM)
        assert (frame.stream, frame.number) == (1, code)
        assert await peer.is_alive()


@pytest.mark.parametrize("name", HARMLESS)
async def test_what_is_no_fault_changes_nothing(name: str) -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.send(HARMLESS[name])
        assert await peer.is_alive()
        peer.ask(11, f"/{SERVICE}/Echo", request(b"x"))
        answer = await peer.answer(11)
        assert (answer.status, answer.content) == (0, request(b"x"))


@pytest.mark.parametrize("hello", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX"])
async def test_who_does_not_speak_http2_is_hung_up_on(hello: bytes) -> None:
    async with joined(Server({})) as peer:
        peer.send(hello)
        assert await peer.goaway() == ErrorCode.PROTOCOL_ERROR


async def test_settings_come_first() -> None:
    async with joined(Server({})) as peer:
        peer.send(frames.PREFACE, encode(frames.PING, 0, 0, bytes(8)))
        assert await peer.goaway() == ErrorCode.PROTOCOL_ERROR


async def test_settings_are_sent_and_acknowledged() -> None:
    async with connected({}) as (_, peer):
        frame = await peer.frame()
        assert (frame.kind, frame.flags) == (frames.SETTINGS, 0)
        assert dict(frames.decode_settings(frame.payload))[frames.MAX_FRAME_SIZE] == MAX_FRAME
        assert (await peer.next(frames.SETTINGS)).flags == frames.ACK


async def test_a_block_in_pieces_is_one_block() -> None:
    async with connected(Service().methods()) as (_, peer):
        head = block(fields(f"/{SERVICE}/Echo"))
        peer.send(
            encode(frames.HEADERS, 0, 1, head[:5]),
            encode(frames.CONTINUATION, 0, 1, head[5:9]),
            encode(frames.CONTINUATION, frames.END_HEADERS, 1, head[9:]),
            encode(frames.DATA, frames.END_STREAM, 1, request(b"x")),
        )
        assert (await peer.answer(1)).content == request(b"x")


async def test_trailers_end_a_request() -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.ask(1, f"/{SERVICE}/Echo", request(b"x"), end=False)
        peer.send(encode(frames.HEADERS, ENDED, 1, block([("a", "b")])))
        assert (await peer.answer(1)).content == request(b"x")


async def test_messages_come_in_frames_the_peer_takes() -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.send(encode_settings({frames.INITIAL_WINDOW_SIZE: 1 << 20, frames.MAX_FRAME_SIZE: 20_000}))
        peer.ask(1, f"/{SERVICE}/Echo", request(bytes(50_000)))
        sizes = []
        while not (frame := await peer.next(frames.DATA, frames.HEADERS)).flags & frames.END_STREAM:
            if frame.kind == frames.DATA:
                sizes.append(len(frame.payload))
        assert sizes[:2] == [20_000, 20_000]
        assert sum(sizes) == len(request(bytes(50_000)))


async def read_until_blocked(peer: Peer) -> int:
    """How much content came before the server had to stop; it answers a ping behind it."""
    peer.send(encode(frames.PING, 0, 0, bytes(8)))
    size = 0
    while (frame := await peer.next(frames.DATA, frames.PING)).kind != frames.PING:
        size += len(frame.payload)
    return size


async def test_the_windows_of_the_peer_are_kept() -> None:
    async with connected(Service().methods()) as (_, peer):
        assert await read_until_blocked(peer) == 0
        peer.send(encode_settings({frames.INITIAL_WINDOW_SIZE: 100}))
        peer.ask(1, f"/{SERVICE}/Echo", request(bytes(100_000)))
        received = 0
        while received < 100:
            received += len((await peer.next(frames.DATA)).payload)
        assert received == 100
        assert await read_until_blocked(peer) == 0
        peer.send(encode_window_update(1, 50))
        assert len((await peer.next(frames.DATA)).payload) == 50
        # A window may become less than nothing.
        peer.send(encode_settings({frames.INITIAL_WINDOW_SIZE: 0}), encode_window_update(1, 99))
        assert await read_until_blocked(peer) == 0
        peer.send(encode_window_update(1, 2))
        assert len((await peer.next(frames.DATA)).payload) == 1
        peer.send(encode_settings({frames.INITIAL_WINDOW_SIZE: 1 << 20}))
        # Now the connection's window is what limits.
        received = 151
        while received < frames.DEFAULT_WINDOW:
            received += len((await peer.next(frames.DATA)).payload)
        assert received == frames.DEFAULT_WINDOW
        assert await read_until_blocked(peer) == 0
        peer.send(encode_window_update(0, 1 << 20))
        while not (frame := await peer.next(frames.DATA, frames.HEADERS)).flags & frames.END_STREAM:
            received += len(frame.payload)
        assert received == len(request(bytes(100_000)))


async def test_a_slow_reader_holds_its_handler_and_nobody_else() -> None:
    service = Service()
    async with connected(service.methods()) as (_, peer):
        peer.send(encode_window_update(0, 1 << 24))
        peer.ask(1, f"/{SERVICE}/Produce", request(bytes(500)))
        assert await read_until_blocked(peer) <= frames.DEFAULT_WINDOW
        await read_until_blocked(peer)
        assert service.produced <= 2
        peer.ask(3, f"/{SERVICE}/Echo", request(b"x"))
        assert (await peer.answer(3)).content == request(b"x")
        assert service.produced <= 2
        peer.send(encode_window_update(1, 1 << 26))
        size = 0
        while service.running:
            size += len((await peer.next(frames.DATA)).payload)
            peer.send(encode_window_update(0, 1 << 16))
        assert service.produced == 500


async def test_a_peer_that_reads_nothing_at_all_holds_its_handler() -> None:
    service = Service()
    async with connected(service.methods()) as (_, peer):
        peer.send(encode_settings({frames.INITIAL_WINDOW_SIZE: 1 << 30}), encode_window_update(0, 1 << 30))
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        peer.ask(1, f"/{SERVICE}/Produce", request(bytes(400)))
        for _ in range(100):
            await asyncio.sleep(0.002)
        held = service.produced
        assert 0 < held < 100
        peer.reader._transport.resume_reading()  # type: ignore[attr-defined]
        assert len((await peer.answer(1)).content) > 400 * 65536


async def test_two_who_have_much_to_send_take_turns() -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.send(encode_settings({frames.INITIAL_WINDOW_SIZE: 1 << 26}))
        for stream in (1, 3):
            peer.ask(stream, f"/{SERVICE}/Produce", request(bytes(30)))
        order = []
        for _ in range(200):
            frame = await peer.next(frames.DATA, frames.HEADERS)
            if frame.flags & frames.END_STREAM:
                break
            order.append(frame.stream)
            peer.send(encode_window_update(0, max(1, len(frame.payload))))
        assert {1, 3} == set(order[: len(order) // 2])


async def test_room_is_granted_as_messages_are_read() -> None:
    service = Service()
    size = STREAM_WINDOW // 4 - 100
    async with connected(service.methods()) as (_, peer):
        peer.send(encode(frames.HEADERS, OPEN, 1, block(fields(f"/{SERVICE}/Hoard"))))
        data = request(bytes(size)) * 4
        peer.send(*(encode(frames.DATA, 0, 1, data[at : at + MAX_FRAME]) for at in range(0, len(data), MAX_FRAME)))
        peer.send(encode(frames.PING, 0, 0, bytes(8)))
        while (frame := await peer.next(frames.PING, frames.WINDOW_UPDATE)).kind != frames.PING:
            assert frame.stream == 0
        service.release.set()
        while (frame := await peer.next(frames.WINDOW_UPDATE)).stream != 1:
            continue
        assert frame.number >= STREAM_WINDOW // 2
        peer.send(encode(frames.DATA, frames.END_STREAM, 1))
        answer = await peer.answer(1)
        assert BytesValue.FromString(answer.content[5:]).value == f"4 {4 * size}".encode()
