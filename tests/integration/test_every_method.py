# SPDX-License-Identifier: Apache-2.0
"""The tables of containerd's API against a real daemon: every method is served, and every plugin can be asked about."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessagePb
from google.protobuf.empty_pb2 import Empty
from tests.support.daemon import ORLOPD, Daemon
from tests.support.place import short_directory

from orlop import context
from orlop.errors import FailedPrecondition, InvalidArgument, NotFound, OrlopError, Unimplemented
from orlop_sdk.api.services.diff.v1.diff_pb2 import ApplyRequest
from orlop_sdk.api.services.introspection.v1 import introspection_pb2 as pb
from orlop_sdk.api.types.descriptor_pb2 import Descriptor
from orlop_sdk.api.types.introspection_pb2 import RuntimeInfo, RuntimeRequest
from orlop_sdk.client.connection import open_channel
from orlop_sdk.convert.common import any_from_wire
from orlop_sdk.rpc import descriptors
from orlop_sdk.rpc.channel import Channel
from orlop_sdk.rpc.stub import Stub
from orlop_sdk.ttrpc.client import Client
from orlop_shim.sandbox import SandboxService
from orlop_shim.service import TaskService

TABLE = Path(__file__).parents[1] / "unit/sdk/data/wire/containerd.json"
#: Seconds for the first answer of a stream. One that has none by then is served: it waits for something to tell.
QUIET = 1.0
TTRPC = "containerd.services.events.ttrpc.v1.Events"
#: Services that shims serve, and no daemon.
OF_SHIMS = ("containerd.task.v2.Task", "containerd.task.v3.Task", "containerd.runtime.sandbox.v1.Sandbox")
#: Requests for methods that rightly refuse an empty one in the words of a method that is not there.
REQUESTS: dict[str, bytes] = {
    # Differs are asked one after the other for one that knows the layer's media type.
    "/containerd.services.diff.v1.Diff/Apply": ApplyRequest(
        diff=Descriptor(media_type="application/vnd.oci.image.layer.v1.tar", digest=f"sha256:{'0' * 64}", size=1)
    ).SerializeToString(),
}


class Method(NamedTuple):
    """One row of the table."""

    service: str
    name: str
    client_streaming: bool
    server_streaming: bool

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


def table() -> list[Method]:
    services = json.loads(TABLE.read_text())["services"]
    return [
        Method(service, name, row.get("client_streaming", False), row.get("server_streaming", False))
        for service, methods in services.items()
        for name, row in methods.items()
    ]


DAEMONS = [method for method in table() if method.service not in (*OF_SHIMS, TTRPC)]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with short_directory() as base, Daemon(base, ORLOPD) as running:
        yield running


@pytest.fixture(scope="module")
def channel(daemon: Daemon) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"unix:{daemon.address}") as made:
        yield made


@pytest.fixture
async def introspection(daemon: Daemon) -> AsyncIterator[Stub]:
    made: Channel = open_channel(str(daemon.address))
    with context.scope(namespace="default"):
        yield Stub(made, "containerd.services.introspection.v1.Introspection")
    await made.close()  # type: ignore[attr-defined]


def code_of(channel: grpc.Channel, method: Method) -> grpc.StatusCode:
    """How a call ends in a namespace, with an empty request unless `REQUESTS` has another."""
    kind = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
    call: Any = getattr(channel, "_".join(kind))(method.path, request_serializer=None, response_deserializer=None)
    data = REQUESTS.get(method.path, b"")
    request = iter([data]) if method.client_streaming else data
    metadata = [("containerd-namespace", "default")]
    try:
        if method.server_streaming:
            list(call(request, metadata=metadata, timeout=QUIET))
        else:
            call(request, metadata=metadata, timeout=60)
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return grpc.StatusCode.OK


def test_the_table_is_the_whole_api() -> None:
    assert len(DAEMONS) == 88
    assert {method.service for method in table()} - {method.service for method in DAEMONS} == {*OF_SHIMS, TTRPC}
    assert set(REQUESTS) <= {method.path for method in DAEMONS}


@pytest.mark.parametrize("method", DAEMONS, ids=lambda method: method.path)
def test_the_daemon_serves(method: Method, channel: grpc.Channel) -> None:
    code = code_of(channel, method)
    # Whatever the request is, the answer is one that was thought of.
    assert code.name not in ("UNIMPLEMENTED", "UNKNOWN", "INTERNAL")


def test_what_nobody_has_is_not_served(channel: grpc.Channel) -> None:
    """That the test above can fail."""
    for path in ("containerd.services.images.v1.Images/NoSuch", "containerd.services.nosuch.v1.None/Get"):
        service, name = path.split("/")
        assert code_of(channel, Method(service, name, False, False)) is grpc.StatusCode.UNIMPLEMENTED


async def test_shims_reach_the_ttrpc_service(daemon: Daemon) -> None:
    async with await Client.connect(f"{daemon.address}.ttrpc") as client:
        for method in table():
            if method.service == TTRPC:
                request = descriptors.message("containerd.services.events.ttrpc.v1.ForwardRequest")()
                with pytest.raises(OrlopError) as refused:
                    await getattr(Stub(client, TTRPC), method.name)(request, timeout=60)
                assert not isinstance(refused.value, Unimplemented)


def test_our_shim_serves_what_the_table_has_for_shims() -> None:
    tasks = TaskService(cast(Any, None), lambda: None)
    served = {*tasks.methods(), *SandboxService(cast(Any, None), tasks).methods()}
    assert served == {f"{method.service}/{method.name}" for method in table() if method.service in OF_SHIMS}


async def test_every_plugin_can_be_asked_about(introspection: Stub) -> None:
    """What works and has nothing to add says so, what does not work says why; none answers anything else."""
    told = {}
    plugins = (await introspection.Plugins(pb.PluginsRequest())).plugins
    assert len(plugins) > 40
    for plugin in plugins:
        try:
            answer = await introspection.PluginInfo(pb.PluginInfoRequest(type=plugin.type, id=plugin.id))
        except OrlopError as error:
            told[f"{plugin.type}.{plugin.id}"] = type(error)
        else:
            assert answer.plugin == plugin
    failed = {f"{plugin.type}.{plugin.id}" for plugin in plugins if plugin.init_err.message}
    assert failed == {uri for uri, error in told.items() if error is FailedPrecondition}
    # The runtime wants to be asked about a runtime.
    assert told.pop("io.containerd.runtime.v2.task") is InvalidArgument
    assert set(told.values()) <= {Unimplemented, FailedPrecondition}
    with pytest.raises(NotFound):
        await introspection.PluginInfo(pb.PluginInfoRequest(type="io.containerd.runtime.v2", id="nosuch"))


@pytest.mark.parametrize("runtime", ["io.containerd.orlop.v1", "io.containerd.runc.v2"])
async def test_runtimes_tell_of_themselves(introspection: Stub, runtime: str) -> None:
    """As ``ctr plugins inspect-runtime`` of containerd 2 asks; options go to the runtime, and come back."""
    options = AnyMessagePb(type_url="containerd.runc.v1.Options", value=b"\x32\x04runc")
    asked = RuntimeRequest(runtime_path=runtime, options=options)
    request = pb.PluginInfoRequest(type="io.containerd.runtime.v2", id="task")
    request.options.type_url, request.options.value = "containerd.types.RuntimeRequest", asked.SerializeToString()
    answer = await introspection.PluginInfo(request)
    extra = any_from_wire(answer.extra)
    assert extra is not None
    assert extra.type_url == "containerd.types.RuntimeInfo"
    info = RuntimeInfo.FromString(extra.value)
    assert info.name
    assert info.version.version
    assert info.options == options
    assert info.features.type_url == "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
    assert json.loads(info.features.value)["ociVersionMax"]


async def test_an_unknown_runtime_is_not_found(introspection: Stub) -> None:
    request = pb.PluginInfoRequest(type="io.containerd.runtime.v2", id="task")
    asked = RuntimeRequest(runtime_path="io.containerd.nosuch.v1")
    request.options.type_url, request.options.value = "containerd.types.RuntimeRequest", asked.SerializeToString()
    with pytest.raises(NotFound):
        await introspection.PluginInfo(request)


async def test_the_server_tells_who_it_is(introspection: Stub, daemon: Daemon) -> None:
    first = await introspection.Server(Empty())
    assert (first.pid, list(first.deprecations)) == (daemon.pid, [])
    assert first.pidns == (os.stat(f"/proc/{daemon.pid}/ns/pid")).st_ino
    daemon.restart()
    again = await introspection.Server(Empty())
    assert (again.uuid, again.pid) == (first.uuid, daemon.pid)
