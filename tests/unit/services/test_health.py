# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from orlop.errors import NotFound
from orlop_sdk.rpc.local import LocalChannel
from orlop_sdk.rpc.stub import Stub
from orlop_services.services.health import HEALTH, SERVICE_UNKNOWN, SERVING, HealthService, ListRequest, Request


@pytest.fixture
def stub() -> Stub:
    return Stub(LocalChannel(HealthService().methods()), HEALTH)


async def test_the_daemon_serves(stub: Stub) -> None:
    assert (await stub.Check(Request())).status == SERVING
    with pytest.raises(NotFound):
        await stub.Check(Request(service="other"))


async def test_all_that_can_be_checked_is_listed(stub: Stub) -> None:
    listed = (await stub.List(ListRequest())).statuses
    assert {name: answer.status for name, answer in listed.items()} == {"": SERVING}


@pytest.mark.parametrize(("service", "status"), [("", SERVING), ("other", SERVICE_UNKNOWN)])
async def test_a_watcher_gets_the_status_at_once(stub: Stub, service: str, status: int) -> None:
    async with stub.Watch(Request(service=service)) as stream:
        assert (await anext(stream)).status == status
