# SPDX-License-Identifier: Apache-2.0
"""Publishing, forwarding and following events."""

from __future__ import annotations

from typing import Any

from tests.differential.calls import Call, Follow, Scenario, call
from tests.differential.scenarios import containers, images, leases, snapshots
from tests.differential.scenarios.common import DIGEST, OTHER, ROOT, TARGET, Rows, ingested, table

EVENT = {"type_url": "example.com/event", "value": b"\x01"}
CREATED = {"type_url": "containerd.events.ContainerCreate", "value": b"\n\x02c9\x12\x03img"}
ENVELOPE = {"timestamp": {"seconds": 1, "nanos": 5000}, "namespace": "<ns>", "topic": "/a/b", "event": EVENT}


def publish(topic: str = "/a/b", event: Any = EVENT, **more: Any) -> Call:
    """A call that publishes."""
    return call("Events.Publish", {"topic": topic, "event": event}, **more)


def forward(**changes: Any) -> Call:
    """A call that forwards."""
    return call("Events.Forward", {"envelope": ENVELOPE | changes})


# An event without a payload is not among these: containerd 1.6 dies of it.
TOPICS: Rows = {
    f"topic {topic!r}": publish(topic)
    for topic in (
        *("/a", "/a/b", "/a/b/c/d/e", "/A", "/1", "/a-b/c_d", "/a.b"),
        *(
            "",
            "/",
            "a",
            "a/b",
            "/a/",
            "//a",
            "/a//b",
            "/a b",
            "/-a",
            "/a-",
            "/é",
            "/a/b\n",
            f"/{'x' * 76}",
            f"/{'x' * 77}",
        ),
    )
}
PUBLISH: Rows = TOPICS | {
    "no request": call("Events.Publish"),
    "event without a type": publish(event={"value": b"1"}),
    "event without a value": publish(event={"type_url": "t"}),
    "event of containerd's": publish("/containers/create", CREATED),
    "large event": publish(event={"type_url": "t", "value": b"x" * 300_000}),
    "twice": [publish(), publish()],
    "in another namespace": publish(namespace="<ns>-b"),
    "without a namespace": publish(namespace=""),
    "in an invalid namespace": publish(namespace="no/slash"),
}
FORWARD: Rows = {
    "as it should be": forward(),
    "no topic": forward(topic=""),
    "bad topic": forward(topic="nosuch"),
    "topic with a space": forward(topic="/a b"),
    "no namespace": forward(namespace=""),
    "bad namespace": forward(namespace="no/slash"),
    "another namespace": forward(namespace="<ns>-b"),
    "no time": forward(timestamp=None),
    "time of 1970": forward(timestamp={}),
    "time in the future": forward(timestamp={"seconds": 30_000_000_000}),
    "event without a type": forward(event={"value": b"1"}),
    "without a namespace in the header": call("Events.Forward", {"envelope": ENVELOPE}, namespace=""),
    "in another namespace than its own": call("Events.Forward", {"envelope": ENVELOPE}, namespace="<ns>-b"),
}
PUBLISHED = [
    publish("/a/b"),
    publish("/a/c", {"type_url": "other", "value": b""}),
    publish("/b", namespace="<ns>-b"),
    publish("/containers/create", CREATED),
    containers.create(),
    containers.create(id="c2", image="img"),
    call("Images.Create", image={"name": "img", "target": TARGET, "labels": {"a": "1"}}),
    call("Containers.Delete", id="c1"),
]
OWN = "namespace==<ns>"
FILTERS = {
    name: Follow(filters)
    for name, filters in {
        "all": (),
        "a namespace": (OWN,),
        "another namespace": ("namespace==<ns>-b",),
        "a topic": (f'{OWN},topic=="/a/b"',),
        "two topics": (f'{OWN},topic=="/a/b"', f'{OWN},topic=="/a/c"'),
        "topics that match": (f'{OWN},topic~="^/a/"',),
        "all topics but one": (f'{OWN},topic!="/a/b"',),
        "a field of the event": (f"{OWN},event.id==c2",),
        "a field that the event has": (f"{OWN},event.id",),
        "a field with a name of two parts": (f"{OWN},event.runtime.name==io.containerd.runc.v2",),
        "a field of images": (f"{OWN},event.name==img",),
        "a label of images": (f"{OWN},event.labels.a==1",),
        "a field that no event has": (f"{OWN},event.nosuch",),
        "a field that is not there": (f"{OWN},nosuch==1",),
        "a time": (f"{OWN},timestamp",),
        "the event": (f"{OWN},event",),
        "the type of the event": (f"{OWN},event.type_url==other",),
        "nothing": (f'{OWN},topic=="/nosuch"',),
        "the same twice": (OWN, OWN),
    }.items()
}
CHANGES: Rows = {
    "of containers": [
        containers.create(),
        call("Containers.Update", container={"id": "c1", "labels": {"z": "1"}}, update_mask={"paths": ["labels"]}),
        call("Containers.Delete", id="c1"),
    ],
    "of a container with options": containers.create(runtime={"name": "r", "options": OTHER}, image="img"),
    "of images": [
        images.create(),
        call("Images.Update", image={"name": "img", "labels": {"z": "1"}}, update_mask={"paths": ["labels.z"]}),
        call("Images.Delete", name="img"),
    ],
    "of snapshots": [
        snapshots.prepare("a"),
        snapshots.finish("base", "a"),
        snapshots.prepare("b", "base"),
        snapshots.view("v", "base"),
        snapshots.snap("Update", info={"name": "b", "labels": ROOT}),
        snapshots.snap("Remove", key="b"),
        snapshots.snap("Remove", key="v"),
    ],
    "of leases": [leases.create(), call("Leases.Delete", id="one")],
    "of content": [ingested(), call("Content.Update", info={"digest": DIGEST, "labels": {"a": "1"}})],
    "that fail": [
        containers.create(runtime={}),
        images.create(name=""),
        call("Containers.Delete", id="nosuch"),
        call("Images.Delete", name="nosuch"),
        snapshots.snap("Remove", key="nosuch"),
    ],
    "in order": [
        step for number in range(10) for step in (containers.create(id=f"c{number}"), publish(f"/n/{number}"))
    ],
}
SCENARIOS: list[Scenario] = [
    *table("publish an event", PUBLISH),
    *table("forward an event", FORWARD),
    *table("follow events", {name: [follow, *PUBLISHED] for name, follow in FILTERS.items()}),
    *table(
        "follow events",
        {
            f"bad filter {text!r}": call("Events.Subscribe", filters=[text])
            for text in ("==", "topic==", 'topic=="', "a b")
        },
    ),
    *table("events", CHANGES),
]
