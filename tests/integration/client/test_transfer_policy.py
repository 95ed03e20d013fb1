# SPDX-License-Identifier: Apache-2.0
"""What the daemon's config says about transfers: image verifiers, unpacking, hosts; and streams on the wire."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from tests.integration.client.conftest import Target
from tests.support.image import Image, write_layout
from tests.support.registry import Registry

from orlop import context
from orlop.errors import InvalidArgument, NotFound, OrlopError, PermissionDenied, Unimplemented
from orlop.interfaces.transfer import TransferProgress
from orlop_sdk.api.services.streaming.v1.streaming_pb2 import StreamInit
from orlop_sdk.api.services.transfer.v1.transfer_pb2 import TransferOptions, TransferRequest
from orlop_sdk.api.types.transfer.imagestore_pb2 import ImageStore
from orlop_sdk.client import Client
from orlop_sdk.client.streams import RemoteStreams
from orlop_sdk.client.transfers import RegistryImage, StoredImage, UnpackFor
from orlop_sdk.convert.common import any_to_wire, pack
from orlop_sdk.rpc import descriptors
from orlop_sdk.rpc.stub import Stub

TRANSFER = "io.containerd.transfer.v1.local"
VERIFIER = "io.containerd.image-verifier.v1.bindir"
STREAMING = "containerd.services.streaming.v1.Streaming"


@pytest.fixture(scope="module")
def image(directory: Path) -> Iterator[str]:
    """An image in a registry."""
    with Registry(directory / "policy") as registry:
        layout = write_layout(directory / "policy-layout", {"1": Image()})
        yield registry.push(layout, "team/app", "1")


@pytest.fixture
def daemon(short_tmp: Path) -> Callable[[Mapping[str, Any]], Any]:
    """Starts a daemon in this process whose plugins have these tables."""

    @asynccontextmanager
    async def start(plugins: Mapping[str, Any]) -> AsyncIterator[Client]:
        config = {"version": 4, "root": f"{short_tmp}/root", "state": f"{short_tmp}/state", "plugins": plugins}
        config["disabled_plugins"] = ["io.containerd.grpc.v1.cri"]
        async with Client.embedded(config, "policy") as client:
            yield client

    return start


async def test_verifiers_decide_what_is_pulled(daemon: Any, image: str, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    told: list[TransferProgress] = []
    async with daemon({VERIFIER: {"bin_dir": str(programs)}}) as client:
        program = programs / "policy"
        program.write_text('#!/bin/sh\nread -r line; echo "$2 is unsigned"; exit 1\n')
        program.chmod(0o755)
        with pytest.raises(PermissionDenied, match=rf"blocked by the image verifier bindir.*{image} is unsigned"):
            await client.transfer(RegistryImage(image), StoredImage(image), progress=told.append)
        assert [each.event for each in told] == [f"Resolving from OCI Registry ({image})"]
        assert await client.images.list() == []
        assert [info async for info in client.content.walk()] == []
        assert await client.leases.list() == []
        program.write_text("#!/bin/sh\nexit 0\n")
        await client.transfer(RegistryImage(image), StoredImage(image))
        assert (await client.check_image(image)).complete


async def test_unpacking_as_the_config_allows(daemon: Any, image: str) -> None:
    settings = [
        {"platform": "linux/amd64", "snapshotter": "native", "differ": "walking"},
        {"platform": "linux/arm64", "snapshotter": "overlayfs"},
        {"snapshotter": "erofs-of-the-future", "optional": True},
    ]
    async with daemon({TRANSFER: {"unpack_config": settings, "check_platform_supported": True}}) as client:

        async def unpacked(*unpacks: UnpackFor) -> set[str]:
            await client.transfer(RegistryImage(image), StoredImage(image, unpacks=unpacks))
            found = set()
            for name in ("native", "overlayfs"):
                if [info async for info in client.snapshots(name).walk()]:
                    found.add(name)
            await client.remove_image(image, sync=True)
            return found

        assert await unpacked() == set()
        assert await unpacked(UnpackFor("linux/amd64")) == {"native"}
        assert await unpacked(UnpackFor("linux/amd64", "native")) == {"native"}
        for refused in (
            UnpackFor("linux/amd64", "overlayfs"),
            UnpackFor("linux/s390x"),
            UnpackFor(snapshotter="erofs-of-the-future"),
        ):
            with pytest.raises(InvalidArgument, match="unpack_config"):
                await unpacked(refused)


async def test_layers_come_in_parts_if_the_config_says_so(daemon: Any, directory: Path) -> None:
    with Registry(directory / "parts") as registry:
        name = registry.push(write_layout(directory / "parts-layout", {"1": Image()}), "team/parts", "1")
        async with daemon({TRANSFER: {"concurrent_layer_fetch_buffer": 200_000}}) as client:
            await client.transfer(RegistryImage(name), StoredImage(name, unpacks=[UnpackFor("linux/amd64")]))
            assert (await client.check_image(name)).complete
            (layer,) = (await client.manifest(name)).layers
        parts = re.findall(rf'"GET \S+/{layer.digest} HTTP/1.1" 206 (\d+)', registry.log.read_text())
    assert len(parts) == -(-layer.size // 200_000) > 3
    assert (max(map(int, parts)), sum(map(int, parts))) == (200_000, layer.size)


async def test_hosts_of_the_config(daemon: Any, image: str, tmp_path: Path) -> None:
    host = image.partition("/")[0]
    (tmp_path / "mirror.test").mkdir()
    (tmp_path / "mirror.test" / "hosts.toml").write_text(f'server = "http://{host}"\n')
    name = image.replace(host, "mirror.test")
    async with daemon({TRANSFER: {"config_path": f"/nowhere:{tmp_path}"}}) as client:
        await client.transfer(RegistryImage(name), StoredImage(name))
        assert (await client.check_image(name)).complete


async def test_layers_side_by_side(daemon: Any, image: str) -> None:
    async with daemon({TRANSFER: {"max_concurrent_unpacks": 4, "max_concurrent_downloads": 0}}) as client:
        await client.transfer(RegistryImage(image), StoredImage(image, unpacks=[UnpackFor()]))
        assert (await client.run(image, "echo", "unpacked")).stdout == b"unpacked\n"


# ---- streams on the wire --------------------------------------------------------------------------------------------


@pytest.fixture
async def channel(targets: Callable[[str], Target]) -> AsyncIterator[grpc.aio.Channel]:
    daemon = targets("orlopd").daemon
    assert daemon is not None
    async with grpc.aio.insecure_channel(f"unix:{daemon.address}") as channel:
        yield channel


class Streams:
    """Streams of one namespace, as any client makes them."""

    def __init__(self, channel: grpc.aio.Channel, namespace: str) -> None:
        method = descriptors.service(STREAMING).methods_by_name["Stream"]
        self._start = channel.stream_stream(
            descriptors.path(method),
            request_serializer=AnyMessage.SerializeToString,
            response_deserializer=AnyMessage.FromString,
        )
        self._metadata = (("containerd-namespace", namespace),)

    async def open(self, first: AnyMessage | None, lease: str = "") -> Any:
        """The call, once it was answered. Raises what it failed with."""
        call = self._start(metadata=(*self._metadata, *((("containerd-lease", lease),) if lease else ())), timeout=60)
        if first is None:
            await call.done_writing()
        else:
            await call.write(first)
        answer: Any = await call.read()
        assert answer.type_url == "google.protobuf.Empty"
        return call


def start(id: str) -> AnyMessage:
    wire = any_to_wire(pack(StreamInit(id=id)))
    assert wire is not None
    return wire


async def test_streams_have_ids(channel: grpc.aio.Channel, namespace: str) -> None:
    streams = Streams(channel, namespace)
    first = await streams.open(start("a"))
    other = await Streams(channel, f"{namespace}-2").open(start("a"))  # another namespace, another stream
    wrong = any_to_wire(pack(Empty()))
    for begin, code in (
        (start("a"), grpc.StatusCode.ALREADY_EXISTS),
        (start(""), grpc.StatusCode.INVALID_ARGUMENT),
        (wrong, grpc.StatusCode.INVALID_ARGUMENT),
        (AnyMessage(type_url=StreamInit.DESCRIPTOR.full_name, value=b"\xff"), grpc.StatusCode.INVALID_ARGUMENT),
        (None, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await streams.open(begin)
        assert caught.value.code() is code
    first.cancel()
    async with asyncio.timeout(30):
        again = None
        while again is None:  # the id is free once the daemon knows that the client is gone
            try:
                again = await streams.open(start("a"))
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
    again.cancel()
    other.cancel()


async def test_streams_end_with_their_lease(
    channel: grpc.aio.Channel, targets: Callable[[str], Target], namespace: str
) -> None:
    streams = Streams(channel, namespace)
    async with targets("orlopd").client(namespace) as client:
        lease = await client.leases.create("mine")
        leased, free = await streams.open(start("leased"), "mine"), await streams.open(start("free"))
        other = await client.leases.create("other")
        await client.leases.delete(other.id, sync=True)  # a collection that spares both
        reading = asyncio.create_task(leased.read())
        await asyncio.sleep(0.1)
        assert not reading.done()
        await client.leases.delete(lease.id, sync=True)
        async with asyncio.timeout(30):
            assert await reading is grpc.aio.EOF
        assert await leased.code() is grpc.StatusCode.OK
        await (await streams.open(start("leased"))).done_writing()
        with pytest.raises(grpc.aio.AioRpcError):
            await streams.open(start("free"))
        free.cancel()


async def test_messages_that_no_client_sends(channel: grpc.aio.Channel, namespace: str) -> None:
    stub = Stub(channel, "containerd.services.transfer.v1.Transfer")
    kind = ImageStore.DESCRIPTOR.full_name
    store = AnyMessage(type_url=kind)
    cases: list[tuple[TransferRequest, type[OrlopError]]] = [
        (TransferRequest(), InvalidArgument),
        (TransferRequest(source=store), InvalidArgument),
        (TransferRequest(source=AnyMessage(type_url="no.such.Type"), destination=store), Unimplemented),
        (TransferRequest(source=AnyMessage(type_url="google.protobuf.Empty"), destination=store), Unimplemented),
        (TransferRequest(source=AnyMessage(type_url=kind, value=b"\xff"), destination=store), InvalidArgument),
        (TransferRequest(source=store, destination=store), NotFound),
        (
            TransferRequest(source=store, destination=store, options=TransferOptions(progress_stream="none")),
            NotFound,
        ),
    ]
    with context.scope(namespace=namespace):
        for request, error in cases:
            with pytest.raises(error):
                await stub.Transfer(request)


async def test_a_progress_stream_ends_whatever_happens(
    channel: grpc.aio.Channel, targets: Callable[[str], Target], namespace: str
) -> None:
    stub = Stub(channel, "containerd.services.transfer.v1.Transfer")
    store = any_to_wire(pack(ImageStore(name="none:1")))
    with context.scope(namespace=namespace):
        async with RemoteStreams(channel).open("progress") as (id, stream):
            with pytest.raises(NotFound):
                await stub.Transfer(
                    TransferRequest(source=store, destination=store, options=TransferOptions(progress_stream=id))
                )
            async with asyncio.timeout(30):
                assert await stream.receive() is None
