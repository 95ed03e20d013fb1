# SPDX-License-Identifier: Apache-2.0
"""The API of the stores on both daemons, call by call: what is refused, with which code, and what field masks do."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.support.api import Api
from tests.support.comparison import differential
from tests.support.transcript import Recorder

SPEC = {"type_url": "types.containerd.io/opencontainers/runtime-spec/1/Spec", "value": b"{}"}
OTHER = {"type_url": "example.com/other", "value": b"\x01\x02"}
RUNTIME = {"name": "io.containerd.runc.v2"}
BLOB = b"hello, blob\n"
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
UNKNOWN = f"sha256:{'12' * 32}"
CODE = "containerd has the right error and loses its code"
WRITTEN = ("offset", "digest")
"""What counts of the answers to writes; the rest of them differs between versions of containerd."""
TARGET = {"media_type": "application/vnd.oci.image.manifest.v1+json", "digest": UNKNOWN, "size": 7}


@differential()
def test_container_records(ctr: Recorder) -> None:
    with Api(ctr) as api:
        good = {"id": "c1", "runtime": RUNTIME, "spec": SPEC, "labels": {"a": "1"}}
        wrongs: list[dict[str, Any]] = [
            {"id": ""},
            {"id": "no/slash"},
            {"runtime": {}},
            {"spec": None},
            {"snapshot_key": "k"},
            {"extensions": {"": OTHER}},
            {"labels": {"k": "x" * 4096}},
        ]
        for wrong in wrongs:
            api("Containers.Create", {"container": good | wrong})
        api("Containers.Create", {})
        api("Containers.Create", {"container": good})
        api("Containers.Create", {"container": good})
        full = {"image": "i", "snapshotter": "native", "snapshot_key": "k", "extensions": {"x": OTHER}}
        api("Containers.Create", {"container": good | full | {"id": "c2"}})
        api("Containers.Get", {"id": "c1"})
        api("Containers.Get", {"id": "nosuch"})
        api("Containers.Get", {"id": ""})
        api("Containers.List", {})
        api("Containers.List", {"filters": ["id==c1", "image==i"]})
        api("Containers.List", {"filters": ["=="]})
        api("Containers.ListStream", {"filters": ["labels.a==1"]}, show=False)
        api("Containers.Delete", {"id": "c1"})
        api("Containers.Delete", {"id": "c1"})


@differential()
def test_container_updates(ctr: Recorder) -> None:
    """Masks change what they name; without one everything that may change is replaced."""
    with Api(ctr) as api:
        whole = {"id": "c1", "image": "i", "runtime": RUNTIME, "spec": SPEC, "snapshotter": "native"}
        whole |= {"snapshot_key": "k", "labels": {"a": "1", "b": "2"}, "extensions": {"x": OTHER, "y": OTHER}}
        api("Containers.Create", {"container": whole})
        change = {"id": "c1", "image": "j", "labels": {"a": "9", "c": "3"}, "spec": OTHER}
        change["extensions"] = {"x": SPEC, "y": OTHER}
        for path in ("labels.a", "labels.b", "labels", "extensions.x", "image", "spec", "extensions"):
            api("Containers.Update", {"container": change, "update_mask": {"paths": [path]}})
        snapshot = {"id": "c1", "snapshot_key": "l", "snapshotter": "overlayfs", "runtime": {"name": "other"}}
        for path in ("snapshotkey", "snapshot_key", "snapshotter", "runtime", "runtime.name", "id", "created_at", ""):
            api("Containers.Update", {"container": snapshot, "update_mask": {"paths": [path]}})
        api("Containers.Update", {"container": whole | {"runtime": {"name": "other"}}})
        api("Containers.Update", {"container": whole | {"snapshotter": "overlayfs"}})
        api("Containers.Update", {"container": whole | {"labels": {"z": "26"}, "image": ""}})
        api("Containers.Update", {"container": {"id": "nosuch"}, "update_mask": {"paths": ["labels"]}})
        api(
            "Containers.Update",
            {"container": {"id": "c1", "labels": {"k": "x" * 4096}}, "update_mask": {"paths": ["labels"]}},
        )
        api("Containers.Get", {"id": "c1"})


@differential()
def test_images(ctr: Recorder) -> None:
    with Api(ctr) as api:
        good = {"name": "i", "target": TARGET, "labels": {"a": "1"}}
        wrongs: list[dict[str, Any]] = [
            {"name": ""},
            {"target": {}},
            {"target": TARGET | {"digest": "nonsense"}},
            {"target": TARGET | {"digest": "sha256:12"}},
            {"target": TARGET | {"size": 0}},
            {"target": TARGET | {"size": -1}},
            {"target": TARGET | {"media_type": ""}},
            {"labels": {"k": "x" * 4096}},
        ]
        for wrong in wrongs:
            api("Images.Create", {"image": good | wrong})
        api("Images.Create", {"image": good})
        api("Images.Create", {"image": good})
        api("Images.Create", {"image": good | {"name": "any name: at all/"}})
        api("Images.Get", {"name": "i"})
        api("Images.Get", {"name": "nosuch"})
        api("Images.Get", {"name": ""})
        other = {"name": "i", "labels": {"a": "9", "c": "3"}, "target": TARGET | {"size": 8, "annotations": {"n": "1"}}}
        for path in ("labels.a", "labels.b", "labels", "target", "annotations.n", "name", "nosuch"):
            api("Images.Update", {"image": other, "update_mask": {"paths": [path]}})
        api("Images.Update", {"image": good})
        api("Images.Update", {"image": good | {"target": {}}})
        api("Images.Update", {"image": {"name": "nosuch"}, "update_mask": {"paths": ["labels"]}})
        api("Images.List", {"filters": ["labels.a"]})
        api("Images.List", {"filters": ["labels.a", "=="]})
        api("Images.Delete", {"name": "i"})
        api("Images.Delete", {"name": "i"})
        api("Images.Delete", {"name": ""})


@differential()
def test_namespaces(ctr: Recorder) -> None:
    with Api(ctr) as api:
        name = f"{ctr.namespace}-y"
        for wrong in ("", "no/slash", "x" * 77, "two..dots", "-dash"):
            api("Namespaces.Create", {"namespace": {"name": wrong}})
        api("Namespaces.Create", {"namespace": {"name": name, "labels": {"a": "1"}}})
        api("Namespaces.Create", {"namespace": {"name": name}})
        api("Namespaces.Get", {"name": name})
        api("Namespaces.Get", {"name": "nosuch"})
        change = {"name": name, "labels": {"a": "2", "b": "3"}}
        for paths in (["labels.a"], ["labels.nosuch"], ["name"], ["nosuch"], []):
            api("Namespaces.Update", {"namespace": change, "update_mask": {"paths": paths}}, show=False)
            api("Namespaces.Get", {"name": name})
        api("Namespaces.Update", {"namespace": {"name": f"{name}-z", "labels": {"a": "1"}}}, show=False)
        api("Namespaces.Delete", {"name": f"{name}-z"})
        api("Namespaces.Delete", {"name": "nosuch"})
        api("Namespaces.Delete", {"name": name})
        api("Namespaces.Delete", {"name": name})


@differential()
def test_calls_without_a_namespace(ctr: Recorder) -> None:
    with Api(ctr) as api:
        for method in (
            "Containers.List",
            "Containers.Get",
            "Containers.Create",
            "Content.List",
            "Content.ListStatuses",
            "Images.List",
            "Images.Get",
            "Images.Delete",
            "Leases.List",
            "Leases.Create",
            "Tasks.List",
            "Tasks.Get",
        ):
            api(method, {}, namespace="", show=False)
        api("Tasks.Metrics", {}, namespace="", loosely=CODE)
        api("Snapshots.List", {"snapshotter": "native"}, namespace="", loosely=CODE)
        api("Snapshots.Stat", {"snapshotter": "native", "key": "k"}, namespace="")
        for method in ("Version.Version", "Introspection.Plugins", "Namespaces.List"):
            api(method, {}, namespace="", show=False)


def written(ref: str, **more: object) -> dict[str, object]:
    """A request that writes a blob's bytes."""
    return {"action": 1, "ref": ref, "data": BLOB} | more


@differential()
def test_content(ctr: Recorder) -> None:
    with Api(ctr) as api:
        total = len(BLOB)
        api(
            "Content.Write",
            written("r1"),
            {"action": 2, "offset": 12, "ref": "r1", "total": total, "expected": DIGEST},
            show=False,
        )
        api(
            "Content.Write",
            written("r2"),
            {"action": 2, "offset": 12, "ref": "r2", "total": total, "expected": DIGEST},
            only=WRITTEN,
        )
        api("Content.Write", {"action": 0, "ref": "r2", "expected": DIGEST}, only=WRITTEN)
        api("Content.Info", {"digest": DIGEST})
        for wrong in (UNKNOWN, "sha256:12", "nonsense", ""):
            api("Content.Info", {"digest": wrong})
            api("Content.Read", {"digest": wrong})
            api("Content.Delete", {"digest": wrong})
        for offset, size in ((0, 0), (3, 4), (3, 0), (12, 0), (0, 12), (0, 13), (13, 0), (-1, 0), (0, -1)):
            api("Content.Read", {"digest": DIGEST, "offset": offset, "size": size}, only=("data",))
        for path in ("labels.a", "labels", "size", "nosuch"):
            api(
                "Content.Update",
                {"info": {"digest": DIGEST, "labels": {"a": "1", "b": "2"}}, "update_mask": {"paths": [path]}},
                show=False,  # containerd's answer has no time
            )
            api("Content.Info", {"digest": DIGEST})
        api("Content.Update", {"info": {"digest": UNKNOWN, "labels": {"a": "1"}}})
        listed = api("Content.List", {"filters": ["labels.a==1"]}, show=False)
        ctr.note(f"{[item.digest for answer in listed for item in answer.info]}")
        api("Content.List", {"filters": ["=="]})
        api("Content.Delete", {"digest": DIGEST})
        api("Content.Delete", {"digest": DIGEST})


@differential()
def test_ingests(ctr: Recorder) -> None:
    """An upload is begun, goes on where it was, and is refused where it cannot."""
    with Api(ctr) as api:
        api("Content.Status", {"ref": "nosuch"})
        api("Content.Abort", {"ref": "nosuch"})
        api("Content.Write", {"action": 0}, only=WRITTEN)
        api("Content.Write", written(""), only=WRITTEN)
        api("Content.Write", written("r1", total=24), only=WRITTEN)
        api("Content.Status", {"ref": "r1"})
        api("Content.Write", written("r1", offset=5), only=WRITTEN)
        api("Content.Write", written("r1", offset=12), only=WRITTEN)
        api("Content.Write", {"action": 0, "ref": "r1"}, only=WRITTEN)
        api("Content.Write", written("r1", offset=0), only=WRITTEN)
        api("Content.ListStatuses", {})
        api("Content.ListStatuses", {"filters": ["ref==r1"]})
        api("Content.ListStatuses", {"filters": ["ref~=nothing"]})
        commit = {"action": 2, "offset": 12, "ref": "r4"}
        for wrong in ({"total": 5}, {"expected": UNKNOWN}, {"labels": {"k": "x" * 4096}}):
            api("Content.Write", written("r4"), commit | wrong)
        right = {"total": 12, "expected": DIGEST, "labels": {"a": "1"}}
        api("Content.Write", written("r4"), commit | right, only=WRITTEN)
        api("Content.Status", {"ref": "r1"})
        api("Content.Write", written("r2"), only=WRITTEN)
        api("Content.Write", {"action": 1, "ref": "r2", "expected": DIGEST}, only=WRITTEN)
        api("Content.Abort", {"ref": "r2"})
        api("Content.Info", {"digest": DIGEST})


@differential()
def test_leases(ctr: Recorder) -> None:
    with Api(ctr) as api:
        api("Leases.Create", {"id": "one", "labels": {"a": "1"}})
        api("Leases.Create", {"id": "one"})
        api("Leases.Create", {}, show=False)
        api("Leases.List", {"filters": ["id==one", "labels.a"]})
        blob = {"id": DIGEST, "type": "content"}
        for resource in (
            blob,
            {"id": "k", "type": "snapshots/native"},
            {"id": "r", "type": "ingests"},
            {"id": "k", "type": "snapshots"},
            {"id": "k", "type": "nosuch"},
            {"id": "nonsense", "type": "content"},
            {"id": "", "type": "content"},
        ):
            api("Leases.AddResource", {"id": "one", "resource": resource})
            api("Leases.AddResource", {"id": "one", "resource": resource})
        api("Leases.ListResources", {"id": "one"})
        api("Leases.DeleteResource", {"id": "one", "resource": blob})
        api("Leases.DeleteResource", {"id": "one", "resource": blob})
        api("Leases.DeleteResource", {"id": "one", "resource": {"id": "k", "type": "nosuch"}})
        api("Leases.ListResources", {"id": "one"})
        for method in ("AddResource", "DeleteResource"):
            api(f"Leases.{method}", {"id": "nosuch", "resource": blob})
        api("Leases.ListResources", {"id": "nosuch"})
        api("Leases.Delete", {"id": "nosuch"})
        api("Leases.Delete", {"id": "one", "sync": True})


@differential()
def test_what_a_lease_keeps(ctr: Recorder) -> None:
    """Calls that name a lease put what they make under it; with the lease it all goes."""
    with Api(ctr) as api:
        commit = {"action": 2, "offset": 12, "total": len(BLOB), "expected": DIGEST}
        api("Leases.Create", {"id": "one"})
        api("Content.Write", written("r1"), commit | {"ref": "r1"}, lease="one", show=False)
        api("Content.Write", written("r2"), lease="one", show=False)
        api("Snapshots.Prepare", {"snapshotter": "native", "key": "k"}, lease="one", show=False)
        api("Leases.ListResources", {"id": "one"})
        api("Images.List", {}, lease="nosuch")
        api("Content.Write", written("r3"), lease="nosuch", show=False)
        api("Snapshots.Prepare", {"snapshotter": "native", "key": "l"}, lease="nosuch", show=False)
        api("Leases.Create", {"id": "other"})
        api("Leases.Delete", {"id": "other", "sync": True})
        api("Content.Info", {"digest": DIGEST})
        api("Leases.Delete", {"id": "one", "sync": True})
        api("Content.Info", {"digest": DIGEST})
        api("Content.Status", {"ref": "r2"})
        api("Snapshots.Stat", {"snapshotter": "native", "key": "k"})


@differential()
def test_snapshots(ctr: Recorder) -> None:
    native = {"snapshotter": "native"}
    with Api(ctr) as api:
        for method in ("Prepare", "View", "Mounts", "Stat", "Remove", "Usage"):
            api(f"Snapshots.{method}", {"snapshotter": "nosuch", "key": "k"})
            api(f"Snapshots.{method}", {"snapshotter": "", "key": "k"})
        for method in ("Mounts", "Stat", "Remove", "Usage"):
            api(f"Snapshots.{method}", native | {"key": "nosuch"})
            api(f"Snapshots.{method}", native | {"key": ""})
        api("Snapshots.Prepare", native | {"key": "a", "labels": {"k": "x" * 4096}})
        api(
            "Snapshots.Prepare", native | {"key": "a", "labels": {"own": "1", "containerd.io/gc.root": "1"}}, show=False
        )
        api("Snapshots.Commit", native | {"name": "", "key": "a"}, loosely=CODE)
        api("Snapshots.Commit", native | {"name": "base", "key": "nosuch"})
        api("Snapshots.Commit", native | {"name": "base", "key": "a", "labels": {"own": "2"}})
        api("Snapshots.Stat", native | {"key": "base"})
        api("Snapshots.Commit", native | {"name": "again", "key": "base"})
        api("Snapshots.Mounts", native | {"key": "base"})
        info = {"name": "base", "labels": {"own": "3", "more": "4"}, "parent": "x", "kind": 2}
        for path in ("labels.own", "labels", "labels.nosuch", "parent", "kind", "nosuch"):
            api("Snapshots.Update", native | {"info": info, "update_mask": {"paths": [path]}})
        api("Snapshots.Update", native | {"info": {"name": "nosuch"}})
        api("Snapshots.List", native | {"filters": ["kind==committed"]})
        api("Snapshots.List", native | {"filters": ["name==base,labels.more==4"]})
        api("Snapshots.List", native | {"filters": ["parent==base"]})
        api("Snapshots.List", native | {"filters": ["=="]}, loosely=CODE)
        api("Snapshots.Cleanup", {"snapshotter": "nosuch"})
        reference = {"containerd.io/snapshot.ref": "base"}
        api("Snapshots.Prepare", native | {"key": "b", "labels": reference})
        api("Snapshots.Prepare", native | {"key": "b", "parent": "base", "labels": reference}, show=False)


@differential()
def test_diff(ctr: Recorder) -> None:
    layer = {"media_type": "application/vnd.oci.image.layer.v1.tar", "digest": UNKNOWN, "size": 7}
    onto = {"mounts": [{"type": "bind", "source": str(ctr.directory), "options": ["rbind", "rw"]}]}
    with Api(ctr) as api:
        api("Diff.Apply", onto | {"diff": layer})
        api("Diff.Apply", onto | {"diff": layer | {"digest": "nonsense"}}, loosely="containerd looks for it")
        ctr.quietly("content", "ingest", "r", stdin=BLOB)
        there = {"digest": DIGEST, "size": len(BLOB)}
        api("Diff.Apply", onto | {"diff": layer | there}, loosely="what is no tar archive has no code in containerd")
        api("Diff.Apply", onto | {"diff": layer | there | {"media_type": "text/plain"}}, loosely=CODE)
        api("Diff.Diff", {"media_type": "text/plain"})


@differential()
def test_events(ctr: Recorder) -> None:
    event = {"type_url": "example.com/event", "value": b"\x01"}
    envelope = {"timestamp": {"seconds": 1}, "namespace": ctr.namespace, "topic": "/a/b", "event": event}
    with Api(ctr) as api:
        for topic in ("/a/b", "/", "", "a/b", "/a/", "/a//b", "/a b"):
            api("Events.Publish", {"topic": topic, "event": event})
        api("Events.Publish", {"topic": "/a/b", "event": event}, namespace="")
        for wrong in ({}, {"topic": "nosuch"}, {"namespace": ""}, {"namespace": "no/slash"}, {"timestamp": None}):
            api("Events.Forward", {"envelope": envelope | wrong})
        api("Events.Subscribe", {"filters": ["=="]}, loosely=CODE)


@differential()
def test_introspection(ctr: Recorder) -> None:
    with Api(ctr) as api:
        api("Introspection.Plugins", {"filters": ["type==nosuch"]})
        api("Introspection.Plugins", {"filters": ["=="]})
        api("Introspection.Plugins", {"filters": ["type==io.containerd.content.v1"]}, show=False)
