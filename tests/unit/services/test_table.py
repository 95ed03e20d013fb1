# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any

import pytest

from orlop.config import from_data
from orlop.interfaces.rpc import GRPC_SERVICE, RpcService
from orlop.kernel import Kernel
from orlop.plugin import InitContext, NoConfig
from orlop_services.servers.table import LiveTable, Offered
from orlop_services.services.health import HealthService
from orlop_services.services.version import VersionService

CHECK = "/grpc.health.v1.Health/Check"
VERSION = "/containerd.services.version.v1.Version/Version"
LOG = logging.getLogger("test")


def test_services_appear_and_vanish() -> None:
    services: dict[str, RpcService] = {"version": VersionService("1", "")}
    table = LiveTable(services, LOG)
    assert VERSION in table
    assert CHECK not in table
    services["health"] = HealthService()
    assert CHECK in table
    del services["version"]
    assert VERSION not in table
    assert set(table) == {CHECK, "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch"}
    assert len(table) == 3


async def test_a_service_that_is_replaced_answers_anew() -> None:
    services: dict[str, RpcService] = {"version": VersionService("1", "")}
    table = LiveTable(services, LOG)
    assert (await table[VERSION].handler(None)).version == "1"
    services["version"] = VersionService("2", "")
    assert (await table[VERSION].handler(None)).version == "2"


def test_the_first_of_two_that_claim_a_path_answers(caplog: pytest.LogCaptureFixture) -> None:
    first = HealthService()
    table = LiveTable({"one": first, "two": HealthService()}, LOG)
    assert inspect.unwrap(table[CHECK].handler) == first.Check
    assert "offered by one and two" in caplog.text


async def test_only_services_with_the_capability_are_offered(tmp_path: object) -> None:
    @GRPC_SERVICE.plugin("public", capabilities=("tcp",))
    async def public(_ctx: InitContext[NoConfig]) -> RpcService:
        return HealthService()

    @GRPC_SERVICE.plugin("private")
    async def private(_ctx: InitContext[NoConfig]) -> RpcService:
        return VersionService("1", "")

    config = from_data({"root": f"{tmp_path}/r", "state": f"{tmp_path}/s"})
    only = [public.uri, private.uri]
    async with Kernel(config, plugins=[public, private], only=only) as kernel:
        offered = Offered(kernel.all(GRPC_SERVICE), kernel.plugins, "tcp")
        assert list(offered) == ["public"]
        assert len(offered) == 1
        assert isinstance(offered["public"], HealthService)
        with pytest.raises(KeyError):
            offered["private"]


async def test_a_service_that_goes_lets_its_calls_end() -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    class Slow(VersionService):
        async def Version(self, request: Any) -> Any:
            began.set()
            await may_end.wait()
            return await super().Version(request)

    service = Slow("1", "")
    call = asyncio.create_task(service.methods()[VERSION].handler(None))
    await began.wait()
    closing = asyncio.create_task(service.close())
    await asyncio.sleep(0)
    assert not closing.done()
    may_end.set()
    assert (await call).version == "1"
    await closing
    await service.close()
