# SPDX-License-Identifier: Apache-2.0
"""What a garbage collection leaves of random graphs: containerd and orlopd agree, with each other and with the model.

The graphs are those of the store's own test, without what containerd 1.6 does not know yet.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from tests.support.comparison import Pair
from tests.unit.core.test_collection_model import DIGESTS, Graph, Lease, Node, expiry, graphs, name, resource

from orlop import context
from orlop.values import AnyMessage, Container, Descriptor, Image, RuntimeInfo
from orlop_sdk import digest as digests
from orlop_sdk.client.connection import open_channel
from orlop_sdk.client.services import Services, remote_services
from orlop_sdk.testing.content import put

GRAPHS = 25
OLD = "BS"
"""Kinds that labels and leases of containerd 1.6 can name: blobs and snapshots."""


def known_to_all(graph: Graph) -> Graph:
    """What containerd 1.6 knows of a graph: no back references and conditions, and nothing refers to images."""
    leases = [
        Lease(lease.flat, lease.expired, [node for node in lease.resources if node[0] in OLD]) for lease in graph.leases
    ]
    return replace(
        graph,
        references=[(source, target) for source, target in graph.references if target[0] in OLD],
        images={number: (target, None) for number, (target, _) in graph.images.items()},
        back_references=[],
        conditions=[],
        sandbox=[],
        streams={},
        leases=leases,
    )


async def build(services: Services, graph: Graph) -> None:
    """Make it, in the current namespace."""
    native = services.snapshotters["native"]
    for number in graph.blobs:
        await put(services.content, b"blob %d" % number, labels=graph.labels(("B", number)))
    for number, parent in graph.parents.items():
        await native.prepare("active", "" if parent is None else name(("S", parent)))
        labels = {key: value for key, value in graph.labels(("S", number)).items() if "gc.cond" not in key}
        await native.commit(name(("S", number)), "active", labels=labels)
    for number, (target, _) in graph.images.items():
        descriptor = Descriptor("m/t", DIGESTS[target], 6)
        await services.images.create(Image(name(("I", number)), descriptor, graph.labels(("I", number))))
    for number, snapshot in graph.containers.items():
        key = "" if snapshot is None else name(("S", snapshot))
        await services.containers.create(
            Container(
                name(("C", number)),
                RuntimeInfo("r"),
                AnyMessage("s"),
                snapshotter="native" if key else "",
                snapshot_key=key,
                labels=graph.labels(("C", number)),
            )
        )
    for index, lease in enumerate(graph.leases):
        labels = ({"containerd.io/gc.flat": "1"} if lease.flat else {}) | expiry(lease.expired)
        await services.leases.create(name(("L", index)), labels=labels)
        for node in lease.resources:
            await services.leases.add(name(("L", index)), resource(node))


async def left(services: Services) -> set[Node]:
    """What is there, in the current namespace."""
    nodes: set[Node] = {("B", DIGESTS.index(info.digest)) async for info in services.content.walk()}
    nodes |= {("S", int(info.name[1:])) async for info in services.snapshotters["native"].walk()}
    nodes |= {("I", int(image.name[1:])) for image in await services.images.list()}
    nodes |= {("L", int(lease.id[1:])) for lease in await services.leases.list()}
    return nodes | {("C", int(container.id[1:])) for container in await services.containers.list()}


@pytest.mark.timeout(400)
def test_what_a_collection_leaves(pair: Pair) -> None:
    numbers = itertools.count()

    async def play(address: str, graph: Graph) -> tuple[set[Node], set[Node]]:
        channel = open_channel(address)
        try:
            services = remote_services(channel, "default")
            with context.scope(namespace=f"gc-{os.getpid()}-{next(numbers)}"):
                await build(services, graph)
                before = await left(services)
                await services.leases.create("l99")
                await services.leases.delete("l99", sync=True)
                return before, await left(services)
        finally:
            await channel.close()

    @settings(max_examples=GRAPHS, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(graph=graphs().map(known_to_all))
    def examples(graph: Graph) -> None:
        before, standard = asyncio.run(play(str(pair.standard.address), graph))
        assert (before, standard) == asyncio.run(play(str(pair.subject.address), graph))
        live = {("L", number) for number, lease in enumerate(graph.leases) if not lease.expired}
        assert standard == graph.survivors() | live

    examples()


GC = "containerd.io/gc."
SPELLINGS = (
    f"{GC}root",
    f"{GC}rooted",
    f"{GC}root.x",
    f"{GC}ref.content",
    f"{GC}ref.content.",
    f"{GC}ref.content.x",
    f"{GC}ref.content/x",
    f"{GC}ref.contents",
    f"{GC}ref.content-x",
    f"{GC}ref.snapshot",
    f"{GC}ref.snapshot.native",
    f"{GC}ref.snapshot.native/x",
    f"{GC}ref.snapshot.native/",
    f"{GC}ref.snapshot.other",
    f"{GC}ref.snapshot/native",
    f"{GC}flat",
    f"{GC}expire",
    f"{GC}ref",
)


@pytest.mark.timeout(200)
def test_spellings_of_labels(pair: Pair) -> None:
    """Which keys make a thing a root, or keep another: one blob, or snapshot, with each."""

    async def play(address: str) -> tuple[set[str], set[str]]:
        channel = open_channel(address)
        try:
            services = remote_services(channel, "default")
            with context.scope(namespace=f"gc-{os.getpid()}-labels"):
                native = services.snapshotters["native"]
                for number, key in enumerate(SPELLINGS):
                    target = f"target-{number}"
                    await native.prepare("active")
                    await native.commit(target, "active")
                    value = await put(services.content, target.encode())
                    if "snapshot" in key:
                        value = target
                    holder = {f"{GC}root": "yes"} if ".ref" in key else {}
                    await put(services.content, f"holder-{number}".encode(), labels={**holder, key: value})
                    await native.prepare("active")
                    await native.commit(f"holder-{number}", "active", labels={**holder, key: value})
                await services.leases.create("l99")
                await services.leases.delete("l99", sync=True)
                names = {f"{word}-{number}" for word in ("target", "holder") for number in range(len(SPELLINGS))}
                known = {digests.of(word.encode()): word for word in names}
                blobs = {known[info.digest] async for info in services.content.walk()}
                return blobs, {info.name async for info in native.walk()}
        finally:
            await channel.close()

    standard, subject = asyncio.run(play(str(pair.standard.address))), asyncio.run(play(str(pair.subject.address)))
    for theirs, ours in zip(standard, subject, strict=True):
        assert (keys(theirs - ours), keys(ours - theirs)) == ([], [])


def keys(names: set[str]) -> list[str]:
    """The spellings that something survived by."""
    return sorted({f"{word}: {SPELLINGS[int(number)]}" for word, _, number in (name.partition("-") for name in names)})
