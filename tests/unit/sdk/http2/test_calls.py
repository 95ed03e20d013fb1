# SPDX-License-Identifier: Apache-2.0
"""gRPC's side of it: heads, messages, statuses, deadlines."""

from __future__ import annotations

import base64
import gzip
from urllib.parse import unquote

import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from tests.support.ctr import until
from tests.support.http2 import SERVICE, Service, connected, fields, message, request

from orlop import errors
from orlop_sdk.http2 import frames
from orlop_sdk.http2.calls import Limits
from orlop_sdk.http2.flow import MAX_PARTIAL
from orlop_sdk.http2.frames import ErrorCode, encode, encode_reset
from orlop_sdk.http2.headers import block

ECHO = f"/{SERVICE}/Echo"
WAIT = f"/{SERVICE}/Wait"


def value(content: bytes) -> bytes:
    """What the one message in *content* carries."""
    assert int.from_bytes(content[1:5], "big") == len(content) - 5
    return BytesValue.FromString(content[5:]).value


async def test_an_answer_has_head_message_and_status() -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.ask(1, ECHO, request(b"hello"))
        answer = await peer.answer(1)
    assert answer.head == {":status": "200", "content-type": "application/grpc"}
    assert value(answer.content) == b"hello"
    assert (answer.trailers, answer.reset) == ({"grpc-status": "0"}, None)


@pytest.mark.parametrize(
    ("more", "seen"),
    [
        ((), b"None None"),
        ((("containerd-namespace", "n"), ("containerd-lease", "l")), b"n l"),
        ((("containerd-namespace-ttrpc", "t"), ("x-bin", base64.b64encode(b"\0\xff").decode().rstrip("="))), b"t None"),
    ],
)
async def test_metadata_name_the_scope(more: tuple[tuple[str, str], ...], seen: bytes) -> None:
    async with connected(Service().methods()) as (_, peer):
        for stream in (1, 3):
            peer.ask(stream, ECHO, request(b""), *more)
            assert value((await peer.answer(stream)).content) == seen


@pytest.mark.parametrize("text", ['image "x": not found', "50 % größer\r\n", "", "x" * 5000])
async def test_an_error_is_a_status_and_nothing_else(text: str) -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.ask(1, f"/{SERVICE}/Fail", request(text.encode()))
        answer = await peer.answer(1)
    assert (answer.head[":status"], answer.content, answer.trailers) == ("200", b"", {})
    assert answer.status == errors.NotFound.code
    assert answer.text.isprintable()
    assert answer.text.isascii()
    assert unquote(answer.text) == (text if len(text) < 5000 else f"{'x' * 2048}... (5000 characters)")


@pytest.mark.parametrize(
    ("more", "status", "text"),
    [
        ((("grpc-timeout", "soon"),), errors.Internal.code, "grpc-timeout"),
        ((("grpc-timeout", "123456789S"),), errors.Internal.code, "grpc-timeout"),
        ((("grpc-encoding", "snappy"),), errors.Unimplemented.code, "snappy"),
        ((("x-bin", "?"),), errors.Internal.code, "x-bin"),
        (((":path", "/a.B/C"),), errors.Unimplemented.code, "unknown service a.B"),
        (((":path", f"/{SERVICE}/C"),), errors.Unimplemented.code, f"unknown method C for service {SERVICE}"),
        (((":path", "nonsense"),), errors.Unimplemented.code, "unknown service"),
    ],
)
async def test_requests_that_cannot_be_served_get_a_status(
    more: tuple[tuple[str, str], ...], status: int, text: str
) -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.ask(1, ECHO, request(b"x"), *more)
        answer = await peer.answer(1)
        assert answer.status == status
        assert text in answer.text
        assert ("grpc-accept-encoding" in answer.head) == ("grpc-encoding" in dict(more))


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ((":method", "GET"), "405"),
        (("content-type", "text/html"), "415"),
        (("content-type", "application/grpcx"), "415"),
    ],
)
async def test_who_does_not_speak_grpc_gets_an_http_status(more: tuple[str, str], status: str) -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.ask(1, ECHO, b"", more)
        assert (await peer.answer(1)).head[":status"] == status
        assert await peer.is_alive()


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc;charset=x"])
async def test_content_types_of_grpc(kind: str) -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.ask(1, ECHO, request(b"x"), ("content-type", kind))
        assert (await peer.answer(1)).status == 0


async def test_a_message_may_come_in_any_pieces() -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.send(encode(frames.HEADERS, frames.END_HEADERS, 1, block(fields(ECHO))))
        data = request(b"piecemeal")
        for at in range(len(data)):
            peer.send(encode(frames.DATA, 0, 1, data[at : at + 1]))
        peer.send(encode(frames.DATA, frames.END_STREAM, 1))
        assert value((await peer.answer(1)).content) == b"piecemeal"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", errors.Internal.code),
        (b"\0\0", errors.Internal.code),
        (request(b"x")[:-1], errors.Internal.code),
        (request(b"x") * 2, errors.Unimplemented.code),
        (message(b"\xff\xff"), errors.InvalidArgument.code),
        (message(b"", flag=2), errors.Internal.code),
        (message(b"", flag=1), errors.Internal.code),
    ],
)
async def test_content_that_is_not_one_request_gets_a_status(content: bytes, status: int) -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.ask(1, ECHO, content)
        assert (await peer.answer(1)).status == status


async def test_gzip_requests_are_read() -> None:
    async with connected(Service().methods()) as (_, peer):
        packed = gzip.compress(request(b"x" * 1000)[5:])
        peer.ask(1, ECHO, message(packed, flag=1), ("grpc-encoding", "gzip"))
        assert value((await peer.answer(1)).content) == b"x" * 1000
        peer.ask(3, ECHO, request(b"plain"), ("grpc-encoding", "gzip"))
        assert value((await peer.answer(3)).content) == b"plain"


@pytest.mark.parametrize(
    ("packed", "status"),
    [
        (b"no gzip", errors.InvalidArgument.code),
        (gzip.compress(b"\x0a\x00" * 9)[:-9], errors.InvalidArgument.code),
        (gzip.compress(bytes(3000)), errors.ResourceExhausted.code),
    ],
)
async def test_bad_gzip_gets_a_status(packed: bytes, status: int) -> None:
    async with connected(Service().methods(), Limits(receive=2000)) as (_, peer):
        peer.ask(1, ECHO, message(packed, flag=1), ("grpc-encoding", "gzip"))
        assert (await peer.answer(1)).status == status


async def test_messages_have_limits_both_ways() -> None:
    async with connected(Service().methods(), Limits(receive=1000, send=500)) as (_, peer):
        peer.ask(1, ECHO, message(bytes(1001)))
        received = await peer.answer(1)
        peer.ask(3, ECHO, (1001).to_bytes(5, "big"), end=False)
        announced = await peer.answer(3)
        peer.ask(5, ECHO, request(bytes(600)))
        sent = await peer.answer(5)
        peer.ask(7, f"/{SERVICE}/Produce", request(bytes(1)))
        streamed = await peer.answer(7)
    assert [each.status for each in (received, announced, sent, streamed)] == [errors.ResourceExhausted.code] * 4
    assert received.text == "message of 1001 bytes: the most is 1000"


async def test_a_connection_holds_only_so_many_bytes_of_unfinished_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_PARTIAL > 16 << 20
    monkeypatch.setattr("orlop_sdk.http2.flow.MAX_PARTIAL", 300_000)
    async with connected(Service().methods()) as (_, peer):
        for stream in (1, 3, 5):
            peer.ask(stream, ECHO, message(bytes(1 << 20))[:140_000], end=False)
        assert (await peer.answer(5)).status == errors.ResourceExhausted.code
        peer.send(encode_reset(1, ErrorCode.CANCEL), encode_reset(3, ErrorCode.CANCEL))
        peer.ask(7, ECHO, request(bytes(200_000)))
        assert len(value((await peer.answer(7)).content)) == 200_000


async def test_all_kinds_of_streaming() -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.ask(1, f"/{SERVICE}/Produce", request(bytes(3)))
        produced = await peer.answer(1)
        peer.ask(3, f"/{SERVICE}/Collect", request(b"a") + request(b"bc"))
        collected = await peer.answer(3)
        peer.ask(5, f"/{SERVICE}/Chat", request(b"a") + request(b"bc"))
        chatted = await peer.answer(5)
        peer.ask(7, f"/{SERVICE}/Produce", request(b""))
        nothing = await peer.answer(7)
    assert produced.content == request(bytes(65536)) * 3
    assert value(collected.content) == b"2 3"
    assert chatted.content == request(b"a") + request(b"bc")
    assert [each.trailers for each in (produced, collected, chatted)] == [{"grpc-status": "0"}] * 3
    assert (nothing.content, nothing.status) == (b"", 0)


async def test_requests_reach_a_handler_before_the_last_has_come() -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.ask(1, f"/{SERVICE}/Chat", request(b"a"), end=False)
        assert (await peer.next(frames.DATA)).payload == request(b"a")
        peer.send(encode(frames.DATA, 0, 1, request(b"b")))
        assert (await peer.next(frames.DATA)).payload == request(b"b")
        peer.send(encode(frames.DATA, frames.END_STREAM, 1))
        assert (await peer.next(frames.HEADERS)).flags & frames.END_STREAM


async def test_a_stream_of_requests_that_breaks_off_is_an_error() -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.ask(1, f"/{SERVICE}/Collect", request(b"a") + request(b"b")[:-1])
        assert (await peer.answer(1)).status == errors.Internal.code


async def test_a_deadline_ends_the_call_and_its_handler() -> None:
    service = Service()
    async with connected(service.methods()) as (_, peer):
        peer.ask(1, WAIT, request(b""), ("grpc-timeout", "30m"))
        assert (await peer.answer(1)).status == errors.DeadlineExceeded.code
        peer.ask(3, WAIT, request(b""), ("grpc-timeout", "0n"))
        assert (await peer.answer(3)).status == errors.DeadlineExceeded.code
        # One whose request never comes.
        peer.ask(5, WAIT, b"", ("grpc-timeout", "30000u"), end=False)
        answer = await peer.answer(5)
        assert answer.status == errors.DeadlineExceeded.code
        assert (await peer.next(frames.RST_STREAM)).number == ErrorCode.NO_ERROR
        assert await peer.is_alive()
    assert service.cancelled == service.started >= 1


@pytest.mark.parametrize("timeout", ["99999999H", "60S", "60000m"])
async def test_a_deadline_that_is_kept_changes_nothing(timeout: str) -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.ask(1, ECHO, request(b"x"), ("grpc-timeout", timeout))
        assert (await peer.answer(1)).status == 0


async def test_a_reset_cancels_the_handler() -> None:
    service = Service()
    async with connected(service.methods()) as (_, peer):
        peer.ask(1, WAIT, request(b""))
        await until(lambda: service.started == 1)
        peer.send(encode_reset(1, ErrorCode.CANCEL))
        assert await peer.is_alive()
        assert await peer.is_alive()
        assert (service.running, service.cancelled) == (0, 1)


async def test_hanging_up_cancels_the_handlers() -> None:
    service = Service()
    async with connected(service.methods()) as (_, peer):
        for stream in range(1, 21, 2):
            peer.ask(stream, WAIT, request(b""))
        await until(lambda: service.started == 10)
    assert (service.running, service.cancelled) == (0, 10)


async def test_an_answer_before_the_end_of_the_requests_tells_the_peer_to_stop() -> None:
    async with connected(Service().methods()) as (_, peer):
        peer.ask(1, "/no.such.Service/Method", b"", end=False)
        assert (await peer.answer(1)).status == errors.Unimplemented.code
        reset = await peer.next(frames.RST_STREAM)
        assert (reset.stream, reset.number) == (1, ErrorCode.NO_ERROR)
