# SPDX-License-Identifier: Apache-2.0
"""Garbage collection against a model: random graphs, and a plain walk over them in Python."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.core.conftest import Core

from orlop import context
from orlop.values import AnyMessage, Container, Descriptor, Image, LeaseResource, RuntimeInfo, Sandbox, now
from orlop_sdk import digest as digests
from orlop_sdk.testing.content import put

BLOBS = 6
SNAPSHOTS = 6
IMAGES = 4
CONTAINERS = 2
DIGESTS = [digests.of(b"blob %d" % number) for number in range(BLOBS)]
PAST = (now() - timedelta(hours=1)).isoformat()
FUTURE = (now() + timedelta(hours=1)).isoformat()
GC = "containerd.io/gc."

Node = tuple[str, int]
"""A kind (one letter: Blob, Snapshot, Image, Container) and a number."""


@dataclass
class Lease:
    flat: bool
    expired: bool
    resources: list[Node]


@dataclass
class Graph:
    """What there is, and what refers to what."""

    blobs: set[int]
    parents: dict[int, int | None]
    images: dict[int, tuple[int, bool]]
    """Target and whether it is expired."""
    containers: dict[int, int | None]
    roots: set[Node]
    references: list[tuple[Node, Node]]
    back_references: list[tuple[Node, Node]]
    conditions: list[tuple[Node, int, bool]]
    """A source, a snapshot, and whether the snapshot's last use is recent enough."""
    sandbox: list[Node]
    leases: list[Lease] = field(default_factory=list)

    def nodes(self) -> Iterator[Node]:
        yield from (("B", number) for number in self.blobs)
        yield from (("S", number) for number in self.parents)
        yield from (("I", number) for number in self.images)
        yield from (("C", number) for number in self.containers)

    def survivors(self) -> set[Node]:
        """What a collection leaves: the model."""
        present = set(self.nodes())
        todo: list[tuple[Node, bool]] = [(root, False) for root in self.roots if root in present]
        todo += [(("I", number), False) for number, (_, expired) in self.images.items() if not expired]
        todo += [(("C", number), False) for number in self.containers]
        todo += [(node, False) for node in self.sandbox]
        todo += [(node, lease.flat) for lease in self.leases if not lease.expired for node in lease.resources]
        seen: set[tuple[Node, bool]] = set()
        while todo:
            node, flat = todo.pop()
            if (node, flat) in seen:
                continue
            seen.add((node, flat))
            if not flat:
                # As in containerd, what does not exist but is referred to keeps what refers back to it.
                todo += [(kept, False) for kept, keeper in self.back_references if keeper == node and kept in present]
            if node not in present:
                continue
            todo += [(other, flat) for other in self._parts(node)]
            if not flat:
                todo += [(target, False) for source, target in self.references if source == node]
                todo += [(("S", number), False) for source, number, met in self.conditions if source == node and met]
        return {node for node, _ in seen} & present

    def _parts(self, node: Node) -> list[Node]:
        kind, number = node
        if kind == "S" and (parent := self.parents[number]) is not None:
            return [("S", parent)]
        if kind == "I":
            return [("B", self.images[number][0])]
        if kind == "C" and (snapshot := self.containers[number]) is not None:
            return [("S", snapshot)]
        return []

    def labels(self, node: Node) -> dict[str, str]:
        """The labels that say so."""
        labels = {}
        if node in self.roots:
            labels[f"{GC}root"] = "1"
        if node[0] == "I" and node[1] in self.images and self.images[node[1]][1]:
            labels[f"{GC}expire"] = PAST
        for number, (source, target) in enumerate(self.references):
            if source == node:
                labels[f"{GC}ref.{label_kind(target)}/{number}"] = name(target)
        for number, (kept, keeper) in enumerate(self.back_references):
            if kept == node:
                labels[f"{GC}bref.{label_kind(keeper)}/{number}"] = name(keeper)
        for index, (source, number, met) in enumerate(self.conditions):
            if source == node:
                test = "usedat<2h" if met else "usedat>2h"
                labels[f"{GC}cond.snapshot.native/{index}"] = f"{test}|{name(('S', number))}"
        if node[0] == "S":
            labels[f"{GC}cond.value-usedat"] = PAST
        return labels


def name(node: Node) -> str:
    kind, number = node
    return DIGESTS[number] if kind == "B" else f"{kind.lower()}{number}"


def label_kind(node: Node) -> str:
    return {"B": "content", "S": "snapshot.native", "I": "image", "C": "container"}[node[0]]


blobs = st.tuples(st.just("B"), st.integers(0, BLOBS - 1))
snapshots = st.tuples(st.just("S"), st.integers(0, SNAPSHOTS - 1))
images = st.tuples(st.just("I"), st.integers(0, IMAGES - 1))
containers = st.tuples(st.just("C"), st.integers(0, CONTAINERS - 1))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    parents: dict[int, int | None] = {}
    for number in draw(st.sets(st.integers(0, SNAPSHOTS - 1))):
        parents[number] = draw(st.none() | st.sampled_from(sorted(parents))) if parents else None
    made = draw(st.sets(st.integers(0, BLOBS - 1)))
    lease = st.builds(
        Lease, st.booleans(), st.booleans(), st.lists(st.one_of(blobs, snapshots, images), min_size=1, max_size=3)
    )
    return Graph(
        blobs=made,
        parents=parents,
        images=draw(st.dictionaries(st.integers(0, IMAGES - 1), st.tuples(st.integers(0, BLOBS - 1), st.booleans()))),
        containers=draw(st.dictionaries(st.integers(0, CONTAINERS - 1), st.none() | st.integers(0, SNAPSHOTS - 1))),
        roots=draw(st.sets(st.one_of(blobs, snapshots), max_size=2)),
        references=draw(
            st.lists(
                st.tuples(st.one_of(blobs, snapshots, images, containers), st.one_of(blobs, snapshots, images)),
                max_size=8,
            )
        ),
        back_references=draw(
            st.lists(
                st.tuples(st.one_of(blobs, snapshots, images), st.one_of(blobs, snapshots, images, containers)),
                max_size=4,
            )
        ),
        conditions=draw(
            st.lists(st.tuples(st.one_of(blobs, images), st.integers(0, SNAPSHOTS - 1), st.booleans()), max_size=3)
        ),
        sandbox=draw(st.lists(st.one_of(blobs, snapshots, images), max_size=1)),
        leases=draw(st.lists(lease, max_size=3)),
    )


async def build(core: Core, graph: Graph) -> None:
    """Make what the graph says, in the current namespace, through the store's own interface."""
    metadata = core.metadata
    native = metadata.snapshotters["native"]
    for number in graph.blobs:
        await put(metadata.content, b"blob %d" % number, labels=graph.labels(("B", number)))
    for number, parent in graph.parents.items():
        key = name(("S", number))
        await native.prepare("active", "" if parent is None else name(("S", parent)))
        await native.commit(key, "active", labels=graph.labels(("S", number)))
    for number, (target, _) in graph.images.items():
        descriptor = Descriptor("m/t", DIGESTS[target], 6)
        await metadata.images.create(Image(name(("I", number)), descriptor, graph.labels(("I", number))))
    for number, snapshot in graph.containers.items():
        key = "" if snapshot is None else name(("S", snapshot))
        made = Container(name(("C", number)), RuntimeInfo("r"), AnyMessage("s"), snapshot_key=key)
        await metadata.containers.create(
            Container(
                made.id,
                made.runtime,
                made.spec,
                snapshotter="native" if key else "",
                snapshot_key=key,
                labels=graph.labels(("C", number)),
            )
        )
    labels = {f"{GC}ref.{label_kind(node)}": name(node) for node in graph.sandbox}
    await metadata.sandboxes.create(Sandbox("pod", RuntimeInfo("r"), labels=labels))
    for lease in graph.leases:
        labels = {f"{GC}flat": "1"} if lease.flat else {}
        labels[f"{GC}expire"] = PAST if lease.expired else FUTURE
        id = (await metadata.leases.create(labels=labels)).id
        for kind, number in lease.resources:
            resource = {"B": "content", "S": "snapshots/native", "I": "images"}[kind]
            await metadata.leases.add(id, LeaseResource(name((kind, number)), resource))


async def found(core: Core) -> set[Node]:
    """What is there, in the current namespace."""
    metadata = core.metadata
    nodes: set[Node] = {("B", DIGESTS.index(info.digest)) async for info in metadata.content.walk()}
    nodes |= {("S", int(info.name[1:])) async for info in metadata.snapshotters["native"].walk()}
    nodes |= {("I", int(image.name[1:])) for image in await metadata.images.list()}
    return nodes | {("C", int(container.id[1:])) for container in await metadata.containers.list()}


def test_what_a_collection_leaves(tmp_path: Path) -> None:
    counter = itertools.count()
    with asyncio.Runner() as runner:
        core = runner.run(Core.open(tmp_path))

        async def check(graph: Graph) -> None:
            with context.scope(namespace=f"n{next(counter)}"):
                await build(core, graph)
                assert await found(core) == set(graph.nodes())
                await core.metadata.collect()
                assert await found(core) == graph.survivors()
                live = [lease for lease in graph.leases if not lease.expired]
                assert len(await core.metadata.leases.list()) == len(live)
                assert await core.metadata.check() == []
                await clear()

        async def clear() -> None:
            """Take every root away, so that what is left shows whether the rest of the garbage goes too."""
            for container in await core.metadata.containers.list():
                await core.metadata.containers.delete(container.id)
            for image in await core.metadata.images.list():
                await core.metadata.images.delete(image.name)
            for lease in await core.metadata.leases.list():
                await core.metadata.leases.delete(lease.id)
            await core.metadata.sandboxes.delete("pod")
            async for info in core.metadata.content.walk():
                await core.metadata.content.update(info.__class__(info.digest, info.size))
            native = core.metadata.snapshotters["native"]
            async for snapshot in native.walk():
                await native.update(snapshot.__class__(snapshot.kind, snapshot.name))
            await core.metadata.collect()
            assert await found(core) == set()
            assert [info async for info in core.snapshots.walk()] == []
            assert [info async for info in core.content.walk()] == []

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(graph=graphs())
        def examples(graph: Graph) -> None:
            runner.run(check(graph))

        examples()
        runner.run(core.close())
