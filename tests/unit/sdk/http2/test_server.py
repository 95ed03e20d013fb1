# SPDX-License-Identifier: Apache-2.0
"""The server's life, with real clients."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from tests.support.ctr import until
from tests.support.http2 import SERVICE, Service, connected, request

from orlop_sdk.http2 import frames
from orlop_sdk.http2.frames import ErrorCode
from orlop_sdk.http2.server import Server
from orlop_sdk.rpc.grpc_server import message_limits

CODECS = (BytesValue.SerializeToString, BytesValue.FromString)


@asynccontextmanager
async def served(service: Service, path: Path) -> AsyncIterator[str]:
    server = Server(service.methods())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        await server.serve(listener)
        try:
            yield f"unix://{path}"
        finally:
            await server.close(0)


async def test_grpc_aio_calls_every_kind(tmp_path: Path) -> None:
    async def requests() -> AsyncIterator[BytesValue]:
        for size in (0, 1, 100_000, 5_000_000):
            yield BytesValue(value=bytes(size))

    async with served(Service(), tmp_path / "s") as address:
        async with grpc.aio.insecure_channel(address, options=message_limits()) as channel:
            for size in (1, 70_000, 3_000_000, 16_000_000):
                echo = await channel.unary_unary(f"/{SERVICE}/Echo", *CODECS)(BytesValue(value=b"x" * size))
                assert echo.value == b"x" * size
            produced = channel.unary_stream(f"/{SERVICE}/Produce", *CODECS)(BytesValue(value=bytes(300)))
            assert sum([len(each.value) async for each in produced]) == 300 * 65536
            collected = await channel.stream_unary(f"/{SERVICE}/Collect", *CODECS)(requests())
            assert collected.value == b"4 5100001"
            chat = channel.stream_stream(f"/{SERVICE}/Chat", *CODECS)(requests())
            assert [len(each.value) async for each in chat] == [0, 1, 100_000, 5_000_000]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/{SERVICE}/Fail", *CODECS)(BytesValue(value="grün %".encode()))
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "grün %")


async def test_clients_of_grpc_may_compress(tmp_path: Path) -> None:
    async with served(Service(), tmp_path / "s") as address:
        async with grpc.aio.insecure_channel(address, compression=grpc.Compression.Gzip) as channel:
            echo = await channel.unary_unary(f"/{SERVICE}/Echo", *CODECS)(BytesValue(value=b"x" * 100_000))
            assert echo.value == b"x" * 100_000
        async with grpc.aio.insecure_channel(address, compression=grpc.Compression.Deflate) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/{SERVICE}/Echo", *CODECS)(BytesValue(value=b"x" * 100_000))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_blocking_client_of_grpc(tmp_path: Path) -> None:
    def call(address: str) -> bytes:
        with grpc.insecure_channel(address) as channel:
            answers = []
            for number in range(50):
                request = BytesValue(value=bytes((number,)))
                answer = channel.unary_unary(f"/{SERVICE}/Echo", *CODECS)(
                    request, timeout=20, metadata=(("x", str(number)), ("y-bin", bytes((number,))))
                )
                answers.append(answer.value)
            return b"".join(answers)

    async with served(Service(), tmp_path / "s") as address:
        assert await asyncio.to_thread(call, address) == bytes(range(50))


async def test_thousands_of_calls_wait_without_a_thread_each(tmp_path: Path) -> None:
    service = Service()
    async with served(service, tmp_path / "s") as address, grpc.aio.insecure_channel(address) as channel:
        wait = channel.unary_unary(f"/{SERVICE}/Wait", *CODECS)
        threads = threading.active_count()
        calls = [asyncio.ensure_future(wait(BytesValue(value=b"%d" % number))) for number in range(3000)]
        await until(lambda: service.running == 3000)
        assert threading.active_count() <= threads + 2
        echo = await channel.unary_unary(f"/{SERVICE}/Echo", *CODECS)(BytesValue(value=b"x"))
        assert echo.value == b"x"
        service.release.set()
        assert [each.value for each in await asyncio.gather(*calls)] == [b"%d" % number for number in range(3000)]


async def test_closing_lets_calls_end() -> None:
    service = Service()
    async with connected(service.methods()) as (server, peer):
        peer.ask(1, f"/{SERVICE}/Wait", request(b"x"))
        assert await peer.is_alive()
        closing = asyncio.create_task(server.close(20))
        goaway = await peer.next(frames.GOAWAY)
        assert (goaway.number, goaway.payload[4:8]) == (1, bytes(4))
        # What comes after that is nobody's.
        peer.ask(3, f"/{SERVICE}/Echo", request(b"late"))
        assert await peer.is_alive()
        service.release.set()
        answer = await peer.answer(1)
        assert (answer.content, answer.status) == (request(b"x"), 0)
        await closing
        await server.close()


async def test_closing_cancels_calls_that_do_not_end() -> None:
    service = Service()
    async with connected(service.methods()) as (server, peer):
        for stream, method in ((1, "Wait"), (3, "Chat")):
            peer.ask(stream, f"/{SERVICE}/{method}", request(b"x"), end=method != "Chat")
        assert await peer.is_alive()
        closing = asyncio.create_task(server.close(0.01))
        assert (await peer.answer(1)).status == grpc.StatusCode.UNAVAILABLE.value[0]
        await closing
        assert service.cancelled == 1


async def test_an_idle_connection_is_closed_at_once() -> None:
    async with connected({}) as (server, peer):
        assert await peer.is_alive()
        closing = asyncio.create_task(server.close(20))
        assert await peer.goaway() == ErrorCode.NO_ERROR
        await closing


async def test_closing_does_not_wait_for_a_peer_that_does_not_read() -> None:
    service = Service()
    async with connected(service.methods()) as (server, peer):
        peer.send(frames.encode_settings({frames.INITIAL_WINDOW_SIZE: 1 << 30}))
        peer.send(frames.encode_window_update(0, 1 << 30))
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        peer.ask(1, f"/{SERVICE}/Produce", request(bytes(500)))
        async with asyncio.timeout(20):
            await until(lambda: service.produced > 0)
            await server.close(0.01)
        assert service.running == 0
