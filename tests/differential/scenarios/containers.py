# SPDX-License-Identifier: Apache-2.0
"""Container records."""

from __future__ import annotations

from typing import Any

from tests.differential.calls import Call, Scenario, call
from tests.differential.scenarios.common import LONG, OTHER, RUNTIME, SPEC, Rows, masks, table

GOOD = {"id": "c1", "runtime": RUNTIME, "spec": SPEC, "labels": {"a": "1"}}
WHOLE = {
    "id": "c1",
    "image": "img",
    "runtime": RUNTIME | {"options": OTHER},
    "spec": SPEC,
    "snapshotter": "native",
    "snapshot_key": "key",
    "labels": {"a": "1", "b": "2", "dotted.key": "3"},
    "extensions": {"x": OTHER, "y": OTHER, "dotted.name": OTHER},
}
CHANGE = {
    "id": "c1",
    "image": "other",
    "runtime": {"name": "another"},
    "spec": OTHER,
    "snapshotter": "overlayfs",
    "snapshot_key": "else",
    "labels": {"a": "9", "c": "3", "dotted.key": "8"},
    "extensions": {"x": SPEC, "z": SPEC, "dotted.name": SPEC},
}
PATHS = (
    ["labels"],
    ["labels.a"],
    ["labels.b"],
    ["labels.c"],
    ["labels.nosuch"],
    ["labels.dotted.key"],
    ["labels."],
    ["labelsx"],
    ["extensions"],
    ["extensions.x"],
    ["extensions.y"],
    ["extensions.z"],
    ["extensions.nosuch"],
    ["extensions.dotted.name"],
    ["extensions."],
    ["spec"],
    ["spec.value"],
    ["image"],
    ["snapshotkey"],
    ["snapshot_key"],
    ["snapshotter"],
    ["runtime"],
    ["runtime.name"],
    ["runtime.options"],
    ["id"],
    ["created_at"],
    ["createdat"],
    ["updated_at"],
    ["sandbox"],
    ["nosuch"],
    [""],
    ["LABELS"],
    ["labels.a", "image"],
    ["image", "nosuch"],
    ["labels", "labels.b"],
    ["labels.a", "labels.a"],
    ["image", "spec", "extensions", "labels", "snapshotkey"],
)


def create(**changes: Any) -> Call:
    """A call that makes a container."""
    return call("Containers.Create", container=GOOD | changes)


LOOK = [call("Containers.Get", id="c1"), call("Containers.List")]
CREATE: Rows = {
    "all fields": create(**WHOLE),
    "fewest fields": create(labels={}),
    "no id": create(id=""),
    "no request": call("Containers.Create"),
    "slash in id": create(id="no/slash"),
    "space in id": create(id="a b"),
    "id of 76 characters": create(id="x" * 76),
    "id of 77 characters": create(id="x" * 77),
    "id that starts with a dash": create(id="-a"),
    "id that ends in a dot": create(id="a."),
    "id with two dots": create(id="a..b"),
    "id with an underscore": create(id="a_b"),
    "id with letters beyond ASCII": create(id="é"),
    "id with a newline": create(id="a\n"),
    "id of digits": create(id="007"),
    "no runtime": create(runtime={}),
    "runtime that nobody has": create(runtime={"name": "no such runtime"}),
    "runtime with options": create(runtime=RUNTIME | {"options": OTHER}),
    "no spec": create(spec=None),
    "spec without a type": create(spec={"value": b"{}"}),
    "spec without a value": create(spec={"type_url": "t"}),
    "snapshot key without snapshotter": create(snapshot_key="key"),
    "snapshotter without snapshot key": create(snapshotter="native"),
    "snapshotter that nobody has": create(snapshotter="nosuch", snapshot_key="key"),
    "extension without a name": create(extensions={"": OTHER}),
    "extension without a type": create(extensions={"x": {"value": b"1"}}),
    "extension without a value": create(extensions={"x": {"type_url": "t"}}),
    "label too long": create(labels={"k": LONG}),
    "label just not too long": create(labels={"k": "x" * 4095}),
    "label key too long": create(labels={LONG + "x": ""}),
    "label without a key": create(labels={"": "v"}),
    "label without a value": create(labels={"k": ""}),
    "label beyond ASCII too long in bytes": create(labels={"k": "é" * 2048}),
    "many labels": create(labels={f"k{number}": f"{number}" for number in range(100)}),
    "twice": [create(), create(image="other")],
    "again after delete": [create(), call("Containers.Delete", id="c1"), create(image="other")],
    "times that the client sets": create(created_at={"seconds": 5}, updated_at={"seconds": 6}),
    "ids that differ in case": [create(), create(id="C1")],
    "image name of any form": create(image="anything: at all/"),
    "large spec": create(spec={"type_url": "t", "value": b"x" * 200_000}),
}
UPDATE: Rows = {
    "no id": call("Containers.Update", container={"image": "other"}),
    "no request": call("Containers.Update"),
    "not there": call("Containers.Update", container={"id": "nosuch"}, update_mask={"paths": ["labels"]}),
    "not there, no mask": call("Containers.Update", container={"id": "nosuch"}),
    "no mask, all that may change": call("Containers.Update", container=WHOLE | {"image": "j", "labels": {"z": "1"}}),
    "no mask, other runtime": call("Containers.Update", container=WHOLE | {"runtime": {"name": "another"}}),
    "no mask, other runtime options": call("Containers.Update", container=WHOLE | {"runtime": RUNTIME}),
    "no mask, other snapshotter": call("Containers.Update", container=WHOLE | {"snapshotter": "overlayfs"}),
    "no mask, other snapshot key": call("Containers.Update", container=WHOLE | {"snapshot_key": "else"}),
    "no mask, no spec": call("Containers.Update", container=WHOLE | {"spec": None}),
    "no mask, no labels": call("Containers.Update", container=WHOLE | {"labels": {}}),
    "no mask, no extensions": call("Containers.Update", container=WHOLE | {"extensions": {}}),
    "no mask, no image": call("Containers.Update", container=WHOLE | {"image": ""}),
    "no mask, no snapshot key": call("Containers.Update", container=WHOLE | {"snapshot_key": ""}),
    "label too long": call(
        "Containers.Update", container={"id": "c1", "labels": {"k": LONG}}, update_mask={"paths": ["labels"]}
    ),
    "one label too long": call(
        "Containers.Update", container={"id": "c1", "labels": {"k": LONG}}, update_mask={"paths": ["labels.k"]}
    ),
    "remove the spec": call("Containers.Update", container={"id": "c1"}, update_mask={"paths": ["spec"]}),
    "remove the image": call("Containers.Update", container={"id": "c1"}, update_mask={"paths": ["image"]}),
    "remove the labels": call("Containers.Update", container={"id": "c1"}, update_mask={"paths": ["labels"]}),
    "remove the extensions": call("Containers.Update", container={"id": "c1"}, update_mask={"paths": ["extensions"]}),
    "extension without a name": call(
        "Containers.Update",
        container={"id": "c1", "extensions": {"": OTHER}},
        update_mask={"paths": ["extensions"]},
    ),
    "label set to nothing": call(
        "Containers.Update", container={"id": "c1", "labels": {"a": ""}}, update_mask={"paths": ["labels.a"]}
    ),
}
DELETE: Rows = {
    "once": call("Containers.Delete", id="c1"),
    "twice": [call("Containers.Delete", id="c1")] * 2,
    "no id": call("Containers.Delete"),
    "not there": call("Containers.Delete", id="nosuch"),
    "one of two": [create(id="c2"), call("Containers.Delete", id="c1")],
    "no id, where others were": [call("Containers.Delete", id="c1"), call("Containers.Delete")],
    "in another namespace": call("Containers.Delete", id="c1", namespace="<ns>-b"),
}
GET: Rows = {
    "not there": call("Containers.Get", id="nosuch"),
    "no id": call("Containers.Get"),
    "invalid id": call("Containers.Get", id="no/slash"),
    "from another namespace": call("Containers.Get", id="c1", namespace="<ns>-b"),
    "list of another namespace": call("Containers.List", namespace="<ns>-b"),
    "stream of all": [create(id="c2"), create(id="b"), call("Containers.ListStream")],
    "stream of none": call("Containers.ListStream", namespace="<ns>-b"),
    "stream with a filter": [create(id="c2"), call("Containers.ListStream", filters=["id==c2"])],
    "stream with a bad filter": call("Containers.ListStream", filters=["=="]),
    "list in order": [*(create(id=name) for name in ("b", "B", "a-1", "a1", "a.1", "z")), call("Containers.List")],
    "stream of 110": [*(create(id=f"n{number}") for number in range(110)), call("Containers.ListStream")],
}
SCENARIOS: list[Scenario] = [
    *table("create a container", CREATE, after=LOOK),
    *table("update a container", UPDATE, before=[create(**WHOLE)], after=LOOK),
    *table(
        "update a container",
        masks("Containers.Update", "container", CHANGE, *PATHS),
        before=[create(**WHOLE)],
        after=LOOK,
    ),
    *table("delete a container", DELETE, before=[create()], after=LOOK),
    *table("get a container", GET, before=[create()]),
]
