# SPDX-License-Identifier: Apache-2.0
"""Namespaces. Their names go on from that of the scenario's own, so that scenarios do not meet."""

from __future__ import annotations

from typing import Any

from tests.differential.calls import Call, Scenario, call
from tests.differential.scenarios import containers, images
from tests.differential.scenarios.common import LONG, ROOT, Rows, ingested, masks, table

Y = "<ns>-y"


def make(name: str, **labels: Any) -> Call:
    """A call that makes a namespace."""
    return call("Namespaces.Create", {"namespace": {"name": name, "labels": labels}})


def send(method: str, **fields: Any) -> Call:
    """A call about a namespace."""
    return call(f"Namespaces.{method}", fields)


LOOK = [send("Get", name=Y)]
CREATE: Rows = {
    "with labels": make(Y, a="1", b="2"),
    "without labels": make(Y),
    "no name": make(""),
    "no request": send("Create"),
    "slash": make("no/slash"),
    "two dots": make("two..dots"),
    "dash first": make("-dash"),
    "dot last": make("dot."),
    "space": make("a b"),
    "beyond ASCII": make("é"),
    "77 characters": make("x" * 77),
    "capitals": [make("<ns>-Y"), make(Y)],
    "underscore": make("<ns>-a_b"),
    "twice": [make(Y), make(Y, a="1")],
    "label too long": make(Y, k=LONG),
    "label just not too long": make(Y, k="x" * 4095),
    "label without a value": make(Y, k=""),
    "label of a default": make(Y, **{"containerd.io/defaults/snapshotter": "native"}),
    "there because of a container": [containers.create(), send("Create", namespace={"name": "<ns>"})],
    "without a namespace in the header": call("Namespaces.Create", {"namespace": {"name": Y}}, namespace=""),
}
CHANGE = {"name": Y, "labels": {"a": "9", "c": "3", "dotted.key": "8"}}
PATHS = (
    ["labels"],
    ["labels.a"],
    ["labels.b"],
    ["labels.c"],
    ["labels.nosuch"],
    ["labels.dotted.key"],
    ["labels."],
    ["name"],
    ["nosuch"],
    [""],
    ["labels.a", "labels.b"],
    ["labels.a", "nosuch"],
)
UPDATE: Rows = {
    "no mask": send("Update", namespace=CHANGE),
    "no mask, no labels": send("Update", namespace={"name": Y}),
    "no name": send("Update", namespace={"labels": {"a": "9"}}),
    "no request": send("Update"),
    "not there": [send("Update", namespace={"name": "<ns>-z", "labels": {"a": "1"}}), send("Get", name="<ns>-z")],
    "not there, a mask": [
        send("Update", namespace={"name": "<ns>-z", "labels": {"a": "1"}}, update_mask={"paths": ["labels.a"]}),
        send("Get", name="<ns>-z"),
    ],
    "not there, nothing to set": [send("Update", namespace={"name": "<ns>-z"}), send("Delete", name="<ns>-z")],
    "not there, an empty label": [
        send("Update", namespace={"name": "<ns>-z"}, update_mask={"paths": ["labels.a"]}),
        send("Delete", name="<ns>-z"),
    ],
    "not there, invalid name": send("Update", namespace={"name": "no/slash", "labels": {"a": "1"}}),
    "label too long": send("Update", namespace={"name": Y, "labels": {"k": LONG}}, update_mask={"paths": ["labels.k"]}),
    "label too long, no mask": send("Update", namespace={"name": Y, "labels": {"k": LONG}}),
    "label set to nothing": send(
        "Update", namespace={"name": Y, "labels": {"a": ""}}, update_mask={"paths": ["labels.a"]}
    ),
}
IN_Y = {"namespace": Y}
DELETE: Rows = {
    "once": send("Delete", name=Y),
    "twice": [send("Delete", name=Y)] * 2,
    "no name": send("Delete"),
    "not there": send("Delete", name="<ns>-nosuch"),
    "invalid name": send("Delete", name="no/slash"),
    "with a container": [
        call("Containers.Create", {"container": containers.GOOD}, **IN_Y),
        send("Delete", name=Y),
        call("Containers.Delete", {"id": "c1"}, **IN_Y),
        send("Delete", name=Y),
    ],
    "with an image": [
        call("Images.Create", {"image": images.GOOD}, **IN_Y),
        send("Delete", name=Y),
        call("Images.Delete", {"name": "img"}, **IN_Y),
        send("Delete", name=Y),
    ],
    "with content": [Call("Content.Write", ingested(ref="r").requests, Y), send("Delete", name=Y)],
    "with a snapshot": [
        call("Snapshots.Prepare", {"snapshotter": "native", "key": "k", "labels": ROOT}, **IN_Y),
        send("Delete", name=Y),
        call("Snapshots.Remove", {"snapshotter": "native", "key": "k"}, **IN_Y),
        send("Delete", name=Y),
    ],
    "with a lease": [call("Leases.Create", {"id": "l"}, **IN_Y), send("Delete", name=Y)],
    "with an ingest": [
        call("Content.Write", {"action": 1, "ref": "r", "data": b"x"}, **IN_Y),
        send("Delete", name=Y),
        call("Content.Abort", {"ref": "r"}, **IN_Y),
        send("Delete", name=Y),
    ],
    "with labels only": [send("Update", namespace=CHANGE), send("Delete", name=Y)],
    "and then again": [send("Delete", name=Y), make(Y, z="26")],
}
GET: Rows = {
    "not there": send("Get", name="<ns>-nosuch"),
    "no name": send("Get"),
    "invalid name": send("Get", name="no/slash"),
    "begun by a container": [containers.create(), send("Get", name="<ns>")],
    "begun by a failed container": [containers.create(runtime={}), send("Delete", name="<ns>")],
    "begun by an image": [images.create(), send("Get", name="<ns>"), send("Delete", name="<ns>")],
    "begun by a lease": [call("Leases.Create", id="l"), send("Delete", name="<ns>")],
    "begun by a list": [call("Containers.List"), send("Delete", name="<ns>")],
    "begun by a status": [call("Content.Status", ref="nosuch"), send("Delete", name="<ns>")],
    "begun by an update that fails": [
        call("Containers.Update", container={"id": "nosuch"}),
        send("Delete", name="<ns>"),
    ],
    "begun by an event": [
        call("Events.Publish", topic="/a/b", event={"type_url": "t"}),
        send("Delete", name="<ns>"),
    ],
    "without a namespace in the header": call("Namespaces.Get", {"name": Y}, namespace=""),
}
SCENARIOS: list[Scenario] = [
    *table("create a namespace", CREATE, after=LOOK),
    *table("update a namespace", UPDATE, before=[make(Y, a="1", b="2", **{"dotted.key": "3"})], after=LOOK),
    *table(
        "update a namespace",
        {
            name: Call(row.method, row.requests)
            for name, row in masks("Namespaces.Update", "namespace", CHANGE, *PATHS).items()
        },
        before=[make(Y, a="1", b="2", **{"dotted.key": "3"})],
        after=LOOK,
    ),
    *table("delete a namespace", DELETE, before=[make(Y, a="1")], after=LOOK),
    *table("get a namespace", GET),
]
