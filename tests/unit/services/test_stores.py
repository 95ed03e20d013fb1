# SPDX-License-Identifier: Apache-2.0
"""The services over the real metadata store, called as clients call them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from orlop import context
from orlop.config import from_data
from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange
from orlop.interfaces.rpc import GRPC_SERVICE, TTRPC_SERVICE
from orlop.kernel import Kernel
from orlop_sdk.api.services.containers.v1 import containers_pb2 as containers
from orlop_sdk.api.services.content.v1 import content_pb2 as content
from orlop_sdk.api.services.events.v1 import events_pb2 as events
from orlop_sdk.api.services.images.v1 import images_pb2 as images
from orlop_sdk.api.services.leases.v1 import leases_pb2 as leases
from orlop_sdk.api.services.namespaces.v1 import namespace_pb2 as namespaces
from orlop_sdk.api.services.sandbox.v1 import sandbox_pb2 as sandboxes
from orlop_sdk.api.services.snapshots.v1 import snapshots_pb2 as snapshots
from orlop_sdk.api.services.ttrpc.events.v1 import events_pb2 as shim_events
from orlop_sdk.api.types.descriptor_pb2 import Descriptor
from orlop_sdk.api.types.event_pb2 import Envelope
from orlop_sdk.api.types.sandbox_pb2 import Sandbox
from orlop_sdk.rpc.local import LocalChannel
from orlop_sdk.rpc.stub import Stub
from orlop_services.servers.table import LiveTable

SERVICES = ("containers", "content", "events", "images", "leases", "namespaces", "sandboxes", "snapshots")
ONLY = [
    *(f"{GRPC_SERVICE.name}.{id}" for id in SERVICES),
    f"{TTRPC_SERVICE.name}.events",
    "io.containerd.snapshotter.v1.native",
]
LOG = logging.getLogger("test")
DIGEST = "sha256:" + "a" * 64
Write, Action = content.WriteContentRequest, content.WriteAction
UNKNOWN: Any = 7


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Client:
    """Stubs of all services of a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        channel = LocalChannel(LiveTable(kernel.all(GRPC_SERVICE), LOG))
        self.containers = Stub(channel, "containerd.services.containers.v1.Containers")
        self.content = Stub(channel, "containerd.services.content.v1.Content")
        self.events = Stub(channel, "containerd.services.events.v1.Events")
        self.images = Stub(channel, "containerd.services.images.v1.Images")
        self.leases = Stub(channel, "containerd.services.leases.v1.Leases")
        self.namespaces = Stub(channel, "containerd.services.namespaces.v1.Namespaces")
        self.sandboxes = Stub(channel, "containerd.services.sandbox.v1.Store")
        self.snapshots = Stub(channel, "containerd.services.snapshots.v1.Snapshots")
        shims = LocalChannel(LiveTable(kernel.all(TTRPC_SERVICE), LOG))
        self.shim_events = Stub(shims, "containerd.services.events.ttrpc.v1.Events")

    async def write(self, *messages: Any) -> list[Any]:
        """What a Write call with these messages answers."""

        async def requests() -> AsyncIterator[Any]:
            for message in messages:
                yield message

        return [answer async for answer in self.content.Write(requests())]

    async def store(self, data: bytes) -> str:
        """Store a blob."""
        commit = Write(
            action=Action.COMMIT, ref="blob", data=data, total=len(data), labels={"containerd.io/gc.root": "x"}
        )
        return str((await self.write(commit))[0].digest)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with Kernel(from_data({"root": f"{tmp_path}/r", "state": f"{tmp_path}/s"}), only=ONLY) as kernel:
        yield Client(kernel)


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with context.scope(namespace="test"):
        yield


class TestContainers:
    @staticmethod
    def record(id: str) -> containers.Container:
        record = containers.Container(id=id, runtime={"name": "io.containerd.runc.v2"}, labels={"a": "1"})
        record.spec.type_url, record.spec.value = "types.example.org/Spec", b"{}"
        return record

    async def test_life_of_a_record(self, client: Client) -> None:
        created = (
            await client.containers.Create(containers.CreateContainerRequest(container=self.record("c")))
        ).container
        assert created.created_at == created.updated_at
        assert created.created_at.seconds > 0
        got = (await client.containers.Get(containers.GetContainerRequest(id="c"))).container
        assert got == created
        change = containers.UpdateContainerRequest(container=containers.Container(id="c", labels={"b": "2"}))
        change.update_mask.paths.append("labels.b")
        updated = (await client.containers.Update(change)).container
        assert dict(updated.labels) == {"a": "1", "b": "2"}
        await client.containers.Delete(containers.DeleteContainerRequest(id="c"))
        with pytest.raises(NotFound):
            await client.containers.Get(containers.GetContainerRequest(id="c"))

    async def test_lists_agree(self, client: Client) -> None:
        for id in ("c1", "c2", "d1"):
            await client.containers.Create(containers.CreateContainerRequest(container=self.record(id)))
        request = containers.ListContainersRequest(filters=["id~=^c"])
        at_once = list((await client.containers.List(request)).containers)
        streamed = [message.container async for message in client.containers.ListStream(request)]
        assert streamed == at_once
        assert [container.id for container in at_once] == ["c1", "c2"]

    async def test_an_update_names_its_container(self, client: Client) -> None:
        with pytest.raises(InvalidArgument, match="id is required"):
            await client.containers.Update(containers.UpdateContainerRequest())


class TestImages:
    @staticmethod
    def image(name: str) -> images.Image:
        return images.Image(name=name, target=Descriptor(media_type="m", digest=DIGEST, size=1), labels={"a": "1"})

    async def test_life_of_a_record(self, client: Client) -> None:
        created = (await client.images.Create(images.CreateImageRequest(image=self.image("i")))).image
        assert (await client.images.Get(images.GetImageRequest(name="i"))).image == created
        assert list((await client.images.List(images.ListImagesRequest())).images) == [created]
        with pytest.raises(AlreadyExists):
            await client.images.Create(images.CreateImageRequest(image=self.image("i")))
        change = images.UpdateImageRequest(image=images.Image(name="i", labels={"b": "2"}))
        change.update_mask.paths.append("labels")
        assert dict((await client.images.Update(change)).image.labels) == {"b": "2"}
        other = images.DeleteImageRequest(name="i", target=Descriptor(digest="sha256:" + "b" * 64))
        with pytest.raises(NotFound):
            await client.images.Delete(other)
        await client.images.Delete(images.DeleteImageRequest(name="i", target=Descriptor(digest=DIGEST), sync=False))
        assert list((await client.images.List(images.ListImagesRequest())).images) == []

    async def test_times_are_the_servers_unless_a_source_date_is_given(self, client: Client) -> None:
        image = self.image("i")
        image.created_at.seconds = 5
        created = (await client.images.Create(images.CreateImageRequest(image=image))).image
        assert created.created_at.seconds > 5
        request = images.CreateImageRequest(image=self.image("dated"))
        request.source_date_epoch.seconds = 1_000_000_000
        dated = (await client.images.Create(request)).image
        assert (dated.created_at.seconds, dated.updated_at.seconds) == (1_000_000_000, 1_000_000_000)

    async def test_an_update_names_its_image(self, client: Client) -> None:
        with pytest.raises(InvalidArgument, match="name is required"):
            await client.images.Update(images.UpdateImageRequest())


async def test_life_of_a_lease(client: Client) -> None:
    lease = (await client.leases.Create(leases.CreateRequest(id="l", labels={"a": "1"}))).lease
    assert (lease.id, dict(lease.labels)) == ("l", {"a": "1"})
    assert (await client.leases.Create(leases.CreateRequest())).lease.id
    digest = await client.store(b"leased")
    resource = leases.Resource(id=digest, type="content")
    await client.leases.AddResource(leases.AddResourceRequest(id="l", resource=resource))
    found = (await client.leases.ListResources(leases.ListResourcesRequest(id="l"))).resources
    assert list(found) == [resource]
    await client.leases.DeleteResource(leases.DeleteResourceRequest(id="l", resource=resource))
    assert not (await client.leases.ListResources(leases.ListResourcesRequest(id="l"))).resources
    assert list((await client.leases.List(leases.ListRequest(filters=["id==l"]))).leases) == [lease]
    await client.leases.Delete(leases.DeleteRequest(id="l"))
    with pytest.raises(NotFound):
        await client.leases.Delete(leases.DeleteRequest(id="l"))


class TestNamespaces:
    async def test_life_of_a_namespace(self, client: Client) -> None:
        namespace = namespaces.Namespace(name="n", labels={"a": "1"})
        await client.namespaces.Create(namespaces.CreateNamespaceRequest(namespace=namespace))
        listed = (await client.namespaces.List(namespaces.ListNamespacesRequest())).namespaces
        assert namespace in listed
        await client.namespaces.Delete(namespaces.DeleteNamespaceRequest(name="n"))
        with pytest.raises(NotFound):
            await client.namespaces.Delete(namespaces.DeleteNamespaceRequest(name="n"))

    async def test_one_that_does_not_exist_is_empty(self, client: Client) -> None:
        answer = await client.namespaces.Get(namespaces.GetNamespaceRequest(name="none"))
        assert answer.namespace == namespaces.Namespace(name="none")

    async def test_a_label_makes_one(self, client: Client) -> None:
        request = namespaces.UpdateNamespaceRequest(
            namespace=namespaces.Namespace(name="n", labels={"a": "1", "b": "2"})
        )
        request.update_mask.paths.append("labels.a")
        assert dict((await client.namespaces.Update(request)).namespace.labels) == {"a": "1"}
        got = await client.namespaces.Get(namespaces.GetNamespaceRequest(name="n"))
        assert dict(got.namespace.labels) == {"a": "1"}


async def test_life_of_a_sandbox(client: Client) -> None:
    sandbox = Sandbox(sandbox_id="s", runtime={"name": "r"}, sandboxer="shim", labels={"a": "1"})
    created = (await client.sandboxes.Create(sandboxes.StoreCreateRequest(sandbox=sandbox))).sandbox
    assert (await client.sandboxes.Get(sandboxes.StoreGetRequest(sandbox_id="s"))).sandbox == created
    change = sandboxes.StoreUpdateRequest(sandbox=Sandbox(sandbox_id="s", labels={"b": "2"}), fields=["labels"])
    assert dict((await client.sandboxes.Update(change)).sandbox.labels) == {"b": "2"}
    assert [each.sandbox_id for each in (await client.sandboxes.List(sandboxes.StoreListRequest())).list] == ["s"]
    await client.sandboxes.Delete(sandboxes.StoreDeleteRequest(sandbox_id="s"))
    with pytest.raises(NotFound):
        await client.sandboxes.Get(sandboxes.StoreGetRequest(sandbox_id="s"))


class TestSnapshots:
    async def test_life_of_a_snapshot(self, client: Client) -> None:
        native: Any = {"snapshotter": "native"}
        prepared = await client.snapshots.Prepare(
            snapshots.PrepareSnapshotRequest(key="k", labels={"a": "1"}, **native)
        )
        assert prepared.mounts == (await client.snapshots.Mounts(snapshots.MountsRequest(key="k", **native))).mounts
        info = (await client.snapshots.Stat(snapshots.StatSnapshotRequest(key="k", **native))).info
        assert (info.name, info.kind, dict(info.labels)) == ("k", snapshots.Kind.ACTIVE, {"a": "1"})
        assert (await client.snapshots.Usage(snapshots.UsageRequest(key="k", **native))).inodes == 1
        await client.snapshots.Commit(snapshots.CommitSnapshotRequest(name="n", key="k", **native))
        await client.snapshots.View(snapshots.ViewSnapshotRequest(key="v", parent="n", **native))
        listed = [batch async for batch in client.snapshots.List(snapshots.ListSnapshotsRequest(**native))]
        assert sorted((each.name, each.parent) for batch in listed for each in batch.info) == [("n", ""), ("v", "n")]
        change = snapshots.UpdateSnapshotRequest(info=snapshots.Info(name="n", labels={"b": "2"}), **native)
        assert dict((await client.snapshots.Update(change)).info.labels) == {"b": "2"}
        with pytest.raises(FailedPrecondition):
            await client.snapshots.Remove(snapshots.RemoveSnapshotRequest(key="n", **native))
        for key in ("v", "n"):
            await client.snapshots.Remove(snapshots.RemoveSnapshotRequest(key=key, **native))
        await client.snapshots.Cleanup(snapshots.CleanupRequest(**native))

    @pytest.mark.parametrize(("name", "reason"), [("", "names none"), ("nosuch", "those loaded: native")])
    async def test_the_snapshotter_has_to_be_there(self, client: Client, name: str, reason: str) -> None:
        with pytest.raises(InvalidArgument, match=reason):
            await client.snapshots.Stat(snapshots.StatSnapshotRequest(snapshotter=name, key="k"))


class TestContent:
    async def test_long_lists_come_in_batches(self, client: Client) -> None:
        for number in range(201):
            await client.store(b"%d" % number)
        batches = [len(batch.info) async for batch in client.content.List(content.ListContentRequest())]
        assert batches == [100, 100, 1]

    async def test_large_blobs_come_in_chunks(self, client: Client) -> None:
        data = bytes(range(256)) * 10_000
        digest = await client.store(data)
        chunks = [chunk async for chunk in client.content.Read(content.ReadContentRequest(digest=digest))]
        assert [chunk.offset for chunk in chunks] == [0, 1 << 20, 2 << 20]
        assert b"".join(chunk.data for chunk in chunks) == data

    @pytest.mark.parametrize(
        ("offset", "size", "expected"), [(3, 4, b"3456"), (8, 100, b"89"), (10, 0, b""), (-1, 0, b"0123456789")]
    )
    async def test_parts_can_be_read(self, client: Client, offset: int, size: int, expected: bytes) -> None:
        request = content.ReadContentRequest(digest=await client.store(b"0123456789"), offset=offset, size=size)
        assert b"".join([chunk.data async for chunk in client.content.Read(request)]) == expected

    async def test_past_the_end_is_out_of_range(self, client: Client) -> None:
        request = content.ReadContentRequest(digest=await client.store(b"0123456789"), offset=11)
        with pytest.raises(OutOfRange):
            await anext(client.content.Read(request))

    async def test_a_write_from_end_to_end(self, client: Client) -> None:
        data = b"hello world"
        answers = await client.write(
            Write(action=Action.STAT, ref="r", total=11, expected=digest_of(data)),
            Write(action=Action.WRITE, data=data[:5]),
            Write(action=Action.WRITE, data=data[5:], offset=5),
            Write(action=Action.COMMIT, offset=11, labels={"a": "1"}),
            Write(action=Action.STAT),
        )
        assert [(answer.action, answer.offset) for answer in answers] == [
            (Action.STAT, 0),
            (Action.WRITE, 5),
            (Action.WRITE, 11),
            (Action.COMMIT, 11),
        ]
        assert answers[-1].digest == digest_of(data)
        info = (await client.content.Info(content.InfoRequest(digest=digest_of(data)))).info
        assert (info.size, dict(info.labels)) == (11, {"a": "1"})
        assert not (await client.content.ListStatuses(content.ListStatusesRequest())).statuses

    async def test_a_write_can_be_resumed_and_started_over(self, client: Client) -> None:
        await client.write(Write(action=Action.WRITE, ref="r", data=b"hello"))
        status = (await client.content.Status(content.StatusRequest(ref="r"))).status
        assert status.offset == 5
        with pytest.raises(OutOfRange, match="5 bytes are stored"):
            await client.write(Write(action=Action.WRITE, ref="r", data=b"x", offset=3))
        resumed = await client.write(Write(action=Action.WRITE, ref="r", data=b"!", offset=5))
        assert (resumed[0].offset, resumed[0].digest) == (6, digest_of(b"hello!"))
        anew = await client.write(Write(action=Action.WRITE, ref="r", data=b"bye"))
        assert (anew[0].offset, anew[0].digest) == (3, digest_of(b"bye"))
        emptied = await client.write(Write(action=Action.WRITE, ref="r"))
        assert (emptied[0].offset, emptied[0].digest) == (0, digest_of(b""))
        await client.content.Abort(content.AbortRequest(ref="r"))
        with pytest.raises(NotFound):
            await client.content.Status(content.StatusRequest(ref="r"))

    async def test_a_commit_keeps_what_is_stored_without_naming_the_offset(self, client: Client) -> None:
        await client.write(Write(action=Action.WRITE, ref="r", data=b"hello", total=99))
        answers = await client.write(Write(action=Action.COMMIT, ref="r"))
        assert (answers[0].offset, answers[0].digest) == (5, digest_of(b"hello"))

    @pytest.mark.parametrize("wrong", [{"total": 7}, {"expected": DIGEST}])
    async def test_a_commit_of_something_else_fails_and_keeps_the_data(
        self, client: Client, wrong: dict[str, Any]
    ) -> None:
        with pytest.raises(FailedPrecondition):
            await client.write(Write(action=Action.COMMIT, ref="r", data=b"hello", **wrong))
        assert (await client.content.Status(content.StatusRequest(ref="r"))).status.offset == 5

    async def test_what_is_there_is_not_written_again(self, client: Client) -> None:
        digest = await client.store(b"hello")
        with pytest.raises(AlreadyExists):
            await client.write(Write(action=Action.STAT, ref="r", expected=digest))
        with pytest.raises(AlreadyExists):
            await client.write(
                Write(action=Action.WRITE, ref="r", data=b"hello wo"),
                Write(action=Action.WRITE, data=b"r", offset=8, expected=digest),
            )
        assert not (await client.content.ListStatuses(content.ListStatusesRequest())).statuses

    @pytest.mark.parametrize("messages", [[], [Write(action=Action.STAT)], [Write(action=UNKNOWN, ref="r")]])
    async def test_a_write_that_makes_no_sense_is_refused(self, client: Client, messages: list[Any]) -> None:
        with pytest.raises(InvalidArgument):
            await client.write(*messages)

    async def test_labels_change_and_blobs_go(self, client: Client) -> None:
        digest = await client.store(b"hello")
        change = content.UpdateRequest(info=content.Info(digest=digest, labels={"b": "2"}))
        assert dict((await client.content.Update(change)).info.labels) == {"b": "2"}
        await client.content.Delete(content.DeleteContentRequest(digest=digest))
        with pytest.raises(NotFound):
            await client.content.Info(content.InfoRequest(digest=digest))

    async def test_a_malformed_digest_is_refused(self, client: Client) -> None:
        for call, request in (
            (client.content.Info, content.InfoRequest(digest="zz")),
            (client.content.Delete, content.DeleteContentRequest(digest="zz")),
            (client.content.Update, content.UpdateRequest(info=content.Info(digest="zz"))),
        ):
            with pytest.raises(InvalidArgument):
                await call(request)
        with pytest.raises(InvalidArgument):
            await anext(client.content.Read(content.ReadContentRequest(digest="zz")))


class TestEvents:
    async def test_events_reach_those_who_asked_for_them(self, client: Client) -> None:
        async with client.events.Subscribe(events.SubscribeRequest(filters=['topic~="^/mine/"'])) as stream:
            first = asyncio.ensure_future(anext(stream))
            # The call runs in a task of its own, which has to get as far as subscribing.
            await asyncio.sleep(0.05)
            await client.events.Publish(events.PublishRequest(topic="/other/thing"))
            published = events.PublishRequest(topic="/mine/published")
            published.event.type_url = "types.example.org/Event"
            await client.events.Publish(published)
            envelope = Envelope(namespace="elsewhere", topic="/mine/forwarded", event=published.event)
            envelope.timestamp.seconds = 1_700_000_000
            await client.events.Forward(events.ForwardRequest(envelope=envelope))
            await client.shim_events.Forward(shim_events.ForwardRequest(envelope=envelope))
            got = await first
            assert (got.topic, got.namespace, got.event) == ("/mine/published", "test", published.event)
            assert got.timestamp.seconds > 0
            assert [await anext(stream), await anext(stream)] == [envelope, envelope]

    async def test_a_forwarded_event_has_its_own_time_and_namespace(self, client: Client) -> None:
        with pytest.raises(InvalidArgument):
            await client.events.Forward(events.ForwardRequest(envelope=Envelope(topic="/t", namespace="n")))
