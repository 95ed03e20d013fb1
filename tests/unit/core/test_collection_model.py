# SPDX-License-Identifier: Apache-2.0
"""Garbage collection against a model: random graphs, and a plain walk over them in Python."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.core.conftest import Core

from orlop import context
from orlop.interfaces.gc import Attachment
from orlop.values import AnyMessage, Container, Descriptor, Image, LeaseResource, RuntimeInfo, Sandbox, now
from orlop_sdk import digest as digests
from orlop_sdk.testing.content import put

BLOBS = 6
SNAPSHOTS = 6
IMAGES = 4
CONTAINERS = 2
STREAMS = 3
GRAPHS = 250
DIGESTS = [digests.of(b"blob %d" % number) for number in range(BLOBS)]
PAST = (now() - timedelta(hours=1)).isoformat()
FUTURE = (now() + timedelta(hours=1)).isoformat()
GC = "containerd.io/gc."

Node = tuple[str, int]
"""A kind (one letter: Blob, Snapshot, Image, Container, sTream, Lease) and a number."""

Expiry = bool | None
"""Whether the time is over; None where there is none."""


@dataclass
class Lease:
    flat: bool
    expired: Expiry
    resources: list[Node]


@dataclass
class Streams:
    """Things that are kept elsewhere."""

    label = "stream"
    items: set[tuple[str, str]] = field(default_factory=set)
    used: set[tuple[str, str]] = field(default_factory=set)
    attached: list[Attachment] = field(default_factory=list)

    async def all(self) -> Sequence[tuple[str, str]]:
        return sorted(self.items)

    async def active(self) -> Sequence[tuple[str, str]]:
        return sorted(self.used)

    async def attachments(self) -> Sequence[Attachment]:
        return self.attached

    async def remove(self, items: Sequence[tuple[str, str]]) -> None:
        self.items -= set(items)


@dataclass
class Graph:
    """What there is, and what refers to what."""

    blobs: set[int]
    parents: dict[int, int | None]
    images: dict[int, tuple[int, Expiry]]
    """Target and expiry."""
    containers: dict[int, int | None]
    roots: set[Node]
    references: list[tuple[Node, Node]]
    back_references: list[tuple[Node, Node]]
    conditions: list[tuple[Node, int, bool]]
    """A source, a snapshot, and whether the snapshot's last use is recent enough."""
    sandbox: list[Node]
    streams: dict[int, tuple[bool, Node | None]]
    """Whether each is active, and what it is attached to."""
    separators: str
    """How label keys go on after the kind: ``/`` or ``.``, in turn."""
    leases: list[Lease] = field(default_factory=list)

    def nodes(self) -> Iterator[Node]:
        yield from (("B", number) for number in self.blobs)
        yield from (("S", number) for number in self.parents)
        yield from (("I", number) for number in self.images)
        yield from (("C", number) for number in self.containers)
        yield from (("T", number) for number in self.streams)

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
                todo += [
                    (("S", number), False)
                    for source, number, met in self.conditions
                    # When it was last used is a label of the snapshot: without that, nothing holds.
                    if source == node and met and number in self.parents
                ]
        reached = {node for node, _ in seen}
        reached |= {("L", number) for number, lease in enumerate(self.leases) if not lease.expired}
        reached |= {("T", number) for number, (active, keeper) in self.streams.items() if active or keeper in reached}
        return reached & present

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
        if node[0] == "I" and node[1] in self.images:
            labels |= expiry(self.images[node[1]][1])
        for number, (source, target) in enumerate(self.references):
            if source == node:
                labels[f"{GC}ref.{label_kind(target)}{self._separator(target, number)}{number}"] = name(target)
        for number, (kept, keeper) in enumerate(self.back_references):
            if kept == node:
                labels[f"{GC}bref.{label_kind(keeper)}{self._separator(keeper, number)}{number}"] = name(keeper)
        for index, (source, number, met) in enumerate(self.conditions):
            if source == node:
                test = "usedat<2h" if met else "usedat>2h"
                labels[f"{GC}cond.snapshot.native/{index}"] = f"{test}|{name(('S', number))}"
        if node[0] == "S":
            labels[f"{GC}cond.value-usedat"] = PAST
        return labels

    def _separator(self, target: Node, number: int) -> str:
        # The name of a snapshotter may have dots in it, so only a slash ends that.
        return "/" if target[0] == "S" else self.separators[number % len(self.separators)]


def expiry(expired: Expiry) -> dict[str, str]:
    return {} if expired is None else {f"{GC}expire": PAST if expired else FUTURE}


def name(node: Node) -> str:
    kind, number = node
    return DIGESTS[number] if kind == "B" else f"{kind.lower()}{number}"


def label_kind(node: Node) -> str:
    return {"B": "content", "S": "snapshot.native", "I": "image", "C": "container", "T": "stream"}[node[0]]


blobs = st.tuples(st.just("B"), st.integers(0, BLOBS - 1))
snapshots = st.tuples(st.just("S"), st.integers(0, SNAPSHOTS - 1))
images = st.tuples(st.just("I"), st.integers(0, IMAGES - 1))
containers = st.tuples(st.just("C"), st.integers(0, CONTAINERS - 1))
streams = st.tuples(st.just("T"), st.integers(0, STREAMS - 1))
expiries = st.sampled_from((None, True, False))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    parents: dict[int, int | None] = {}
    for number in draw(st.sets(st.integers(0, SNAPSHOTS - 1))):
        parents[number] = draw(st.none() | st.sampled_from(sorted(parents))) if parents else None
    made = draw(st.sets(st.integers(0, BLOBS - 1)))
    lease = st.builds(
        Lease, st.booleans(), expiries, st.lists(st.one_of(blobs, snapshots, images, streams), min_size=1, max_size=3)
    )
    leases = draw(st.lists(lease, max_size=3))
    keepers = [blobs, snapshots, images, containers]
    if leases:
        keepers.append(st.tuples(st.just("L"), st.integers(0, len(leases) - 1)))
    return Graph(
        blobs=made,
        parents=parents,
        images=draw(st.dictionaries(st.integers(0, IMAGES - 1), st.tuples(st.integers(0, BLOBS - 1), expiries))),
        containers=draw(st.dictionaries(st.integers(0, CONTAINERS - 1), st.none() | st.integers(0, SNAPSHOTS - 1))),
        roots=draw(st.sets(st.one_of(blobs, snapshots), max_size=2)),
        references=draw(
            st.lists(
                st.tuples(
                    st.one_of(blobs, snapshots, images, containers), st.one_of(blobs, snapshots, images, streams)
                ),
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
        sandbox=draw(st.lists(st.one_of(blobs, snapshots, images, streams), max_size=1)),
        streams=draw(
            st.dictionaries(
                st.integers(0, STREAMS - 1),
                st.tuples(st.sampled_from((False, False, True)), st.none() | st.one_of(keepers)),
            )
        ),
        separators=draw(st.sampled_from(("/", ".", "/."))),
        leases=leases,
    )


async def build(core: Core, graph: Graph, streams: Streams) -> None:
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
    for index, lease in enumerate(graph.leases):
        labels = ({f"{GC}flat": "1"} if lease.flat else {}) | expiry(lease.expired)
        await metadata.leases.create(name(("L", index)), labels=labels)
        for node in lease.resources:
            await metadata.leases.add(name(("L", index)), resource(node))
    ns = context.namespace()
    streams.items = {(ns, name(("T", number))) for number in graph.streams}
    streams.used = {(ns, name(("T", number))) for number, (active, _) in graph.streams.items() if active}
    streams.attached = [
        Attachment(ns, name(("T", number)), resource(keeper))
        for number, (_, keeper) in graph.streams.items()
        if keeper is not None
    ]


def resource(node: Node) -> LeaseResource:
    kinds = {"B": "content", "S": "snapshots/native", "I": "images", "C": "containers", "T": "stream", "L": "leases"}
    return LeaseResource(name(node), kinds[node[0]])


async def found(core: Core, streams: Streams) -> set[Node]:
    """What is there, in the current namespace."""
    metadata = core.metadata
    nodes: set[Node] = {("B", DIGESTS.index(info.digest)) async for info in metadata.content.walk()}
    nodes |= {("S", int(info.name[1:])) async for info in metadata.snapshotters["native"].walk()}
    nodes |= {("I", int(image.name[1:])) for image in await metadata.images.list()}
    nodes |= {("T", int(id[1:])) for _, id in streams.items}
    return nodes | {("C", int(container.id[1:])) for container in await metadata.containers.list()}


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where there is one: thousands of flushes to a disk would take longer than all the rest."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else tmp_path) as name:
        yield Path(name)


@pytest.mark.timeout(400)
def test_what_a_collection_leaves(memory: Path) -> None:
    counter = itertools.count()
    with asyncio.Runner() as runner:
        core = runner.run(Core.open(memory))
        streams = Streams()
        core.metadata.register_collectible(streams)
        database = sqlite3.connect(f"file:{memory}/meta.sqlite?mode=ro", uri=True)

        async def check(graph: Graph) -> None:
            with context.scope(namespace=f"n{next(counter)}"):
                await build(core, graph, streams)
                assert await found(core, streams) == set(graph.nodes())
                await core.metadata.collect()
                assert await found(core, streams) == graph.survivors()
                live = [lease for lease in graph.leases if not lease.expired]
                assert len(await core.metadata.leases.list()) == len(live)
                assert await core.metadata.check() == []
                await clear()

        async def clear() -> None:
            """Take every root away, so that what is left shows whether the rest of the garbage goes too."""
            streams.used, streams.attached = set(), []
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
            assert await found(core, streams) == set()
            assert [[info async for info in store.walk()] for store in (core.snapshots, core.content)] == [[], []]
            # Nor does the database keep the names of what was once referred to.
            assert [*database.execute("SELECT kind, name FROM node WHERE ns != 0")] == []

        @settings(max_examples=GRAPHS, deadline=None, suppress_health_check=list(HealthCheck))
        @given(graph=graphs())
        def examples(graph: Graph) -> None:
            runner.run(check(graph))

        examples()
        database.close()
        runner.run(core.close())
