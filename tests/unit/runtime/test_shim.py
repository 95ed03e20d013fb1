# SPDX-License-Identifier: Apache-2.0
"""Connections to shims: versions, protocols, sharing, and shims that go away."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from orlop import context
from orlop.errors import NotFound, Unavailable, Unimplemented
from orlop.interfaces.rpc import RpcMethod
from orlop.interfaces.runtime import ShimAddress
from orlop_runtime.shim import Shim, ShimClosed, Shims
from orlop_sdk.api.runtime.task.v2 import shim_pb2 as v2
from orlop_sdk.api.runtime.task.v3 import shim_pb2 as v3
from orlop_sdk.rpc.channel import set_trace, trace
from orlop_sdk.rpc.grpc_server import TableHandler
from orlop_sdk.ttrpc.server import Server


class FakeShim:
    """Answers a few methods, and notes who called."""

    def __init__(self, version: int) -> None:
        self.namespaces: list[str | None] = []
        self.traces: list[dict[str, str]] = []
        self.shutdowns = 0
        pb = v2 if version == 2 else v3
        prefix = f"/containerd.task.v{version}.Task"
        self.methods = {
            f"{prefix}/State": RpcMethod(self._state, pb.StateRequest, pb.StateResponse),
            f"{prefix}/Wait": RpcMethod(self._wait, pb.WaitRequest, pb.WaitResponse),
            f"{prefix}/Shutdown": RpcMethod(self._shutdown, pb.ShutdownRequest, pb.StateRequest),
        }
        self.server = Server(self.methods)
        self._answer: Callable[..., v2.StateResponse | v3.StateResponse] = pb.StateResponse

    async def _state(self, request: v2.StateRequest) -> v2.StateResponse | v3.StateResponse:
        self.namespaces.append(context.namespace_or_none())
        self.traces.append(trace())
        if request.id == "gone":
            raise NotFound("no such thing")
        return self._answer(id=request.id, pid=42)

    async def _wait(self, request: v2.WaitRequest) -> v2.WaitResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async def _shutdown(self, request: v2.ShutdownRequest) -> v2.StateRequest:
        self.shutdowns += 1
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self.server.close(0)))
        return v2.StateRequest()


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="shim", dir="/tmp") as path:
        yield Path(path)


@pytest_asyncio.fixture
async def lost() -> AsyncIterator[list[Shim]]:
    yield []


def state(id: str = "c1") -> v2.StateRequest:
    return v2.StateRequest(id=id)


@pytest.mark.parametrize(("served", "announced"), [(2, 2), (3, 3), (2, 3)])
async def test_versions(place: Path, lost: list[Shim], served: int, announced: int) -> None:
    fake = FakeShim(served)
    await fake.server.listen(f"{place}/s")
    shim = Shim("ns", ShimAddress(f"unix://{place}/s", announced), lost.append)
    await shim.connect()
    for _ in range(2):
        assert (await shim.call("State", state(), v2.StateResponse)).pid == 42
    with pytest.raises(NotFound, match="no such thing"):
        await shim.call("State", state("gone"), v2.StateResponse)
    assert fake.namespaces == ["ns"] * 3
    # What neither version has stays unimplemented, and spoils nothing.
    with pytest.raises(Unimplemented):
        await shim.call("Pids", v2.PidsRequest(id="c1"), v2.PidsResponse)
    assert (await shim.call("State", state(), v2.StateResponse)).pid == 42
    await shim.close()
    await fake.server.close()
    assert lost == []


async def test_the_trace_of_a_call_goes_along_and_watchers_hear_of_its_end(place: Path, lost: list[Shim]) -> None:
    fake = FakeShim(3)
    await fake.server.listen(f"{place}/s")
    told: list[BaseException | None] = []

    def watch(path: str, metadata: dict[str, str]) -> list[Callable[[BaseException | None], None]]:
        metadata["tracestate"] = path.rpartition("/")[2]
        return [told.append]

    shim = Shim("ns", ShimAddress(f"unix://{place}/s", 3), lost.append, watch)
    await shim.connect()
    set_trace({"traceparent": "00-1-2-01"})
    await shim.call("State", state(), v2.StateResponse)
    with pytest.raises(NotFound) as failed:
        await shim.call("State", state("gone"), v2.StateResponse)
    waiting = asyncio.create_task(shim.call("Wait", v2.WaitRequest(id="c1"), v2.WaitResponse))
    await shim.call("State", state(), v2.StateResponse)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert fake.traces == [{"traceparent": "00-1-2-01", "tracestate": "State"}] * 3
    assert told[:3] == [None, failed.value, None]
    assert isinstance(told[3], asyncio.CancelledError)
    await shim.close()
    await fake.server.close()


async def test_an_address_without_scheme_is_abstract(place: Path, lost: list[Shim]) -> None:
    fake = FakeShim(2)
    await fake.server.listen(f"@{place}/abstract")
    shim = Shim("ns", ShimAddress(f"{place}/abstract"), lost.append)
    await shim.connect()
    assert (await shim.call("State", state(), v2.StateResponse)).pid == 42
    await shim.close()
    await fake.server.close()


async def test_a_shim_that_goes_away(place: Path, lost: list[Shim]) -> None:
    fake = FakeShim(2)
    await fake.server.listen(f"{place}/s")
    shim = Shim("ns", ShimAddress(f"unix://{place}/s"), lost.append)
    await shim.connect()
    waiting = asyncio.create_task(shim.call("Wait", v2.WaitRequest(id="c1"), v2.WaitResponse))
    await shim.call("State", state(), v2.StateResponse)
    await fake.server.close(0)
    with pytest.raises(ShimClosed):
        await waiting
    with pytest.raises(ShimClosed):
        await shim.call("State", state(), v2.StateResponse)
    assert lost == [shim]
    assert not shim.is_open
    await shim.close()


async def test_grpc_shims(place: Path, lost: list[Shim]) -> None:
    fake = FakeShim(3)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((TableHandler(fake.methods),))
    server.add_insecure_port(f"unix://{place}/g")
    await server.start()
    shim = Shim("ns", ShimAddress(f"unix://{place}/g", 3, "grpc"), lost.append)
    await shim.connect()
    assert (await shim.call("State", state(), v2.StateResponse)).pid == 42
    assert fake.namespaces == ["ns"]
    with pytest.raises(NotFound, match="no such thing"):
        await shim.call("State", state("gone"), v2.StateResponse)
    waiting = asyncio.create_task(shim.call("Wait", v2.WaitRequest(id="c1"), v2.WaitResponse))
    await asyncio.sleep(0.05)
    await server.stop(None)
    with pytest.raises(Unavailable):
        await waiting
    async with asyncio.timeout(10):
        await shim.gone.wait()
    assert lost == [shim]
    await shim.close()


async def test_containers_of_a_group_share_a_connection(place: Path, lost: list[Shim]) -> None:
    fake = FakeShim(2)
    await fake.server.listen(f"{place}/s")
    shims = Shims(lost.append, 2.0)
    address = ShimAddress(f"unix://{place}/s")
    first, second = await asyncio.gather(shims.acquire(address, ("ns", "a")), shims.acquire(address, ("ns", "b")))
    assert first is second
    await shims.release(first, ("ns", "a"))
    assert fake.shutdowns == 0
    assert first.is_open
    leaving = asyncio.create_task(shims.release(first, ("ns", "b")))
    await asyncio.sleep(0)
    assert shims.closing(address) is first
    await leaving
    assert fake.shutdowns == 1
    assert shims.closing(address) is None
    assert lost == []
    with pytest.raises(Unavailable):
        await shims.acquire(address, ("ns", "c"))
    await shims.close()


async def test_a_shim_that_does_not_go_is_left(place: Path, lost: list[Shim]) -> None:
    fake = FakeShim(2)
    fake.methods.pop("/containerd.task.v2.Task/Shutdown")
    await fake.server.listen(f"{place}/s")
    shims = Shims(lost.append, 0.1)
    shim = await shims.acquire(ShimAddress(f"unix://{place}/s"), ("ns", "a"))
    await shims.release(shim, ("ns", "a"))
    assert shim.gone.is_set()
    await fake.server.close()
