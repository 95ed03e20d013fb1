# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty

from orlop.config import from_data
from orlop.errors import FailedPrecondition, InvalidArgument, NotFound, SkipPlugin, Unimplemented
from orlop.interfaces.introspection import INTERNAL, Part
from orlop.interfaces.rpc import GRPC_SERVICE
from orlop.kernel import Kernel
from orlop.plugin import InitContext, NoConfig, PluginStatus, Registration
from orlop.values import AnyMessage
from orlop_sdk.api.services.introspection.v1 import introspection_pb2 as pb
from orlop_sdk.rpc.local import LocalChannel
from orlop_sdk.rpc.stub import Stub
from orlop_services.services.introspection import plugin_to_wire, read_identity

TYPE = INTERNAL.name
Context = InitContext[NoConfig]


class Good:
    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def plugin_info(self, options: AnyMessage | None) -> AnyMessage | None:
        return AnyMessage("answer", options.value if options else b"none")


class Plain:
    async def start(self) -> None: ...

    async def close(self) -> None: ...


@INTERNAL.plugin("good", platforms=("linux/amd64", "linux/arm64/v8"), capabilities=("c",), exports={"a": "b"})
async def good(_ctx: Context) -> Part:
    return Good()


@INTERNAL.plugin("plain")
async def plain(_ctx: Context) -> Part:
    return Plain()


@INTERNAL.plugin("absent")
async def absent(_ctx: Context) -> Part:
    raise SkipPlugin("no such device; buy one")


@INTERNAL.plugin("broken")
async def broken(_ctx: Context) -> Part:
    raise ValueError("it is broken")


@INTERNAL.plugin("dependent", requires=(INTERNAL.exact("off"),))
async def dependent(_ctx: Context) -> Part:
    return Plain()


@INTERNAL.plugin("off")
async def off(_ctx: Context) -> Part:
    return Plain()


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[Stub]:
    plugins: list[Registration[NoConfig, Part]] = [good, plain, absent, broken, dependent, off]
    uri = f"{GRPC_SERVICE.name}.introspection"
    config = from_data({"root": f"{tmp_path}/r", "state": f"{tmp_path}/s", "disabled_plugins": [off.uri]})
    async with Kernel(config, plugins=plugins, only=[uri, *(plugin.uri for plugin in plugins)]) as kernel:
        methods = kernel.get(GRPC_SERVICE, "introspection").methods()
        yield Stub(LocalChannel(methods), "containerd.services.introspection.v1.Introspection")


async def listed(stub: Stub, *filters: str) -> dict[str, pb.Plugin]:
    return {plugin.id: plugin for plugin in (await stub.Plugins(pb.PluginsRequest(filters=filters))).plugins}


async def test_plugins_are_described(stub: Stub) -> None:
    found = (await listed(stub))["good"]
    assert found.type == TYPE
    assert [(platform.os, platform.architecture, platform.variant) for platform in found.platforms] == [
        ("linux", "amd64", ""),
        ("linux", "arm64", "v8"),
    ]
    exports = dict(found.exports)
    assert float(exports.pop("init").removesuffix("ms")) > 0  # how long it took to come up
    assert exports == {"a": "b"}
    assert list(found.capabilities) == ["c"]
    assert not found.HasField("init_err")


async def test_failed_and_skipped_plugins_carry_their_reason_and_disabled_ones_are_left_out(stub: Stub) -> None:
    found = await listed(stub)
    assert set(found) == {"good", "plain", "absent", "broken", "dependent", "introspection"}
    assert found["broken"].init_err.code == 2
    assert found["broken"].init_err.message.startswith("ValueError: it is broken (")
    assert found["absent"].init_err.message == "no such device; buy one: skip plugin"
    assert "skip plugin" in found["dependent"].init_err.message
    assert list(found["dependent"].requires) == [off.uri]


async def test_filters_choose_by_type_and_id(stub: Stub) -> None:
    assert set(await listed(stub, f"type=={TYPE},id~=^p", "id==good")) == {"good", "plain"}
    with pytest.raises(InvalidArgument):
        await listed(stub, "id=")


async def test_a_plugin_tells_more_if_it_can(stub: Stub) -> None:
    request = pb.PluginInfoRequest(type=TYPE, id="good")
    request.options.type_url, request.options.value = "question", b"why"
    answer = await stub.PluginInfo(request)
    assert (answer.plugin.id, answer.extra.type_url, answer.extra.value) == ("good", "answer", b"why")
    with pytest.raises(Unimplemented):
        await stub.PluginInfo(pb.PluginInfoRequest(type=TYPE, id="plain"))
    with pytest.raises(FailedPrecondition, match="it is broken"):
        await stub.PluginInfo(pb.PluginInfoRequest(type=TYPE, id="broken"))
    with pytest.raises(NotFound):
        await stub.PluginInfo(pb.PluginInfoRequest(type=TYPE, id="nobody"))


async def test_the_daemon_keeps_its_identity(stub: Stub, tmp_path: Path) -> None:
    first, second = await stub.Server(Empty()), await stub.Server(Empty())
    assert first.uuid == second.uuid == str(uuid.UUID(first.uuid))
    assert first.pid == os.getpid()
    assert first.pidns == os.stat("/proc/self/ns/pid").st_ino
    file = tmp_path / "r" / f"{GRPC_SERVICE.name}.introspection" / "uuid"
    assert read_identity(file) == first.uuid
    assert [entry.name for entry in file.parent.iterdir()] == ["uuid"]


def test_a_plugin_whose_turn_has_not_come_is_unavailable() -> None:
    assert plugin_to_wire(PluginStatus(TYPE, "x", "waiting")).init_err.code == 14


def test_words_that_clients_look_for_are_added() -> None:
    message = plugin_to_wire(PluginStatus(TYPE, "x", "skipped", "no luck")).init_err.message
    assert message == "no luck: skip plugin"
