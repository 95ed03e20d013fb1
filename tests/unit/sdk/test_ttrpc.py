# SPDX-License-Identifier: Apache-2.0
"""ttrpc: framing, both ends with each other, and what each does about a peer that breaks the rules."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyPb
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop import context, errors
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk import progress
from orlop_sdk.api.ttrpc.ttrpc_pb2 import Request, Response
from orlop_sdk.ttrpc.client import Client
from orlop_sdk.ttrpc.connection import socket_path
from orlop_sdk.ttrpc.frames import (
    DATA,
    HEADER,
    MAX_DATA,
    NO_DATA,
    REMOTE_CLOSED,
    REMOTE_OPEN,
    REQUEST,
    RESPONSE,
    Decoder,
    Frame,
    encode,
)
from orlop_sdk.ttrpc.server import Server

SERVICE = "test.v1.Test"

frames = st.builds(
    Frame,
    stream=st.integers(0, 2**32 - 1),
    kind=st.integers(0, 255),
    flags=st.integers(0, 255),
    data=st.binary(max_size=300),
    dropped=st.just(0),
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 2000), max_size=20))
def test_frames_survive_any_fragmentation(sent: list[Frame], places: list[int]) -> None:
    data = b"".join(encode(frame.stream, frame.kind, frame.flags, frame.data) for frame in sent)
    decoder = Decoder()
    assert [frame for piece in cut(data, places) for frame in decoder.feed(piece)] == sent


@given(st.integers(1, 5000), st.lists(st.integers(0, MAX_DATA + 10_000), max_size=10))
def test_oversized_frame_is_dropped_and_the_next_one_read(excess: int, places: list[int]) -> None:
    size = MAX_DATA + excess
    data = HEADER.pack(size, 3, DATA, 4) + bytes(size) + encode(5, REQUEST, 0, b"next")
    decoder = Decoder()
    received = [frame for piece in cut(data, places) for frame in decoder.feed(piece)]
    assert received == [Frame(3, DATA, 4, b"", size), Frame(5, REQUEST, 0, b"next")]


def test_largest_frame_passes_and_a_larger_one_is_not_made() -> None:
    assert Decoder().feed(encode(1, DATA, 0, bytes(MAX_DATA)))[0].data == bytes(MAX_DATA)
    with pytest.raises(errors.ResourceExhausted):
        encode(1, DATA, 0, bytes(MAX_DATA + 1))


@pytest.mark.parametrize(
    ("address", "path"),
    [("unix:///run/s", "/run/s"), ("/run/s", "/run/s"), ("@name", "\0name"), ("unix://@name", "\0name")],
)
def test_addresses(address: str, path: str) -> None:
    assert socket_path(address) == path


@pytest.mark.parametrize("address", ["", "unix://", "tcp://127.0.0.1:1", "vsock://3:1"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        socket_path(address)


class Backend:
    """One method of each kind."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.release = asyncio.Event()

    def methods(self) -> dict[str, RpcMethod]:
        table: dict[str, tuple[Callable[..., Any], bool, bool]] = {
            "Echo": (self.echo, False, False),
            "Where": (self.where, False, False),
            "Big": (self.big, False, False),
            "Hang": (self.hang, False, False),
            "Fail": (self.fail, False, False),
            "Count": (self.count, False, True),
            "Join": (self.join, True, False),
            "Chat": (self.chat, True, True),
        }
        return {f"/{SERVICE}/{name}": RpcMethod(row[0], AnyPb, AnyPb, row[1], row[2]) for name, row in table.items()}

    async def echo(self, request: AnyPb) -> AnyPb:
        return request

    async def where(self, _request: AnyPb) -> AnyPb:
        return AnyPb(type_url=context.namespace())

    async def big(self, request: AnyPb) -> AnyPb:
        return AnyPb(value=bytes(int(request.type_url)))

    async def hang(self, _request: AnyPb) -> AnyPb:
        self.started.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return AnyPb(type_url="released")

    async def fail(self, request: AnyPb) -> AnyPb:
        raise errors.from_code(int(request.type_url), "as asked")

    async def count(self, request: AnyPb) -> AsyncIterator[AnyPb]:
        for number in range(int(request.type_url)):
            yield AnyPb(type_url=str(number), value=request.value)

    async def join(self, requests: AsyncIterator[AnyPb]) -> AnyPb:
        return AnyPb(value=b"".join([request.value async for request in requests]))

    async def chat(self, requests: AsyncIterator[AnyPb]) -> AsyncIterator[AnyPb]:
        async for request in requests:
            yield request


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
async def server(backend: Backend, tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(backend.methods())
    await server.listen(f"unix://{tmp_path}/s")
    yield server
    await server.close(grace=0.1)


@pytest.fixture
async def client(server: Server, tmp_path: Path) -> AsyncIterator[Client]:
    async with await Client.connect(f"unix://{tmp_path}/s") as client:
        yield client


def bound(client: Client, kind: str, method: str) -> Callable[..., Any]:
    make: Callable[..., Callable[..., Any]] = getattr(client, kind)
    return make(f"/{SERVICE}/{method}", AnyPb.SerializeToString, AnyPb.FromString)


async def some(*messages: AnyPb) -> AsyncIterator[AnyPb]:
    for message in messages:
        yield message


class Peer:
    """A raw end of a connection, for what no client of ours would do."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, stream: int, kind: int, flags: int = 0, data: bytes = b"") -> None:
        self.writer.write(encode(stream, kind, flags, data))

    def request(self, stream: int, method: str, message: AnyPb, flags: int = 0, service: str = SERVICE) -> None:
        payload = message.SerializeToString()
        self.send(stream, REQUEST, flags, Request(service=service, method=method, payload=payload).SerializeToString())

    async def frame(self) -> Frame:
        length, stream, kind, flags = HEADER.unpack(await asyncio.wait_for(self.reader.readexactly(HEADER.size), 10))
        return Frame(stream, kind, flags, await self.reader.readexactly(length))

    async def status(self) -> tuple[int, int, str]:
        frame = await self.frame()
        assert frame.kind == RESPONSE
        status = Response.FromString(frame.data).status
        return frame.stream, status.code, status.message


@pytest.fixture
async def peer(server: Server, tmp_path: Path) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
    yield Peer(reader, writer)
    writer.close()
    await writer.wait_closed()


# ---- the four kinds of calls -----------------------------------------------------------------------------------------


async def test_many_calls_share_a_connection(client: Client) -> None:
    echo = bound(client, "unary_unary", "Echo")
    answers = await asyncio.gather(*(echo(AnyPb(type_url=str(number))) for number in range(200)))
    assert [answer.type_url for answer in answers] == [str(number) for number in range(200)]


async def test_answers_come_in_any_order(client: Client, backend: Backend) -> None:
    slow = asyncio.create_task(bound(client, "unary_unary", "Hang")(AnyPb()))
    assert (await bound(client, "unary_unary", "Echo")(AnyPb(type_url="quick"))).type_url == "quick"
    backend.release.set()
    assert (await slow).type_url == "released"


async def test_server_streams(client: Client) -> None:
    stream = bound(client, "unary_stream", "Count")(AnyPb(type_url="500"))
    assert [answer.type_url async for answer in stream] == [str(number) for number in range(500)]


async def test_server_stream_without_messages_just_ends(client: Client) -> None:
    assert [answer async for answer in bound(client, "unary_stream", "Count")(AnyPb(type_url="0"))] == []


async def test_client_streams(client: Client) -> None:
    joined = await bound(client, "stream_unary", "Join")(some(AnyPb(value=b"a"), AnyPb(), AnyPb(value=b"b")))
    assert joined.value == b"ab"


async def test_both_stream(client: Client) -> None:
    sent = [AnyPb(), AnyPb(value=b"x" * 100_000), AnyPb(type_url="last")]
    assert [answer async for answer in bound(client, "stream_stream", "Chat")(some(*sent))] == sent


async def test_streams_larger_than_every_buffer_pass(client: Client) -> None:
    stream = bound(client, "unary_stream", "Count")(AnyPb(type_url="64", value=bytes(1 << 20)))
    await asyncio.sleep(0.2)  # let buffers fill before anyone reads
    assert sum([len(answer.value) async for answer in stream]) == 64 << 20


async def test_namespace_travels_under_its_ttrpc_name(client: Client) -> None:
    where = bound(client, "unary_unary", "Where")
    assert (await where(AnyPb(), metadata=[("containerd-namespace", "n1")])).type_url == "n1"
    with pytest.raises(errors.FailedPrecondition, match="namespace is required"):
        await where(AnyPb())


# ---- limits, deadlines, ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(errors.CODES))
async def test_every_status_arrives(client: Client, code: int) -> None:
    with pytest.raises(errors.CODES[code], match="^as asked$"):
        await bound(client, "unary_unary", "Fail")(AnyPb(type_url=str(code)))


async def test_too_large_a_request_fails_here_and_harms_nobody(client: Client) -> None:
    echo = bound(client, "unary_unary", "Echo")
    with pytest.raises(errors.ResourceExhausted):
        await echo(AnyPb(value=bytes(MAX_DATA)))
    assert (await echo(AnyPb(type_url="next"))).type_url == "next"


async def test_too_large_a_response_is_a_status(client: Client) -> None:
    big = bound(client, "unary_unary", "Big")
    with pytest.raises(errors.ResourceExhausted):
        await big(AnyPb(type_url=str(MAX_DATA)))
    assert len((await big(AnyPb(type_url=str(MAX_DATA - 100)))).value) == MAX_DATA - 100


async def test_too_large_a_message_ends_both_streams(client: Client) -> None:
    with pytest.raises(errors.ResourceExhausted):
        await anext(bound(client, "stream_stream", "Chat")(some(AnyPb(value=bytes(MAX_DATA)))))


async def test_deadline_ends_the_call_on_both_sides(client: Client, backend: Backend) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        await bound(client, "unary_unary", "Hang")(AnyPb(), timeout=0.05)
    await asyncio.wait_for(backend.cancelled.wait(), 10)


async def test_failing_requests_fail_the_call(client: Client) -> None:
    async def broken() -> AsyncIterator[AnyPb]:
        yield AnyPb()
        raise ValueError("no more paper")

    with pytest.raises(errors.Internal, match="ValueError: no more paper"):
        await bound(client, "stream_unary", "Join")(broken())


async def test_lost_connection_fails_calls_and_cancels_handlers(
    server: Server, backend: Backend, tmp_path: Path
) -> None:
    closed: list[bool] = []
    client = await Client.connect(str(tmp_path / "s"), on_close=lambda: closed.append(True))
    hanging = asyncio.create_task(bound(client, "unary_unary", "Hang")(AnyPb()))
    await backend.started.wait()
    await client.close()
    with pytest.raises(errors.Unavailable):
        await hanging
    with pytest.raises(errors.Unavailable):
        await bound(client, "unary_unary", "Echo")(AnyPb())
    await asyncio.wait_for(backend.cancelled.wait(), 10)
    await client.close()
    assert closed == [True]
    assert not client.is_open


async def test_shutdown_lets_calls_end(server: Server, client: Client, backend: Backend, tmp_path: Path) -> None:
    hanging = asyncio.create_task(bound(client, "unary_unary", "Hang")(AnyPb()))
    await backend.started.wait()
    closing = asyncio.create_task(server.close(grace=10))
    await asyncio.sleep(0.05)
    with pytest.raises(errors.Unavailable, match="shutting down"):
        await bound(client, "unary_unary", "Echo")(AnyPb())
    backend.release.set()
    assert (await hanging).type_url == "released"
    await closing
    assert not (tmp_path / "s").exists()
    with pytest.raises(errors.Unavailable):
        await Client.connect(str(tmp_path / "s"))


async def test_shutdown_cancels_what_does_not_end(server: Server, client: Client, backend: Backend) -> None:
    hanging = asyncio.create_task(bound(client, "unary_unary", "Hang")(AnyPb()))
    await backend.started.wait()
    await server.close(grace=0.01)
    with pytest.raises(errors.Unavailable):
        await hanging
    assert backend.cancelled.is_set()


async def test_client_that_leaves_at_once_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    # The request and the end of the connection reach the server together, before the handler has begun.
    _, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
    message = Request(service=SERVICE, method="Hang").SerializeToString()
    writer.write(encode(1, REQUEST, 0, message))
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(10):
        await server.close(grace=1)


async def test_abstract_address(backend: Backend) -> None:
    address = f"@orlop-test-{os.getpid()}-{os.urandom(4).hex()}"
    server = Server(backend.methods(), same_user=True)
    await server.listen(address)
    async with await Client.connect(address) as client:
        assert (await bound(client, "unary_unary", "Echo")(AnyPb(type_url="a"))).type_url == "a"
    await server.close()


async def test_another_user_is_refused(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(backend.methods(), same_user=True)
    await server.listen(str(tmp_path / "s"))
    another = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: another)
    async with await Client.connect(str(tmp_path / "s")) as client:
        with pytest.raises(errors.Unavailable):
            await bound(client, "unary_unary", "Echo")(AnyPb())
    await server.close()


async def test_stale_socket_file_is_replaced_but_no_other_file(backend: Backend, tmp_path: Path) -> None:
    for _ in range(2):
        server = Server(backend.methods())
        await server.listen(str(tmp_path / "s"), mode=0o600)
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600
        for listener in server._listeners:
            listener.close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(errors.Unavailable, match="file"):
        await Server({}).listen(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "precious"


# ---- a peer that breaks the rules ------------------------------------------------------------------------------------


async def test_unknown_service_and_method(peer: Peer) -> None:
    peer.request(1, "Echo", AnyPb(), service="no.Such")
    assert await peer.status() == (1, errors.Unimplemented.code, "service no.Such")
    peer.request(3, "Nothing", AnyPb())
    assert await peer.status() == (3, errors.Unimplemented.code, "method Nothing")


async def test_stream_numbers_must_be_odd_and_increase(peer: Peer) -> None:
    peer.request(2, "Echo", AnyPb())
    assert (await peer.status())[:2] == (2, errors.InvalidArgument.code)
    for stream in (5, 5, 3):
        peer.request(stream, "Echo", AnyPb())
    answers = {(await peer.status())[:2] for _ in range(3)}
    assert answers == {(5, 0), (5, errors.InvalidArgument.code), (3, errors.InvalidArgument.code)}


async def test_malformed_request_and_malformed_payload(peer: Peer) -> None:
    peer.send(1, REQUEST, 0, b"\xff\xff")
    assert (await peer.status())[:2] == (1, errors.InvalidArgument.code)
    payload = Request(service=SERVICE, method="Echo", payload=b"\xff\xff").SerializeToString()
    peer.send(3, REQUEST, 0, payload)
    assert (await peer.status())[:2] == (3, errors.InvalidArgument.code)


async def test_oversized_frame_is_refused_and_the_connection_lives(peer: Peer) -> None:
    peer.writer.write(HEADER.pack(MAX_DATA + 1, 1, REQUEST, 0) + bytes(MAX_DATA + 1))
    assert (await peer.status())[:2] == (1, errors.ResourceExhausted.code)
    peer.request(3, "Echo", AnyPb(type_url="a"))
    assert (await peer.status())[:2] == (3, 0)


async def test_unknown_kinds_are_ignored(peer: Peer) -> None:
    peer.send(1, 77, 0, b"?")
    peer.request(1, "Echo", AnyPb())
    assert (await peer.status())[:2] == (1, 0)


async def test_data_before_its_request_is_refused(peer: Peer) -> None:
    peer.send(1, DATA, 0, b"")
    assert (await peer.status())[:2] == (1, errors.InvalidArgument.code)


async def test_data_after_the_end_of_its_call_is_ignored(peer: Peer) -> None:
    peer.request(1, "Echo", AnyPb())
    assert (await peer.status())[:2] == (1, 0)
    peer.send(1, DATA, 0, b"late")
    peer.request(3, "Echo", AnyPb())
    assert (await peer.status())[:2] == (3, 0)


async def test_closing_frame_with_data_is_refused(peer: Peer) -> None:
    peer.request(1, "Join", AnyPb(), REMOTE_OPEN)
    peer.send(1, DATA, REMOTE_CLOSED, AnyPb(value=b"a").SerializeToString())
    assert (await peer.status())[:2] == (1, errors.InvalidArgument.code)


@pytest.mark.parametrize(
    "sent", [b"\0", encode(1, REQUEST, 0, b"x" * 9)[:-1], HEADER.pack(MAX_DATA + 9, 1, REQUEST, 0)]
)
async def test_a_frame_that_is_not_completed_ends_the_connection(
    peer: Peer, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.2)
    peer.writer.write(sent)
    answers = await asyncio.wait_for(peer.reader.read(), 10)
    assert len(answers) < 200


async def test_a_connection_that_waits_may_wait(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.1)
    peer.request(1, "Echo", AnyPb())
    assert (await peer.status())[1] == 0
    await asyncio.sleep(0.4)
    peer.request(3, "Echo", AnyPb())
    assert (await peer.status())[1] == 0


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.builds(
            encode,
            st.one_of(st.integers(0, 9), st.just(2**32 - 1)),
            st.integers(0, 5),
            st.integers(0, 255),
            st.one_of(
                st.binary(max_size=40),
                st.sampled_from(("Echo", "Chat", "None")).map(
                    lambda name: Request(service=SERVICE, method=name, payload=b"", timeout_nano=-5).SerializeToString()
                ),
            ),
        ),
        max_size=10,
    ),
    st.binary(max_size=12),
)
def test_any_frames_break_nothing(sent: list[bytes], rest: bytes) -> None:
    asyncio.run(_attack(b"".join(sent) + rest))


async def _attack(sent: bytes) -> None:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    backend = Backend()
    server = Server(backend.methods())
    ours, theirs = socket.socketpair()
    made: Any = await asyncio.get_running_loop().connect_accepted_socket(server.protocol, theirs)
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        writer.write(sent)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.transport.abort()
        made[0].abort()
    await server.close(0)
    assert failures == []


async def test_frames_of_a_stream_are_those_of_the_protocol(peer: Peer) -> None:
    peer.request(1, "Chat", AnyPb(), REMOTE_OPEN)
    first = AnyPb(type_url="a").SerializeToString()
    peer.send(1, DATA, 0, first)
    assert await peer.frame() == Frame(1, DATA, 0, first)
    peer.send(1, DATA, 0, b"")
    assert await peer.frame() == Frame(1, DATA, 0, b"")
    peer.send(1, DATA, REMOTE_CLOSED | NO_DATA)
    assert await peer.frame() == Frame(1, DATA, REMOTE_CLOSED | NO_DATA, b"")


async def test_response_a_message_cannot_be_made_of(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(HEADER.size)
        writer.write(encode(1, RESPONSE, 0, b"\xff\xff") + HEADER.pack(MAX_DATA + 1, 3, RESPONSE, 0))
        writer.write(bytes(MAX_DATA + 1) + encode(5, RESPONSE, 0, Response(payload=b"\xff").SerializeToString()))
        await reader.read()
        writer.close()

    listener = await asyncio.start_unix_server(answer, tmp_path / "s")
    client = await Client.connect(str(tmp_path / "s"))
    echo = bound(client, "unary_unary", "Echo")
    answers = await asyncio.gather(*(echo(AnyPb()) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in answers] == [errors.Internal, errors.ResourceExhausted, errors.Internal]
    await client.close()
    listener.close()


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(errors.Unavailable, match=str(tmp_path)):
        await Client.connect(f"unix://{tmp_path}/nobody")


async def test_empty_messages_are_messages(client: Client) -> None:
    assert await bound(client, "unary_unary", "Echo")(AnyPb()) == AnyPb()


def test_both_ends_run_on_uvloop(short_tmp: Path) -> None:
    # Its transports are no subclasses of asyncio's, and the daemon runs on it.
    uvloop = pytest.importorskip("uvloop", reason="needs uvloop; install the services room")

    async def calls() -> int:
        server = Server(Backend().methods(), same_user=True)
        await server.listen(str(short_tmp / "s"))
        async with await Client.connect(str(short_tmp / "s")) as client:
            assert (await bound(client, "unary_unary", "Echo")(AnyPb(type_url="a"))).type_url == "a"
            stream = bound(client, "unary_stream", "Count")(AnyPb(type_url="32", value=bytes(1 << 20)))
            await asyncio.sleep(0.1)  # let buffers fill, so that reading and writing pause
            total = sum([len(answer.value) async for answer in stream])
        await server.close()
        return total

    assert uvloop.run(calls()) == 32 << 20
