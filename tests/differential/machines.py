# SPDX-License-Identifier: Apache-2.0
"""Sequences of calls that hypothesis makes up: every step is played on both daemons and compared at once.

Names come from small sets, so that calls meet what earlier ones left. At the end of a sequence the lists and the events
of its namespace are compared as well.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from tests.differential.calls import NS, call
from tests.differential.scenarios.common import OTHER, ROOT, SPEC, UNKNOWN, digest
from tests.differential.sides import Both

names = st.sampled_from(["a", "b", "c", "A", "a.b", "no/slash", ""])
keys = st.sampled_from(["a", "b", "c", "a.b"])
labels = st.dictionaries(keys, st.sampled_from(["", "1", "2", "x y"]), max_size=3)
rooted = labels.map(lambda some: some | ROOT)
label_filters = st.sampled_from(["labels.a", "labels.a==1", "labels.b!=2", "labels.a.b~=.", "nosuch", "=="])
leases = st.sampled_from(["", "", "", "l1", "l2"])


def masks(*paths: str) -> st.SearchStrategy[dict[str, Any]]:
    """Field masks over these paths, and none at all."""
    return st.lists(st.sampled_from(paths), max_size=3, unique=True).map(lambda some: {"paths": some})


class Machine(RuleBasedStateMachine):
    """Begins and ends a sequence. *both* is set by the test."""

    both: Both
    lists: tuple[tuple[str, dict[str, Any]], ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self._play = self.both.begin("generated", type(self).__name__)

    def do(self, method: str, *requests: dict[str, Any], lease: str = "", namespace: str = NS) -> None:
        """Play a step."""
        self._play.step(call(method, *requests, lease=lease, namespace=namespace))

    def data(self, text: str) -> bytes:
        """Bytes that no other sequence has: daemons share content between namespaces."""
        return f"{self._play.number} {text}".encode()

    def teardown(self) -> None:
        """Compare what is left."""
        try:
            for method, request in self.lists:
                self.do(method, request)
            self._play.finish()
        finally:
            self._play.close()


class Containers(Machine):
    """Container records."""

    lists = (("Containers.List", {}),)

    @rule(
        id=names,
        labels=labels,
        image=st.sampled_from(["", "img"]),
        runtime=st.sampled_from(["", "r", "s"]),
        snapshotter=st.sampled_from(["", "native"]),
        key=st.sampled_from(["", "k"]),
        spec=st.sampled_from([None, SPEC]),
    )
    def create(self, id: str, runtime: str, key: str, **fields: Any) -> None:
        container = {"id": id, "runtime": {"name": runtime}, "snapshot_key": key} | fields
        self.do("Containers.Create", {"container": container})

    @rule(id=names, labels=labels)
    def create_well(self, id: str, labels: dict[str, str]) -> None:
        self.do(
            "Containers.Create", {"container": {"id": id, "runtime": {"name": "r"}, "spec": SPEC, "labels": labels}}
        )

    @rule(
        id=names,
        labels=labels,
        image=st.sampled_from(["", "img", "other"]),
        key=st.sampled_from(["", "k", "l"]),
        spec=st.sampled_from([None, SPEC, OTHER]),
        mask=masks("labels", "labels.a", "labels.b", "labels.a.b", "image", "spec", "snapshotkey", "nosuch", "runtime"),
    )
    def update(self, id: str, key: str, mask: dict[str, Any], **fields: Any) -> None:
        container = {"id": id, "runtime": {"name": "r"}, "snapshot_key": key} | fields
        self.do("Containers.Update", {"container": container, "update_mask": mask})

    @rule(id=names)
    def get(self, id: str) -> None:
        self.do("Containers.Get", {"id": id})

    @rule(id=names)
    def delete(self, id: str) -> None:
        self.do("Containers.Delete", {"id": id})

    @rule(filters=st.lists(st.one_of(label_filters, st.sampled_from(["id==a", "image", "image==img"])), max_size=2))
    def list(self, filters: list[str]) -> None:
        self.do("Containers.List", {"filters": filters})
        self.do("Containers.ListStream", {"filters": filters})


class Images(Machine):
    """Image records."""

    lists = (("Images.List", {}),)
    targets = st.fixed_dictionaries(
        {
            "media_type": st.sampled_from(["", "text/plain", "m"]),
            "digest": st.sampled_from([UNKNOWN, UNKNOWN.replace("12", "34"), "nonsense"]),
            "size": st.sampled_from([0, 1, 2]),
            "annotations": labels,
        }
    )

    @rule(name=names, labels=labels, to=targets)
    def create(self, to: dict[str, Any], **image: Any) -> None:
        self.do("Images.Create", {"image": image | {"target": to}})

    @rule(name=names, labels=labels)
    def create_well(self, **image: Any) -> None:
        self.do("Images.Create", {"image": image | {"target": {"media_type": "m", "digest": UNKNOWN, "size": 1}}})

    @rule(
        name=names,
        labels=labels,
        to=targets,
        mask=masks("labels", "labels.a", "labels.a.b", "target", "annotations", "annotations.a", "nosuch"),
    )
    def update(self, mask: dict[str, Any], to: dict[str, Any], **image: Any) -> None:
        self.do("Images.Update", {"image": image | {"target": to}, "update_mask": mask})

    @rule(name=names)
    def get(self, name: str) -> None:
        self.do("Images.Get", {"name": name})

    @rule(name=names, sync=st.booleans())
    def delete(self, name: str, sync: bool) -> None:
        self.do("Images.Delete", {"name": name, "sync": sync})

    @rule(filters=st.lists(st.one_of(label_filters, st.sampled_from(["name==a", "annotations.a"])), max_size=2))
    def list(self, filters: list[str]) -> None:
        self.do("Images.List", {"filters": filters})


class Content(Machine):
    """Blobs and ingests."""

    lists = (("Content.List", {}), ("Content.ListStatuses", {}))
    texts = st.sampled_from(["", "one", "two", "three"])
    refs = st.sampled_from(["r", "s", ""])

    @rule(
        ref=refs,
        texts=st.lists(texts, max_size=3),
        offset=st.sampled_from([0, 0, 0, 3, 5, 99]),
        total=st.sampled_from([0, 0, 5]),
        lease=leases,
    )
    def write(self, ref: str, texts: list[str], offset: int, total: int, lease: str) -> None:
        first = {"action": 0, "ref": ref, "total": total}
        writes = [{"action": 1, "ref": ref, "data": self.data(text), "offset": offset} for text in texts]
        self.do("Content.Write", first, *writes, lease=lease)

    @rule(
        ref=refs,
        text=texts,
        expected=st.sampled_from(["right", "wrong", ""]),
        total=st.sampled_from(["right", "wrong", ""]),
        labels=rooted,
        lease=leases,
    )
    def commit(self, ref: str, text: str, expected: str, total: str, labels: dict[str, str], lease: str) -> None:
        data = self.data(text)
        end = {
            "action": 2,
            "ref": ref,
            "offset": len(data),
            "total": {"right": len(data), "wrong": 1, "": 0}[total],
            "expected": {"right": digest(data), "wrong": UNKNOWN, "": ""}[expected],
            "labels": labels,
        }
        self.do("Content.Write", {"action": 1, "ref": ref, "data": data}, end, lease=lease)

    @rule(ref=refs)
    def abort(self, ref: str) -> None:
        self.do("Content.Abort", {"ref": ref})

    @rule(ref=refs)
    def status(self, ref: str) -> None:
        self.do("Content.Status", {"ref": ref})

    @rule(text=texts, offset=st.sampled_from([0, 1, 5, 99]), size=st.sampled_from([0, 1, 99]))
    def read(self, text: str, offset: int, size: int) -> None:
        self.do("Content.Read", {"digest": digest(self.data(text)), "offset": offset, "size": size})

    @rule(text=texts)
    def info(self, text: str) -> None:
        self.do("Content.Info", {"digest": digest(self.data(text))})

    @rule(text=texts, labels=rooted, mask=masks("labels", "labels.a", "labels.a.b", "size"))
    def update(self, text: str, labels: dict[str, str], mask: dict[str, Any]) -> None:
        self.do("Content.Update", {"info": {"digest": digest(self.data(text)), "labels": labels}, "update_mask": mask})

    @rule(text=texts)
    def delete(self, text: str) -> None:
        self.do("Content.Delete", {"digest": digest(self.data(text))})

    @rule(id=st.sampled_from(["l1", "l2"]))
    def lease(self, id: str) -> None:
        self.do("Leases.Create", {"id": id})

    @rule(id=st.sampled_from(["l1", "l2"]), sync=st.booleans())
    def release(self, id: str, sync: bool) -> None:
        self.do("Leases.Delete", {"id": id, "sync": sync})

    @rule(filters=st.lists(label_filters, max_size=2))
    def list(self, filters: list[str]) -> None:
        self.do("Content.List", {"filters": filters})


class Leases(Machine):
    """Leases with their resources, and what is collected without them."""

    lists = (("Leases.List", {}), ("Snapshots.List", {"snapshotter": "native"}), ("Images.List", {}))
    ids = st.sampled_from(["l1", "l2", "l3", ""])
    types = st.sampled_from(["content", "snapshots/native", "snapshots/native", "ingests", "nosuch"])
    things = st.sampled_from(["k", "m", UNKNOWN])

    @rule(id=st.sampled_from(["l1", "l2", "l3"]), labels=labels)
    def create(self, id: str, labels: dict[str, str]) -> None:
        self.do("Leases.Create", {"id": id, "labels": labels})

    @rule(id=ids, sync=st.booleans())
    def delete(self, id: str, sync: bool) -> None:
        self.do("Leases.Delete", {"id": id, "sync": sync})

    @rule(id=ids, type=types, thing=things)
    def add(self, id: str, type: str, thing: str) -> None:
        self.do("Leases.AddResource", {"id": id, "resource": {"id": thing, "type": type}})

    @rule(id=ids, type=types, thing=things)
    def drop(self, id: str, type: str, thing: str) -> None:
        self.do("Leases.DeleteResource", {"id": id, "resource": {"id": thing, "type": type}})

    @rule(id=ids)
    def resources(self, id: str) -> None:
        self.do("Leases.ListResources", {"id": id})

    @rule(key=st.sampled_from(["k", "m"]), lease=leases)
    def prepare(self, key: str, lease: str) -> None:
        self.do("Snapshots.Prepare", {"snapshotter": "native", "key": key}, lease=lease)

    @rule(key=st.sampled_from(["k", "m"]), lease=leases)
    def remove(self, key: str, lease: str) -> None:
        self.do("Snapshots.Remove", {"snapshotter": "native", "key": key}, lease=lease)

    @rule(filters=st.lists(st.one_of(label_filters, st.sampled_from(["id==l1", "id"])), max_size=2))
    def list(self, filters: list[str]) -> None:
        self.do("Leases.List", {"filters": filters})


class Namespaces(Machine):
    """Namespaces with their labels, and what keeps them."""

    owns = st.sampled_from(["<ns>-a", "<ns>-b", "<ns>-c"])
    lists = tuple(("Namespaces.Get", {"name": f"<ns>-{letter}"}) for letter in "abc")

    @rule(name=owns, labels=labels)
    def create(self, **namespace: Any) -> None:
        self.do("Namespaces.Create", {"namespace": namespace})

    @rule(name=owns, labels=labels, mask=masks("labels.a", "labels.b", "labels.a.b", "labels", "name"))
    def update(self, mask: dict[str, Any], **namespace: Any) -> None:
        self.do("Namespaces.Update", {"namespace": namespace, "update_mask": mask})

    @rule(name=owns)
    def get(self, name: str) -> None:
        self.do("Namespaces.Get", {"name": name})

    @rule(name=owns)
    def delete(self, name: str) -> None:
        self.do("Namespaces.Delete", {"name": name})

    @rule(name=owns, id=st.sampled_from(["a", "b"]))
    def fill(self, name: str, id: str) -> None:
        container = {"id": id, "runtime": {"name": "r"}, "spec": SPEC}
        self.do("Containers.Create", {"container": container}, namespace=name)

    @rule(name=owns, id=st.sampled_from(["a", "b"]))
    def empty(self, name: str, id: str) -> None:
        self.do("Containers.Delete", {"id": id}, namespace=name)

    @rule(name=owns)
    def lease(self, name: str) -> None:
        self.do("Leases.Create", {"id": "l"}, namespace=name)


class NativeSnapshots(Machine):
    """Snapshots of the native snapshotter."""

    snapshotter = "native"
    lists = (("Snapshots.List", {"snapshotter": "native"}),)
    ids = st.sampled_from(["a", "b", "c", "d", ""])

    def ask(self, method: str, **fields: Any) -> None:
        """Play a step of this snapshotter."""
        self.do(f"Snapshots.{method}", {"snapshotter": self.snapshotter} | fields)

    @rule(key=ids, parent=ids, labels=rooted)
    def prepare(self, **fields: Any) -> None:
        self.ask("Prepare", **fields)

    @rule(key=ids, labels=rooted)
    def prepare_first(self, **fields: Any) -> None:
        self.ask("Prepare", **fields)

    @rule(key=ids, parent=ids, labels=rooted)
    def view(self, **fields: Any) -> None:
        self.ask("View", **fields)

    @rule(name=ids, key=ids, labels=rooted)
    def commit(self, **fields: Any) -> None:
        self.ask("Commit", **fields)

    @rule(key=ids)
    def remove(self, key: str) -> None:
        self.ask("Remove", key=key)

    @rule(key=ids)
    def stat(self, key: str) -> None:
        self.ask("Stat", key=key)

    @rule(key=ids)
    def mounts(self, key: str) -> None:
        self.ask("Mounts", key=key)

    @rule(key=ids)
    def usage(self, key: str) -> None:
        self.ask("Usage", key=key)

    @rule(name=ids, labels=rooted, mask=masks("labels", "labels.a", "labels.a.b", "parent"))
    def update(self, name: str, labels: dict[str, str], mask: dict[str, Any]) -> None:
        self.ask("Update", info={"name": name, "labels": labels}, update_mask=mask)

    @rule(filters=st.lists(st.sampled_from(["kind==active", "parent==a", "name==b", 'parent==""']), max_size=2))
    def list(self, filters: list[str]) -> None:
        self.ask("List", filters=filters)


class OverlaySnapshots(NativeSnapshots):
    """Snapshots of the overlay snapshotter."""

    snapshotter = "overlayfs"
    lists = (("Snapshots.List", {"snapshotter": "overlayfs"}),)


class Events(Machine):
    """Events of several stores, and published ones, in their order."""

    @rule(topic=st.sampled_from(["/a", "/a/b", "/b", "", "a", "/a/"]), value=st.binary(max_size=3))
    def publish(self, topic: str, value: bytes) -> None:
        self.do("Events.Publish", {"topic": topic, "event": {"type_url": "t", "value": value}})

    @rule(topic=st.sampled_from(["/a", "/b", "a"]), namespace=st.sampled_from([NS, "<ns>-b", "", "no/slash"]))
    def forward(self, topic: str, namespace: str) -> None:
        envelope = {"timestamp": {"seconds": 1}, "namespace": namespace, "topic": topic, "event": OTHER}
        self.do("Events.Forward", {"envelope": envelope})

    @rule(id=names)
    def container(self, id: str) -> None:
        self.do("Containers.Create", {"container": {"id": id, "runtime": {"name": "r"}, "spec": SPEC}})

    @rule(id=names)
    def no_container(self, id: str) -> None:
        self.do("Containers.Delete", {"id": id})

    @rule(key=st.sampled_from(["a", "b"]))
    def snapshot(self, key: str) -> None:
        self.do("Snapshots.Prepare", {"snapshotter": "native", "key": key, "labels": ROOT})

    @rule(key=st.sampled_from(["a", "b"]))
    def no_snapshot(self, key: str) -> None:
        self.do("Snapshots.Remove", {"snapshotter": "native", "key": key})

    @rule()
    def compare(self) -> None:
        self._play.events()


MACHINES: tuple[type[Machine], ...] = (
    Containers,
    Images,
    Content,
    Leases,
    Namespaces,
    NativeSnapshots,
    OverlaySnapshots,
    Events,
)
