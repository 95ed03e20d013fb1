# SPDX-License-Identifier: Apache-2.0
"""Peers that begin and do not come to an end are hung up on; those that only wait are not."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress

import pytest
from tests.support.ctr import until
from tests.support.http2 import SERVICE, Service, connected, fields, joined, message, request

from orlop_sdk import progress
from orlop_sdk.http2 import flow, frames
from orlop_sdk.http2.frames import ErrorCode, encode
from orlop_sdk.http2.headers import block
from orlop_sdk.http2.server import Server

ECHO = block(fields(f"/{SERVICE}/Echo"))
HELLO = frames.PREFACE + encode(frames.SETTINGS, 0, 0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.2)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        frames.PREFACE[:10],
        frames.PREFACE,
        frames.PREFACE + encode(frames.SETTINGS, 0, 0)[:5],
        HELLO + encode(frames.PING, 0, 0, bytes(8))[:12],
        HELLO + encode(frames.HEADERS, frames.END_STREAM, 1, ECHO[:10]),
        HELLO + encode(frames.HEADERS, frames.END_HEADERS, 1, ECHO) + encode(frames.DATA, 0, 1, request(b"x"))[:-1],
    ],
    ids=[
        "nothing",
        "half a preface",
        "no settings",
        "half a settings",
        "half a ping",
        "half a block",
        "data",
    ],
)
async def test_what_is_not_completed_ends_the_connection(sent: bytes) -> None:
    server = Server(Service().methods())
    async with joined(server) as peer:
        peer.send(sent)
        assert await peer.goaway() == ErrorCode.ENHANCE_YOUR_CALM
        await until(lambda: peer.connection.is_gone)
    await server.close(0)


async def test_dripping_single_bytes_of_one_frame_is_no_progress() -> None:
    server = Server(Service().methods())
    async with joined(server) as peer:
        peer.send(HELLO)
        drip = asyncio.create_task(_drip(peer.writer, encode(frames.DATA, 0, 1, bytes(60000))))
        assert await peer.goaway() == ErrorCode.ENHANCE_YOUR_CALM
        drip.cancel()
    await server.close(0)


async def _drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    # Past the transport: when the server has hung up, that would forget what was received and not yet read.
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as sock, suppress(BrokenPipeError):
        for byte in data:
            sock.send(bytes((byte,)))
            await asyncio.sleep(0.01)


async def test_calls_and_connections_that_wait_may_wait() -> None:
    service = Service()
    async with connected(service.methods()) as (_, peer):
        peer.ask(1, f"/{SERVICE}/Wait", request(b"x"))
        peer.send(encode(frames.HEADERS, frames.END_HEADERS, 3, block(fields(f"/{SERVICE}/Chat"))))
        await until(lambda: service.running == 1)
        await asyncio.sleep(0.6)
        assert await peer.is_alive()
        service.release.set()
        assert (await peer.answer(1)).status == 0


async def test_who_makes_progress_may_take_long() -> None:
    async with connected(Service().methods()) as (_, peer):
        # A byte of each next frame is always there already.
        whole = b"".join(encode(frames.PING, 0, 0, bytes(8)) for _ in range(12))
        peer.send(whole[:1])
        for at in range(1, len(whole), 17):
            peer.send(whole[at : at + 17])
            await asyncio.sleep(0.05)
        assert await peer.is_alive()


async def test_a_peer_is_not_blamed_while_it_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "MAX_BACKLOG", 1 << 16)
    service = Service()
    async with connected(service.methods()) as (_, peer):
        peer.connection._hold(4)
        peer.ask(1, f"/{SERVICE}/Echo", request(b"x"))
        await asyncio.sleep(0.6)
        peer.connection._release(4)
        assert (await peer.answer(1)).content == message(b"\n\x01x")
