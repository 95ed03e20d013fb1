# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from orlop.errors import Unavailable
from orlop_telemetry import http
from orlop_telemetry.http import Page, PageServer, Query

TIMEOUT = 20.0


async def hello(query: Query) -> Page:
    return Page(f"hello {query.get('name', 'you')}\n".encode())


async def broken(_query: Query) -> Page:
    raise ValueError("secret")


@asynccontextmanager
async def server(patience: float = http.PATIENCE) -> AsyncIterator[int]:
    pages = PageServer({"/hello": hello, "/broken": broken}, patience=patience)
    address = await pages.listen("127.0.0.1:0")
    try:
        yield int(address.rpartition(":")[2])
    finally:
        await pages.close()


async def ask(port: int, sent: bytes, *, end: bool = False) -> bytes:
    """Everything that is answered until the server hangs up."""
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(sent)
            if end:
                writer.write_eof()
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.transport.abort()


async def test_a_page_is_answered_and_the_connection_closed() -> None:
    async with server() as port:
        answer = await ask(port, b"GET /hello?name=w HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\nhello w\n")


async def test_head_has_no_content() -> None:
    async with server() as port:
        answer = await ask(port, b"HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"content-length: 10" in answer
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n", b"500"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /hello HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (2 * http.MAX_HEAD) + b"\r\n\r\n", b"431"),
    ],
)
async def test_other_requests_get_a_status(sent: bytes, status: bytes) -> None:
    async with server() as port:
        answer = await ask(port, sent)
    assert answer.split(b" ")[1] == status
    assert b"secret" not in answer
    assert b"Traceback" not in answer


@pytest.mark.parametrize("sent", [b"", b"GET /h"])
async def test_a_peer_that_does_not_come_to_an_end_is_hung_up_on(sent: bytes) -> None:
    async with server(patience=0.1) as port:
        assert await ask(port, sent) == b""
        assert b"hello you" in await ask(port, b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_a_peer_that_hangs_up_is_no_trouble() -> None:
    async with server() as port:
        assert (await ask(port, b"GET /h", end=True)).startswith(b"HTTP/1.1 400")
        assert b"hello you" in await ask(port, b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_connections_beyond_the_most_are_closed_at_once() -> None:
    async with server() as port, asyncio.timeout(TIMEOUT):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(http.MOST)]
        # The last one of them may not have been accepted yet.
        await asyncio.sleep(0.1)
        assert await ask(port, b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n") == b""
        for _, writer in held:
            writer.transport.abort()


@pytest.mark.parametrize("address", ["", "nowhere", "127.0.0.1:", "127.0.0.1:99999999", "256.0.0.1:80"])
async def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(Unavailable, match=f'address "{address}"'):
        await PageServer({}).listen(address)
