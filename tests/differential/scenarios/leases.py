# SPDX-License-Identifier: Apache-2.0
"""Leases, and what they keep."""

from __future__ import annotations

from typing import Any

from tests.differential.calls import Call, Scenario, call
from tests.differential.scenarios import containers
from tests.differential.scenarios.common import (
    DIGEST,
    LONG,
    ROOT,
    TARGET,
    UNKNOWN,
    Rows,
    commit,
    digest,
    ingested,
    table,
    written,
)

PAST = {"containerd.io/gc.expire": "2001-02-03T04:05:06Z"}
FUTURE = {"containerd.io/gc.expire": "2901-02-03T04:05:06Z"}
NATIVE = {"snapshotter": "native"}
COLLECT = [call("Leases.Create", id="collect"), call("Leases.Delete", id="collect", sync=True)]
"""Has garbage collected, and waits for that."""


def create(id: str = "one", **labels: str) -> Call:
    """A call that makes a lease."""
    return call("Leases.Create", id=id, labels=labels)


def add(type: str, id: str, lease: str = "one") -> Call:
    """A call that puts something under a lease."""
    return call("Leases.AddResource", id=lease, resource={"id": id, "type": type})


def drop(type: str, id: str, lease: str = "one") -> Call:
    """A call that takes something from a lease."""
    return call("Leases.DeleteResource", id=lease, resource={"id": id, "type": type})


def snapshot(key: str, lease: str = "", **more: Any) -> Call:
    """A call that makes a snapshot."""
    return call("Snapshots.Prepare", NATIVE | {"key": key} | more, lease=lease)


LOOK = [call("Leases.List")]
KEPT = [call("Leases.ListResources", id="one")]
CREATE: Rows = {
    "with labels": create(a="1", b="2"),
    "without labels": create(),
    "id of any form": create("any id: at all/"),
    "id beyond ASCII": create("é"),
    "long id": create("l" * 3000),
    "twice": [create(), create(a="1")],
    "again after delete": [create(), call("Leases.Delete", id="one"), create(a="1")],
    "label too long": create(k=LONG),
    "label without a value": create(k=""),
    "label of an expiry": create(**FUTURE),
    "label of an expiry that is no time": create(**{"containerd.io/gc.expire": "tomorrow"}),
    "in two namespaces": [create(), call("Leases.Create", {"id": "one"}, namespace="<ns>-b")],
}
DELETE: Rows = {
    "once": call("Leases.Delete", id="one"),
    "twice": [call("Leases.Delete", id="one")] * 2,
    "no id": call("Leases.Delete"),
    "not there": call("Leases.Delete", id="nosuch"),
    "not there, and wait": call("Leases.Delete", id="nosuch", sync=True),
    "and wait": call("Leases.Delete", id="one", sync=True),
    "in another namespace": call("Leases.Delete", {"id": "one"}, namespace="<ns>-b"),
    "one of two": [create("two"), call("Leases.Delete", id="two")],
    "the lease that the call is under": call("Leases.Delete", {"id": "one"}, lease="one"),
}
RESOURCES = {
    "content": ("content", DIGEST),
    "content of nonsense": ("content", "nonsense"),
    "content without digest": ("content", ""),
    "content, digest too short": ("content", "sha256:12"),
    "snapshot": ("snapshots/native", "key"),
    "snapshot of an unknown snapshotter": ("snapshots/nosuch", "key"),
    "snapshot without a key": ("snapshots/native", ""),
    "snapshots without a snapshotter": ("snapshots", "key"),
    "snapshots with an empty snapshotter": ("snapshots/", "key"),
    "snapshots with two snapshotters": ("snapshots/native/x", "key"),
    "ingest": ("ingests", "ref"),
    "ingest without a ref": ("ingests", ""),
    "ingest with a part": ("ingests/x", "ref"),
    "content with a part": ("content/x", DIGEST),
    "unknown type": ("nosuch", "key"),
    "empty type": ("", "key"),
    "containers": ("containers", "c1"),
    "type in capitals": ("Content", DIGEST),
    "singular type": ("snapshot/native", "key"),
    "image": ("images", "img"),
}
ADD: Rows = {name: add(*resource) for name, resource in RESOURCES.items()}
ADD |= {
    "the same twice": [add("content", DIGEST), add("content", DIGEST)],
    "to a lease that is not there": add("content", DIGEST, "nosuch"),
    "to no lease": add("content", DIGEST, ""),
    "no resource": call("Leases.AddResource", id="one"),
    "of all types": [
        add("content", DIGEST),
        add("snapshots/native", "k"),
        add("ingests", "r"),
        add("content", UNKNOWN),
    ],
    "of two snapshotters": [add("snapshots/overlayfs", "k"), add("snapshots/native", "k")],
}
DROP: Rows = {name: drop(*resource) for name, resource in RESOURCES.items()}
DROP |= {
    "what is there": [add("content", DIGEST), drop("content", DIGEST)],
    "what is there, twice": [add("content", DIGEST), drop("content", DIGEST), drop("content", DIGEST)],
    "from a lease that is not there": drop("content", DIGEST, "nosuch"),
    "one of two": [add("content", DIGEST), add("content", UNKNOWN), drop("content", UNKNOWN)],
    "a snapshot": [add("snapshots/native", "k"), drop("snapshots/native", "k")],
    "a snapshot of another snapshotter": [add("snapshots/native", "k"), drop("snapshots/overlayfs", "k")],
    "an ingest": [add("ingests", "r"), drop("ingests", "r")],
    "no resource": call("Leases.DeleteResource", id="one"),
}
UNDER: Rows = {
    "container": call("Containers.Create", {"container": containers.GOOD}, lease="one"),
    "image": call("Images.Create", {"image": {"name": "img", "target": TARGET}}, lease="one"),
    "blob": ingested(lease="one"),
    "ingest": call("Content.Write", written("r"), lease="one"),
    "ingest that is committed later": [
        call("Content.Write", written("r"), lease="one"),
        call("Content.Write", commit("r"), lease="one"),
    ],
    "ingest that is committed without it": [
        call("Content.Write", written("r"), lease="one"),
        call("Content.Write", commit("r")),
    ],
    "snapshot": snapshot("k", "one"),
    "view": call("Snapshots.View", NATIVE | {"key": "k"}, lease="one"),
    "snapshot that is committed": [
        snapshot("k", "one"),
        call("Snapshots.Commit", NATIVE | {"name": "n", "key": "k"}, lease="one"),
    ],
    "snapshot that is committed without it": [
        snapshot("k", "one"),
        call("Snapshots.Commit", NATIVE | {"name": "n", "key": "k", "labels": ROOT}),
    ],
    "snapshot that is removed": [snapshot("k", "one"), call("Snapshots.Remove", NATIVE | {"key": "k"}, lease="one")],
    "snapshot that is removed without it": [snapshot("k", "one"), call("Snapshots.Remove", NATIVE | {"key": "k"})],
    "blob that is deleted": [ingested(lease="one"), call("Content.Delete", {"digest": DIGEST}, lease="one")],
    "blob that is deleted without it": [ingested(lease="one"), call("Content.Delete", digest=DIGEST)],
    "list": call("Images.List", {}, lease="one"),
    "lease that is not there, container": call("Containers.Create", {"container": containers.GOOD}, lease="nosuch"),
    "lease that is not there, blob": ingested(lease="nosuch"),
    "lease that is not there, snapshot": snapshot("k", "nosuch"),
    "lease that is not there, list": call("Images.List", {}, lease="nosuch"),
    "lease of another namespace": Call("Snapshots.Prepare", (NATIVE | {"key": "k"},), "<ns>-b", "one"),
}
SEEN = [
    call("Content.Info", digest=DIGEST),
    call("Content.Status", ref="r"),
    call("Snapshots.List", snapshotter="native"),
    call("Leases.List"),
    call("Images.List"),
]
COLLECTED: Rows = {
    "what a lease keeps": [create(), ingested(lease="one"), snapshot("k", "one"), *COLLECT],
    "what an expired lease keeps": [create(**PAST), ingested(lease="one"), snapshot("k", "one"), *COLLECT],
    "what a lease keeps that expires later": [create(**FUTURE), ingested(lease="one"), *COLLECT],
    "what a lease keeps whose expiry is no time": [
        create(**{"containerd.io/gc.expire": "tomorrow"}),
        ingested(lease="one"),
        *COLLECT,
    ],
    "what no lease keeps": [ingested(), snapshot("k"), *COLLECT],
    "what is made again, and removed then": [
        snapshot("k"),
        *COLLECT,
        snapshot("k"),
        call("Snapshots.Remove", NATIVE | {"key": "k"}),
    ],
    "what has a root label": [ingested(labels=ROOT), snapshot("k", labels=ROOT), *COLLECT],
    "an ingest that no lease keeps": [call("Content.Write", written("r")), *COLLECT],
    "an ingest of a lease that is deleted": [
        create(),
        call("Content.Write", written("r"), lease="one"),
        call("Leases.Delete", id="one", sync=True),
    ],
    "what was added by hand": [create(), ingested(), add("content", DIGEST), *COLLECT],
    "what was taken away by hand": [create(), ingested(lease="one"), drop("content", DIGEST), *COLLECT],
    "what a blob refers to": [
        ingested(b"child", "c"),
        ingested(labels=ROOT | {"containerd.io/gc.ref.content.0": digest(b"child")}),
        *COLLECT,
        call("Content.Info", digest=digest(b"child")),
    ],
    "what an image's label refers to": [
        ingested(b"child", "c"),
        call(
            "Images.Create",
            image={
                "name": "img",
                "target": TARGET,
                "labels": {"containerd.io/gc.ref.content.x": digest(b"child")},
            },
        ),
        *COLLECT,
        call("Content.Info", digest=digest(b"child")),
    ],
    "what a blob's label refers to, a snapshot": [
        snapshot("k"),
        ingested(labels=ROOT | {"containerd.io/gc.ref.snapshot.native": "k"}),
        *COLLECT,
    ],
    "what a container's label refers to": [
        ingested(b"child", "c"),
        snapshot("k"),
        call(
            "Containers.Create",
            container=containers.GOOD
            | {
                "labels": {
                    "containerd.io/gc.ref.content": digest(b"child"),
                    "containerd.io/gc.ref.snapshot.native/x": "k",
                }
            },
        ),
        *COLLECT,
        call("Content.Info", digest=digest(b"child")),
    ],
    "what a container refers to": [
        snapshot("k"),
        call("Containers.Create", container=containers.GOOD | {"snapshotter": "native", "snapshot_key": "k"}),
        *COLLECT,
    ],
    "what a deleted container referred to": [
        snapshot("k"),
        call("Containers.Create", container=containers.GOOD | {"snapshotter": "native", "snapshot_key": "k"}),
        call("Containers.Delete", id="c1"),
        *COLLECT,
    ],
    "what an image refers to": [
        ingested(),
        call("Images.Create", image={"name": "img", "target": TARGET | {"digest": DIGEST}}),
        *COLLECT,
    ],
    "the parents of a snapshot": [
        snapshot("a", labels=ROOT),
        call("Snapshots.Commit", NATIVE | {"name": "base", "key": "a"}),
        snapshot("b", parent="base", labels=ROOT),
        *COLLECT,
    ],
    "a committed snapshot of its own": [
        snapshot("a", labels=ROOT),
        call("Snapshots.Commit", NATIVE | {"name": "base", "key": "a"}),
        *COLLECT,
    ],
    "what a flat lease keeps": [
        create(**{"containerd.io/gc.flat": "1"}),
        snapshot("a", "one"),
        call("Snapshots.Commit", NATIVE | {"name": "base", "key": "a"}, lease="one"),
        snapshot("b", "one", parent="base"),
        *COLLECT,
    ],
}
LIST: Rows = {
    "none": call("Leases.List"),
    "in order": [*(create(name) for name in ("b", "B", "a-1", "a", "é")), call("Leases.List")],
    "of an id": [create(), create("two"), call("Leases.List", filters=["id==two"])],
    "with a label": [create(a="1"), create("two"), call("Leases.List", filters=["labels.a==1"])],
    "bad filter": call("Leases.List", filters=["=="]),
    "of an unknown field": [create(), call("Leases.List", filters=["nosuch"])],
    "resources of none": call("Leases.ListResources", id="nosuch"),
    "resources of no id": call("Leases.ListResources"),
    "resources from another namespace": [create(), Call("Leases.ListResources", ({"id": "one"},), "<ns>-b")],
}
SCENARIOS: list[Scenario] = [
    *table("create a lease", CREATE, after=LOOK),
    *table("delete a lease", DELETE, before=[create()], after=LOOK),
    *table("add to a lease", ADD, before=[create()], after=KEPT),
    *table("take from a lease", DROP, before=[create()], after=KEPT),
    *table("under a lease", UNDER, before=[create()], after=KEPT),
    *table("collect", COLLECTED, after=SEEN),
    *table("list leases", LIST),
]
