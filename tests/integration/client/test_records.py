# SPDX-License-Identifier: Apache-2.0
"""Namespaces, leases, images, containers, events and what a daemon says of itself, through the client."""

from __future__ import annotations

import asyncio

import pytest

from orlop.errors import AlreadyExists, FailedPrecondition, NotFound
from orlop.values import AnyMessage, Container, Descriptor, Event, Image, Namespace, RuntimeInfo
from orlop_sdk import oci
from orlop_sdk.client import Client

TARGET = Descriptor("application/vnd.oci.image.manifest.v1+json", "sha256:" + "a" * 64, 7)


async def test_says_who_it_is(client: Client) -> None:
    assert await client.healthy()
    await client.version()
    assert (await client.introspection.server()).uuid
    plugins = {plugin.uri: plugin for plugin in await client.introspection.plugins()}
    assert plugins["io.containerd.snapshotter.v1.overlayfs"].error is None


async def test_plugins_can_be_filtered(client: Client) -> None:
    found = await client.introspection.plugins(["type==io.containerd.snapshotter.v1"])
    assert {plugin.type for plugin in found} == {"io.containerd.snapshotter.v1"}


async def test_namespaces(client: Client) -> None:
    name = f"{client.namespace}-x"
    with pytest.raises(NotFound):
        await client.namespaces.get(name)
    await client.namespaces.create(Namespace(name, {"a": "1", "b": "2"}))
    try:
        with pytest.raises(AlreadyExists):
            await client.namespaces.create(Namespace(name))
        updated = await client.namespaces.update(Namespace(name, {"a": "3"}), ["labels.a"])
        assert updated.labels == {"a": "3", "b": "2"}
        assert name in {each.name for each in await client.namespaces.list()}
    finally:
        await client.namespaces.delete(name)
    with pytest.raises(NotFound):
        await client.namespaces.delete(name)


async def test_images(client: Client) -> None:
    image = await client.images.create(Image("example.com/a:1", TARGET, {"x": "y"}))
    assert image.created_at == image.updated_at
    with pytest.raises(AlreadyExists):
        await client.images.create(Image("example.com/a:1", TARGET))
    await client.images.create(Image("example.com/b:1", TARGET))
    assert [each.name for each in await client.images.list(["name==example.com/a:1"])] == ["example.com/a:1"]
    assert (await client.images.update(Image("example.com/a:1", TARGET, {"x": "z"}), ["labels.x"])).labels == {"x": "z"}
    await client.images.delete("example.com/a:1", sync=True)
    with pytest.raises(NotFound):
        await client.images.get("example.com/a:1")


async def test_tag_and_remove(client: Client) -> None:
    await client.images.create(Image("example.com/a:1", TARGET))
    await client.tag("example.com/a:1", "example.com/b:2")
    with pytest.raises(AlreadyExists):
        await client.tag("example.com/a:1", "example.com/b:2")
    await client.tag("example.com/a:1", "example.com/b:2", force=True)
    assert (await client.images.get("example.com/b:2")).target.digest == TARGET.digest
    await client.remove_image("example.com/b:2")
    with pytest.raises(NotFound):
        await client.remove_image("example.com/b:2")


async def test_containers(client: Client) -> None:
    spec = oci.encode(oci.default_spec("c1"))
    extension = AnyMessage("example.com/Note", b"hello")
    record = Container("c1", RuntimeInfo("io.containerd.runc.v2"), spec, labels={"a": "b"}, extensions={"n": extension})
    created = await client.containers.create(record)
    assert (created.id, created.spec, created.extensions) == ("c1", spec, {"n": extension})
    handle = await client.container("c1")
    await handle.set_labels({"a": "", "c": "d"})
    assert (await handle.refresh()).labels == {"c": "d"}
    assert handle.spec()["linux"]["cgroupsPath"] == "/default/c1"
    assert [each.id for each in await client.containers.list(["labels.c==d"])] == ["c1"]
    await handle.delete()
    with pytest.raises(NotFound):
        await client.container("c1")


async def test_a_namespace_is_a_view_of_its_own(client: Client) -> None:
    await client.images.create(Image("example.com/a:1", TARGET))
    other = client.in_namespace(f"{client.namespace}-y")
    assert await other.images.list() == []
    await other.images.create(Image("example.com/a:1", TARGET))
    await other.images.delete("example.com/a:1", sync=True)
    assert len(await client.images.list()) == 1
    await client.namespaces.delete(other.namespace)


async def test_lease_keeps_what_is_made_in_it(client: Client) -> None:
    async with client.lease(expire=60, labels={"why": "test"}) as lease:
        await client.snapshots().prepare("kept")
        assert [each.id for each in await client.leases.resources(lease.id)] == ["kept"]
        (found,) = await client.leases.list([f"id=={lease.id}"])
        assert found.labels["why"] == "test"
        assert found.labels["containerd.io/gc.expire"].endswith("Z")
    with pytest.raises(NotFound):
        await client.leases.resources(lease.id)
    await client.snapshots().remove("kept")


async def test_unleased_content_goes_with_the_lease(client: Client) -> None:
    async with client.lease(sync=True):
        writer = await client.content.writer("note")
        await writer.write(b"hello")
        digest = await writer.commit()
        assert (await client.content.info(digest)).size == 5
    with pytest.raises(NotFound):
        await client.content.info(digest)


async def test_events(client: Client) -> None:
    async with client.watch('topic~="^/images/"') as events:
        await client.images.create(Image("example.com/a:1", TARGET))
        await client.images.delete("example.com/a:1")
        async with asyncio.timeout(10):
            topics = [(await anext(events)).topic, (await anext(events)).topic]
    assert topics == ["/images/create", "/images/delete"]


async def test_own_events(client: Client) -> None:
    payload = AnyMessage("containerd.events.ContainerDelete", b"\n\x04mine")
    async with client.watch('topic=="/mine/done"') as events:
        await client.events.publish("/mine/done", payload)
        async with asyncio.timeout(10):
            event: Event = await anext(events)
    assert (event.payload, event.namespace) == (payload, client.namespace)


async def test_is_of_no_use_before_it_is_connected() -> None:
    with pytest.raises(FailedPrecondition, match="async with"):
        _ = Client("/nowhere").images
