# SPDX-License-Identifier: Apache-2.0
"""Snapshots, of the native and the overlay snapshotter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.differential.calls import NS, Call, Scenario, call
from tests.differential.scenarios.common import LONG, ROOT, Rows, Steps, masks, steps, table

NATIVE = "native"


def snap(method: str, namespace: str = NS, **fields: Any) -> Call:
    """A call to the native snapshotter, unless another one is named."""
    return call(f"Snapshots.{method}", {"snapshotter": NATIVE} | fields, namespace=namespace)


def prepare(key: str, parent: str = "", **labels: str) -> Call:
    """A call that makes an active snapshot."""
    return snap("Prepare", key=key, parent=parent, labels=ROOT | labels)


def view(key: str, parent: str = "", **labels: str) -> Call:
    """A call that makes a view."""
    return snap("View", key=key, parent=parent, labels=ROOT | labels)


def finish(name: str, key: str, **labels: str) -> Call:
    """A call that commits."""
    return snap("Commit", name=name, key=key, labels=ROOT | labels)


BASE = [prepare("a"), finish("base", "a", own="1")]
LOOK = [snap("List")]
BOTH: Rows = {
    "prepare": prepare("k"),
    "prepare without labels": snap("Prepare", key="k"),
    "prepare with labels": prepare("k", own="1", other="2"),
    "prepare, label too long": prepare("k", k=LONG),
    "prepare, label without a value": prepare("k", k=""),
    "prepare twice": [prepare("k"), prepare("k")],
    "prepare without a key": snap("Prepare", key=""),
    "prepare, key of any form": prepare("any key: at all"),
    "prepare, key with slashes": prepare("a/b/c"),
    "prepare, key beyond ASCII": prepare("é"),
    "prepare on nothing that is there": prepare("k", "nosuch"),
    "prepare on what is committed": [*BASE, prepare("k", "base")],
    "prepare on what is active": [prepare("a"), prepare("k", "a")],
    "prepare on a view": [view("v"), prepare("k", "v")],
    "prepare with the name of what is committed": [*BASE, prepare("base")],
    "prepare on itself": prepare("k", "k"),
    "view": view("v"),
    "view of what is committed": [*BASE, view("v", "base")],
    "view of nothing that is there": view("v", "nosuch"),
    "view of what is active": [prepare("a"), view("v", "a")],
    "view without a key": snap("View", key=""),
    "view twice": [view("v"), view("v")],
    "view, label too long": view("v", k=LONG),
    "view, key of an active one": [prepare("k"), view("k")],
    "commit": [prepare("a"), finish("base", "a")],
    "commit with labels": [prepare("a", mine="1"), finish("base", "a", own="2")],
    "commit without labels": [prepare("a", mine="1"), snap("Commit", name="base", key="a")],
    "commit, label too long": [prepare("a"), finish("base", "a", k=LONG)],
    "commit without a name": [prepare("a"), finish("", "a")],
    "commit without a key": finish("base", ""),
    "commit what is not there": finish("base", "nosuch"),
    "commit what is committed": [*BASE, finish("again", "base")],
    "commit a view": [view("v"), finish("base", "v")],
    "commit a name that is there": [*BASE, prepare("b"), finish("base", "b")],
    "commit under the key": [prepare("a"), finish("a", "a")],
    "commit under the key of another": [prepare("a"), prepare("b"), finish("b", "a")],
    "commit, and use the key again": [*BASE, prepare("a")],
    "commit a child": [*BASE, prepare("b", "base"), finish("second", "b")],
    "mounts of an active one": [prepare("k"), snap("Mounts", key="k")],
    "mounts of a child": [*BASE, prepare("k", "base"), snap("Mounts", key="k")],
    "mounts of a grandchild": [
        *BASE,
        prepare("b", "base"),
        finish("second", "b"),
        prepare("k", "second"),
        snap("Mounts", key="k"),
    ],
    "mounts of a view of two": [
        *BASE,
        prepare("b", "base"),
        finish("second", "b"),
        view("v", "second"),
        snap("Mounts", key="v"),
    ],
    "mounts of a view": [*BASE, view("v", "base"), snap("Mounts", key="v")],
    "mounts of a committed one": [*BASE, snap("Mounts", key="base")],
    "mounts of nothing": snap("Mounts", key="nosuch"),
    "mounts without a key": snap("Mounts", key=""),
    "mounts from another namespace": [prepare("k"), snap("Mounts", namespace="<ns>-b", key="k")],
    "stat of an active one": [prepare("k", own="1"), snap("Stat", key="k")],
    "stat of a view": [*BASE, view("v", "base"), snap("Stat", key="v")],
    "stat of a committed one": [*BASE, snap("Stat", key="base")],
    "stat of nothing": snap("Stat", key="nosuch"),
    "stat without a key": snap("Stat", key=""),
    "stat of the key after commit": [*BASE, snap("Stat", key="a")],
    "stat from another namespace": [prepare("k"), snap("Stat", namespace="<ns>-b", key="k")],
    "remove an active one": [prepare("k"), snap("Remove", key="k")],
    "remove a view": [view("v"), snap("Remove", key="v")],
    "remove a committed one": [*BASE, snap("Remove", key="base")],
    "remove twice": [prepare("k"), snap("Remove", key="k"), snap("Remove", key="k")],
    "remove nothing": snap("Remove", key="nosuch"),
    "remove without a key": snap("Remove", key=""),
    "remove what has a child": [*BASE, prepare("k", "base"), snap("Remove", key="base")],
    "remove what has a view": [*BASE, view("v", "base"), snap("Remove", key="base")],
    "remove the child, then the parent": [
        *BASE,
        prepare("k", "base"),
        snap("Remove", key="k"),
        snap("Remove", key="base"),
    ],
    "remove in another namespace": [prepare("k"), snap("Remove", namespace="<ns>-b", key="k")],
    "remove, and make again": [prepare("k", own="1"), snap("Remove", key="k"), prepare("k")],
    "usage of an empty one": [prepare("k"), snap("Usage", key="k")],
    "usage of a committed one": [*BASE, snap("Usage", key="base")],
    "usage of a view": [*BASE, view("v", "base"), snap("Usage", key="v")],
    "usage of nothing": snap("Usage", key="nosuch"),
    "usage without a key": snap("Usage", key=""),
    "clean up": snap("Cleanup"),
    "list none": snap("List"),
    "list of another namespace": [*BASE, snap("List", namespace="<ns>-b")],
    "list kinds, active": [*BASE, view("v"), prepare("k"), snap("List", filters=["kind==active"])],
    "list kinds, view": [*BASE, view("v"), prepare("k"), snap("List", filters=["kind==view"])],
    "list kinds, committed": [*BASE, view("v"), prepare("k"), snap("List", filters=["kind==committed"])],
    "list kinds, in capitals": [*BASE, snap("List", filters=["kind==Committed"])],
    "list children": [*BASE, prepare("k", "base"), snap("List", filters=["parent==base"])],
    "list those without a parent": [*BASE, prepare("k", "base"), snap("List", filters=['parent==""'])],
    "list with a name": [*BASE, prepare("k"), snap("List", filters=["name==k"])],
    "list with a label": [*BASE, prepare("k"), snap("List", filters=["labels.own==1"])],
    "list, bad filter": [*BASE, snap("List", filters=["=="])],
    "list, bad filter of nothing": snap("List", filters=["=="]),
    "list, unknown field": [*BASE, snap("List", filters=["nosuch"])],
    "list in order": [*(prepare(name) for name in ("b", "B", "a-1", "a", "é")), snap("List")],
    "target that is there": [
        *BASE,
        snap("Prepare", key="k", labels=ROOT | {"containerd.io/snapshot.ref": "base"}),
    ],
    "target that is not there": snap("Prepare", key="k", labels=ROOT | {"containerd.io/snapshot.ref": "nosuch"}),
    "target of a view": [*BASE, snap("View", key="k", labels=ROOT | {"containerd.io/snapshot.ref": "base"})],
    "label for the snapshotter": prepare("k", **{"containerd.io/snapshot/x": "1"}),
}
CHANGE = {"name": "base", "labels": {"own": "9", "c": "3", "dotted.key": "8"}, "parent": "x", "kind": 2}
UPDATE: Rows = {
    "no mask": snap("Update", info=CHANGE),
    "no mask, no labels": snap("Update", info={"name": "base"}),
    "no name": snap("Update", info={"labels": {"a": "1"}}),
    "no request": snap("Update"),
    "not there": snap("Update", info={"name": "nosuch"}),
    "not there, a mask": snap("Update", info={"name": "nosuch"}, update_mask={"paths": ["labels"]}),
    "label too long": snap("Update", info={"name": "base", "labels": {"k": LONG}}, update_mask={"paths": ["labels.k"]}),
    "label too long, no mask": snap("Update", info={"name": "base", "labels": {"k": LONG}}),
    "label set to nothing": snap(
        "Update", info={"name": "base", "labels": {"own": ""}}, update_mask={"paths": ["labels.own"]}
    ),
    "an active one": [prepare("k"), snap("Update", info={"name": "k", "labels": {"new": "1"}})],
    "a label for the snapshotter": snap(
        "Update",
        info={"name": "base", "labels": {"containerd.io/snapshot/x": "1"}},
        update_mask={"paths": ["labels.containerd.io/snapshot/x"]},
    ),
    "a kind that does not exist": snap("Update", info={"name": "base", "kind": 9}),
    "in another namespace": snap("Update", namespace="<ns>-b", info=CHANGE),
}
PATHS = (
    ["labels"],
    ["labels.own"],
    ["labels.c"],
    ["labels.nosuch"],
    ["labels.dotted.key"],
    ["labels."],
    ["parent"],
    ["kind"],
    ["name"],
    ["created_at"],
    ["nosuch"],
    [""],
    ["labels.own", "labels.c"],
    ["labels.own", "nosuch"],
)


def with_snapshotter(rows: Mapping[str, Steps], name: str) -> dict[str, Steps]:
    """The same rows for another snapshotter."""
    return {
        row: [
            Call(
                step.method,
                tuple(dict(request) | {"snapshotter": name} for request in step.requests),
                step.namespace,
                step.lease,
            )
            for step in steps(some)
            if isinstance(step, Call)
        ]
        for row, some in rows.items()
    }


MASKS = masks("Snapshots.Update", "info", CHANGE, *PATHS)
NAMED: Rows = {
    f"{method}, {what}": call(f"Snapshots.{method}", snapshotter=name)
    for method in ("Prepare", "View", "Mounts", "Commit", "Remove", "Stat", "Update", "List", "Usage", "Cleanup")
    for what, name in (("none", ""), ("unknown", "nosuch"))
}
SCENARIOS: list[Scenario] = [
    *table("native snapshots", BOTH, after=LOOK),
    *table("overlay snapshots", with_snapshotter(BOTH, "overlayfs"), after=[snap("List", snapshotter="overlayfs")]),
    *table("update a snapshot", UPDATE, before=BASE, after=[*LOOK, snap("Stat", key="base")]),
    *table("update a snapshot", with_snapshotter(MASKS, NATIVE), before=BASE, after=[snap("Stat", key="base")]),
    *table("snapshotter", NAMED),
]
