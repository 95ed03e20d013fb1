# SPDX-License-Identifier: Apache-2.0
"""One service behind every channel: in this process, over both gRPC servers and over ttrpc, through the same client."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyPb
from google.protobuf.empty_pb2 import Empty

from orlop import context, errors
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.api.services.content.v1.content_pb2 import ReadContentRequest, ReadContentResponse
from orlop_sdk.api.services.namespaces.v1.namespace_pb2 import (
    DESCRIPTOR,
    GetNamespaceRequest,
    GetNamespaceResponse,
    Namespace,
)
from orlop_sdk.api.services.version.v1.version_pb2 import VersionResponse
from orlop_sdk.http2.server import Server as Http2Server
from orlop_sdk.rpc import descriptors
from orlop_sdk.rpc.edge import MAX_STATUS_TEXT
from orlop_sdk.rpc.grpc_server import TableHandler, message_limits
from orlop_sdk.rpc.local import LocalChannel
from orlop_sdk.rpc.service import Service
from orlop_sdk.rpc.status import from_status, to_status
from orlop_sdk.rpc.stub import Stub
from orlop_sdk.ttrpc.client import Client
from orlop_sdk.ttrpc.server import Server

Methods = dict[str, RpcMethod]
Connect = Callable[[Methods], AbstractAsyncContextManager[Any]]


class Namespaces(Service):
    service = DESCRIPTOR.services_by_name["Namespaces"]

    async def Get(self, request: GetNamespaceRequest) -> GetNamespaceResponse:
        match request.name:
            case "refused":
                raise errors.NotFound('namespace "refused": not found')
            case "bug":
                raise ZeroDivisionError("it divided by zero")
            case "long":
                raise errors.InvalidArgument("x" * 100_000)
            case "slow":
                await asyncio.sleep(30)
        labels = {"namespace": context.namespace_or_none() or "", "lease": context.lease() or ""}
        request.name = f"seen {request.name}"
        return GetNamespaceResponse(namespace=Namespace(name=request.name, labels=labels))


class Content(Service):
    service = "containerd.services.content.v1.Content"

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def Read(self, request: ReadContentRequest) -> AsyncIterator[ReadContentResponse]:
        try:
            for offset in range(request.offset, request.offset + request.size):
                yield ReadContentResponse(offset=offset, data=(context.namespace_or_none() or "").encode())
            if request.digest == "refused":
                raise errors.OutOfRange("offset 3: past the end")
            if request.digest == "endless":
                await asyncio.sleep(30)
        finally:
            self.ended.set()


class Streaming(Service):
    service = "containerd.services.streaming.v1.Streaming"

    async def Stream(self, requests: AsyncIterator[AnyPb]) -> AsyncIterator[AnyPb]:
        async for request in requests:
            if request.type_url == "refused":
                raise errors.Aborted("no more")
            yield AnyPb(type_url=f"echo {request.type_url}", value=request.value)


@asynccontextmanager
async def local_channel(methods: Methods) -> AsyncIterator[Any]:
    yield LocalChannel(methods)


@asynccontextmanager
async def grpc_channel(methods: Methods, path: Path) -> AsyncIterator[Any]:
    server = grpc.aio.server(options=message_limits())
    server.add_generic_rpc_handlers((TableHandler(methods),))
    server.add_insecure_port(f"unix://{path}")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix://{path}", options=message_limits()) as channel:
            yield channel
    finally:
        await server.stop(None)


@asynccontextmanager
async def http2_channel(methods: Methods, path: Path) -> AsyncIterator[Any]:
    server = Http2Server(methods)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        await server.serve(listener)
        try:
            async with grpc.aio.insecure_channel(f"unix://{path}", options=message_limits()) as channel:
                yield channel
        finally:
            await server.close(0)


@asynccontextmanager
async def ttrpc_channel(methods: Methods, path: Path) -> AsyncIterator[Any]:
    server = Server(methods)
    await server.listen(str(path))
    try:
        async with await Client.connect(str(path)) as client:
            yield client
    finally:
        await server.close()


@pytest.fixture(params=["local", "grpc", "http2", "ttrpc"])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Connect:
    match request.param:
        case "local":
            return local_channel
        case "grpc":
            return lambda methods: grpc_channel(methods, tmp_path / "s")
        case "http2":
            return lambda methods: http2_channel(methods, tmp_path / "s")
        case _:
            return lambda methods: ttrpc_channel(methods, tmp_path / "s")


async def test_call_returns_the_answer(connect: Connect) -> None:
    async with connect(dict(Namespaces().methods())) as channel:
        stub = Stub(channel, "containerd.services.namespaces.v1.Namespaces")
        answer = await stub.Get(GetNamespaceRequest(name="a"), timeout=5)
    assert answer.namespace.name == "seen a"


async def test_request_of_the_caller_stays_as_it_was(connect: Connect) -> None:
    async with connect(dict(Namespaces().methods())) as channel:
        request = GetNamespaceRequest(name="a")
        await Stub(channel, Namespaces.service).Get(request)
    assert request.name == "a"


async def test_namespace_and_lease_travel(connect: Connect) -> None:
    async with connect(dict(Namespaces().methods())) as channel:
        stub = Stub(channel, Namespaces.service)
        with context.scope(namespace="n1", lease="l1"):
            inside = await stub.Get(GetNamespaceRequest())
            explicit = await stub.Get(GetNamespaceRequest(), metadata=[("containerd-namespace", "n2")])
        outside = await stub.Get(GetNamespaceRequest())
    assert inside.namespace.labels == {"namespace": "n1", "lease": "l1"}
    assert explicit.namespace.labels == {"namespace": "n2", "lease": "l1"}
    assert outside.namespace.labels == {"namespace": "", "lease": ""}


async def test_our_errors_arrive_as_raised(connect: Connect) -> None:
    async with connect(dict(Namespaces().methods())) as channel:
        with pytest.raises(errors.NotFound, match='^namespace "refused": not found$'):
            await Stub(channel, Namespaces.service).Get(GetNamespaceRequest(name="refused"))


async def test_bug_of_a_handler_is_logged_and_hidden(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    async with connect(dict(Namespaces().methods())) as channel:
        with pytest.raises(errors.Unknown, match="^it divided by zero$"):
            await Stub(channel, Namespaces.service).Get(GetNamespaceRequest(name="bug"))
    (record,) = (each for each in caplog.records if each.levelno == logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_deadline_is_kept(connect: Connect) -> None:
    async with connect(dict(Namespaces().methods())) as channel:
        with pytest.raises(errors.DeadlineExceeded):
            await Stub(channel, Namespaces.service).Get(GetNamespaceRequest(name="slow"), timeout=0.05)


async def test_missing_method_and_missing_service_are_unimplemented(connect: Connect) -> None:
    async with connect(dict(Namespaces().methods())) as channel:
        with pytest.raises(errors.Unimplemented):
            await Stub(channel, Namespaces.service).Delete(descriptors.message("google.protobuf.Empty")())
        with pytest.raises(errors.Unimplemented):
            await Stub(channel, "containerd.services.version.v1.Version").Version(Empty())
        with pytest.raises(errors.Unimplemented):
            await anext(Stub(channel, "containerd.services.content.v1.Content").Read(ReadContentRequest()))


async def test_table_may_change_while_served(connect: Connect) -> None:
    class Version(Service):
        service = "containerd.services.version.v1.Version"

        async def Version(self, _request: Empty) -> VersionResponse:
            return VersionResponse(version="7")

    methods: Methods = {}
    async with connect(methods) as channel:
        stub = Stub(channel, Version.service)
        with pytest.raises(errors.Unimplemented):
            await stub.Version(Empty())
        methods.update(Version().methods())
        assert (await stub.Version(Empty())).version == "7"
        methods.clear()
        with pytest.raises(errors.Unimplemented):
            await stub.Version(Empty())


async def test_responses_stream_in_order_under_the_namespace(connect: Connect) -> None:
    async with connect(dict(Content().methods())) as channel:
        with context.scope(namespace="n1"):
            stream = Stub(channel, Content.service).Read(ReadContentRequest(offset=5, size=100))
        answers = [(answer.offset, answer.data) async for answer in stream]
    assert answers == [(offset, b"n1") for offset in range(5, 105)]


async def test_error_ends_a_stream_after_its_messages(connect: Connect) -> None:
    async with connect(dict(Content().methods())) as channel:
        seen = []
        with pytest.raises(errors.OutOfRange, match="^offset 3: past the end$"):
            async for answer in Stub(channel, Content.service).Read(ReadContentRequest(size=3, digest="refused")):
                seen.append(answer.offset)
    assert seen == [0, 1, 2]


# ttrpc has no way to give a call up.
@pytest.mark.parametrize("connect", ["local", "grpc", "http2"], indirect=True)
async def test_leaving_a_stream_ends_its_handler(connect: Connect) -> None:
    service = Content()
    async with connect(dict(service.methods())) as channel:
        request = ReadContentRequest(size=1, digest="endless")
        async with Stub(channel, Content.service).Read(request) as stream:
            await anext(stream)
        await asyncio.wait_for(service.ended.wait(), 10)


async def test_messages_go_both_ways(connect: Connect) -> None:
    async def ask() -> AsyncIterator[AnyPb]:
        for number in range(20):
            yield AnyPb(type_url=str(number), value=bytes(number))

    async with connect(dict(Streaming().methods())) as channel:
        answers = [answer async for answer in Stub(channel, Streaming.service).Stream(ask())]
    assert [(answer.type_url, len(answer.value)) for answer in answers] == [(f"echo {n}", n) for n in range(20)]


async def test_error_ends_both_ways(connect: Connect) -> None:
    async def ask() -> AsyncIterator[AnyPb]:
        yield AnyPb(type_url="refused")
        await asyncio.sleep(30)

    async with connect(dict(Streaming().methods())) as channel:
        with pytest.raises(errors.Aborted, match="^no more$"):
            await anext(Stub(channel, Streaming.service).Stream(ask()))


@pytest.mark.parametrize("connect", ["local", "grpc", "http2"], indirect=True)
async def test_cancelled_caller_ends_the_handler(connect: Connect) -> None:
    service = Content()
    async with connect(dict(service.methods())) as channel:

        async def read() -> None:
            async with Stub(channel, Content.service).Read(ReadContentRequest(digest="endless")) as stream:
                await anext(stream)

        reader = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await asyncio.wait_for(service.ended.wait(), 10)


grpc_servers = pytest.mark.parametrize("connect_grpc", [grpc_channel, http2_channel])


@grpc_servers
async def test_grpc_cuts_long_status_texts(connect_grpc: Callable[..., Any], tmp_path: Path) -> None:
    async with connect_grpc(dict(Namespaces().methods()), tmp_path / "s") as channel:
        with pytest.raises(errors.InvalidArgument, match=r"\(100000 characters\)$") as caught:
            await Stub(channel, Namespaces.service).Get(GetNamespaceRequest(name="long"))
    assert len(str(caught.value)) < MAX_STATUS_TEXT + 40


@grpc_servers
async def test_grpc_refuses_a_malformed_request(connect_grpc: Callable[..., Any], tmp_path: Path) -> None:
    async with connect_grpc(dict(Namespaces().methods()), tmp_path / "s") as channel:
        call = channel.unary_unary("/containerd.services.namespaces.v1.Namespaces/Get")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"\xff\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_method_that_the_service_lacks_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.Release: service containerd\.services\.version\.v1\.Version has no"):

        class Wrong(Service):
            service = "containerd.services.version.v1.Version"

            async def Release(self, _request: Empty) -> VersionResponse:
                return VersionResponse()


def test_method_of_the_wrong_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="make it an async generator"):

        class NoStream(Service):
            service = "containerd.services.content.v1.Content"

            async def Read(self, _request: ReadContentRequest) -> ReadContentResponse:
                return ReadContentResponse()

    with pytest.raises(TypeError, match="make it `async def` without yield"):

        class Stream(Service):
            service = "containerd.services.version.v1.Version"

            async def Version(self, _request: Empty) -> AsyncIterator[VersionResponse]:
                yield VersionResponse()


@pytest.mark.parametrize("code", sorted(errors.CODES))
def test_status_and_error_are_inverse(code: int) -> None:
    error = errors.from_code(code, "because")
    back = from_status(to_status(error))
    assert type(back) is type(error)
    assert str(back) == "because"


def test_status_ok_is_no_error() -> None:
    with pytest.raises(ValueError, match="OK"):
        from_status(to_status(errors.Unknown("")).__class__())


def test_messages_and_services_are_found_by_name() -> None:
    assert descriptors.message("containerd.events.TaskExit")(container_id="a").SerializeToString() == b"\n\x01a"
    assert descriptors.message("containerd.types.Sandbox.Runtime").DESCRIPTOR.name == "Runtime"
    assert descriptors.service("containerd.task.v2.Task").methods_by_name["Wait"].name == "Wait"
    with pytest.raises(KeyError):
        descriptors.message("no.such.Message")


def test_stub_names_a_missing_method() -> None:
    with pytest.raises(AttributeError, match='no method "Release"'):
        Stub(LocalChannel({}), "containerd.services.version.v1.Version").Release  # noqa: B018
