# SPDX-License-Identifier: Apache-2.0
"""A client that speaks HTTP/2 frame by frame, so that tests can break the rules; and a service with a method a kind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import hpack
from google.protobuf.wrappers_pb2 import BytesValue
from tests.support.ctr import until

from orlop import context
from orlop.errors import NotFound
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.http2 import frames
from orlop_sdk.http2.calls import Limits
from orlop_sdk.http2.connection import Connection
from orlop_sdk.http2.headers import Fields, block
from orlop_sdk.http2.server import Server

TIMEOUT = 20.0
SERVICE = "test.v1.Test"


@dataclass(frozen=True)
class Frame:
    """What a server sent."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The error code of a RST_STREAM, or the increment of a WINDOW_UPDATE."""
        return int.from_bytes(self.payload[:4], "big")


@dataclass(frozen=True)
class Answer:
    """All that came for one stream. ``reset`` is the code of a RST_STREAM, if one came."""

    head: dict[str, str]
    content: bytes
    trailers: dict[str, str]
    reset: int | None = None

    @property
    def status(self) -> int:
        """The gRPC status, wherever it stands; -1 without."""
        return int((self.trailers or self.head).get("grpc-status", "-1"))

    @property
    def text(self) -> str:
        """The status text as it was sent."""
        return (self.trailers or self.head).get("grpc-message", "")


def fields(path: str, *more: tuple[str, str]) -> Fields:
    """The fields of a request; *more* replace and add."""
    given: dict[str, str] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    given |= dict(more)
    return list(given.items())


def message(data: bytes, flag: int = 0) -> bytes:
    """A message as gRPC frames it."""
    return bytes((flag,)) + len(data).to_bytes(4, "big") + data


def request(data: bytes) -> bytes:
    """The test service's request with *data*, as gRPC frames it."""
    return message(BytesValue(value=data).SerializeToString())


class Peer:
    """A client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection) -> None:
        self.reader, self.writer = reader, writer
        self.connection = connection
        self._decoder = hpack.Decoder()

    def send(self, *sent: bytes) -> None:
        """Write these frames, without waiting."""
        self.writer.write(b"".join(sent))

    def ask(self, stream: int, path: str, content: bytes = b"", *more: tuple[str, str], end: bool = True) -> None:
        """Send a request: its head and one frame of content."""
        self.send(
            frames.encode(frames.HEADERS, frames.END_HEADERS, stream, block(fields(path, *more))),
            frames.encode(frames.DATA, frames.END_STREAM if end else 0, stream, content),
        )

    async def frame(self) -> Frame:
        """The next frame. Raises IncompleteReadError when the server hangs up."""
        async with asyncio.timeout(TIMEOUT):
            head = await self.reader.readexactly(9)
            payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        return Frame(head[3], head[4], int.from_bytes(head[5:], "big"), payload)

    async def next(self, *kinds: int) -> Frame:
        """The next frame of one of these kinds."""
        while (frame := await self.frame()).kind not in kinds:
            continue
        return frame

    async def answer(self, stream: int) -> Answer:
        """Everything of one stream up to its end, granting the room it needs."""
        blocks: list[dict[str, str]] = []
        content = bytearray()
        while True:
            frame = await self.frame()
            if frame.stream != stream:
                continue
            if frame.kind == frames.HEADERS:
                blocks.append({str(name): str(value) for name, value in self._decoder.decode(frame.payload)})
            elif frame.kind == frames.DATA:
                content += frame.payload
                if frame.payload:
                    self.send(*(frames.encode_window_update(each, len(frame.payload)) for each in (0, stream)))
            reset = frame.number if frame.kind == frames.RST_STREAM else None
            if reset is not None or (frame.flags & frames.END_STREAM and frame.kind in (frames.HEADERS, frames.DATA)):
                head, *rest = blocks or [{}]
                return Answer(head, bytes(content), rest[0] if rest else {}, reset)

    async def goaway(self) -> int:
        """The code of the GOAWAY with which the server hangs up."""
        code = int.from_bytes((await self.next(frames.GOAWAY)).payload[4:8], "big")
        # A reset is how it ends when the server has not read all that was sent to it.
        with suppress(ConnectionResetError):
            async with asyncio.timeout(TIMEOUT):
                await self.reader.read()
        return code

    async def is_alive(self) -> bool:
        """Whether the server still answers."""
        self.send(frames.encode(frames.PING, 0, 0, b"are you?"))
        try:
            while (frame := await self.next(frames.PING)).payload != b"are you?":
                continue
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        return frame.flags == frames.ACK


class Service:
    """A method of each kind, and what became of its handlers."""

    def __init__(self) -> None:
        self.started = 0
        self.running = 0
        self.cancelled = 0
        self.release = asyncio.Event()
        self.produced = 0

    def methods(self) -> dict[str, RpcMethod]:
        """The table: Echo, Fail, Wait; Produce; Collect; Chat."""
        kinds: dict[str, tuple[Callable[..., Any], bool, bool]] = {
            "Echo": (self.echo, False, False),
            "Fail": (self.fail, False, False),
            "Wait": (self.wait, False, False),
            "Produce": (self.produce, False, True),
            "Collect": (self.collect, True, False),
            "Hoard": (self.hoard, True, False),
            "Chat": (self.chat, True, True),
        }
        return {
            f"/{SERVICE}/{name}": RpcMethod(handler, BytesValue, BytesValue, many_in, many_out)
            for name, (handler, many_in, many_out) in kinds.items()
        }

    async def echo(self, given: BytesValue) -> BytesValue:
        """The request, or what `orlop.context` says for an empty one."""
        scope = f"{context.namespace_or_none()} {context.lease()}".encode()
        return BytesValue(value=given.value or scope)

    async def fail(self, given: BytesValue) -> BytesValue:
        """An error with the request as its text."""
        raise NotFound(given.value.decode())

    async def wait(self, given: BytesValue) -> BytesValue:
        """The request, once released."""
        self.started += 1
        self.running += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return given

    async def produce(self, given: BytesValue) -> AsyncIterator[BytesValue]:
        """As many messages of 64 KiB as the request has bytes."""
        self.running += 1
        try:
            for _ in given.value:
                self.produced += 1
                yield BytesValue(value=bytes(65536))
        finally:
            self.running -= 1

    async def collect(self, given: AsyncIterator[BytesValue]) -> BytesValue:
        """How many messages and bytes came."""
        sizes = [len(each.value) async for each in given]
        return BytesValue(value=f"{len(sizes)} {sum(sizes)}".encode())

    async def hoard(self, given: AsyncIterator[BytesValue]) -> BytesValue:
        """The same, but nothing is read before it is released."""
        await self.release.wait()
        return await self.collect(given)

    async def chat(self, given: AsyncIterator[BytesValue]) -> AsyncIterator[BytesValue]:
        """Every message, as it comes."""
        async for each in given:
            yield each


@asynccontextmanager
async def connected(methods: dict[str, RpcMethod], limits: Limits | None = None) -> AsyncIterator[tuple[Server, Peer]]:
    """A server and a peer that has said hello. At the end nothing of the connection may be left."""
    server = Server(methods, limits)
    async with joined(server) as peer:
        peer.send(frames.PREFACE, frames.encode(frames.SETTINGS, 0, 0))
        yield server, peer
    await server.close(0)


@asynccontextmanager
async def joined(server: Server) -> AsyncIterator[Peer]:
    """A peer that has not yet sent anything."""
    ours, theirs = socket.socketpair()
    connection = server.protocol()
    made: Any = await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, theirs)
    reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1 << 24)
    try:
        yield Peer(reader, writer, connection)
    finally:
        writer.transport.abort()
        made[0].abort()
        await until(lambda: connection.is_gone)
