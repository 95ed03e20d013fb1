# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from tests.support.ctr import until
from tests.support.http2 import SERVICE, TIMEOUT, Service

from orlop.errors import NotFound
from orlop.interfaces.observer import CallInfo, CallObserver, Observation
from orlop_sdk.rpc import observed
from orlop_sdk.rpc.local import LocalChannel
from orlop_sdk.rpc.observed import Observed


class Watcher:
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.calls: list[CallInfo] = []

    def began(self, call: CallInfo) -> Observation:
        self.calls.append(call)
        self.heard.append("began")
        return self

    def received(self) -> None:
        self.heard.append("received")

    def sent(self) -> None:
        self.heard.append("sent")

    def ended(self, code: int, error: BaseException | None) -> None:
        self.heard.append(f"ended {code} {type(error).__name__}")


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def channel(watcher: Watcher, service: Service) -> LocalChannel:
    return LocalChannel(Observed(service.methods(), {"one": watcher}, "grpc"))


async def messages(*values: bytes) -> AsyncIterator[BytesValue]:
    for value in values:
        yield BytesValue(value=value)


async def test_a_call_is_heard_from_its_beginning_to_its_end(watcher: Watcher, channel: LocalChannel) -> None:
    metadata = [("traceparent", "00-1-2-01"), ("Baggage", "a=b"), ("other", "x")]
    answer = await channel.unary_unary(f"/{SERVICE}/Echo")(BytesValue(value=b"x"), metadata=metadata)
    assert answer.value == b"x"
    assert watcher.heard == ["began", "received", "sent", "ended 0 NoneType"]
    assert watcher.calls == [CallInfo(f"/{SERVICE}/Echo", "grpc", trace={"traceparent": "00-1-2-01", "baggage": "a=b"})]
    await channel.unary_unary(f"/{SERVICE}/Echo")(BytesValue(value=b"x"))
    assert watcher.calls[1].trace == {}


async def test_an_error_ends_with_its_code(watcher: Watcher, channel: LocalChannel) -> None:
    with pytest.raises(NotFound):
        await channel.unary_unary(f"/{SERVICE}/Fail")(BytesValue(value=b"x"))
    assert watcher.heard == ["began", "received", "ended 5 NotFound"]


async def test_every_message_of_a_stream_is_heard(watcher: Watcher, channel: LocalChannel) -> None:
    found = [each async for each in channel.stream_stream(f"/{SERVICE}/Chat")(messages(b"a", b"b"))]
    assert len(found) == 2
    assert watcher.heard == ["began", "received", "sent", "received", "sent", "ended 0 NoneType"]
    assert (watcher.calls[0].client_streaming, watcher.calls[0].server_streaming) == (True, True)


async def test_a_call_that_is_cancelled_ends_once(watcher: Watcher, service: Service, channel: LocalChannel) -> None:
    call = asyncio.ensure_future(channel.unary_unary(f"/{SERVICE}/Wait")(BytesValue(value=b"x")))
    await until(lambda: service.running == 1)
    call.cancel()
    await asyncio.wait([call], timeout=TIMEOUT)
    await until(lambda: len(watcher.heard) == 3)
    assert watcher.heard == ["began", "received", "ended 1 CancelledError"]


async def test_observers_come_and_go(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed, "_LOOK", 0.0)
    first, second, observers = Watcher(), Watcher(), dict[str, CallObserver]()
    methods = service.methods()
    table = Observed(methods, observers, "ttrpc")
    path = f"/{SERVICE}/Echo"
    assert table[path] is methods[path], "without observers, nothing stands between"
    observers["first"] = first
    assert table[path] is table[path], "a method is wrapped once"
    await table[path].handler(BytesValue())
    observers["second"] = second
    await table[path].handler(BytesValue())
    del observers["first"], observers["second"]
    assert table[path] is methods[path]
    assert (len(first.calls), len(second.calls)) == (2, 1)
    assert first.calls[0].transport == "ttrpc"
