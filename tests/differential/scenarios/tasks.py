# SPDX-License-Identifier: Apache-2.0
"""Tasks: the calls about them in every state that a container can be in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.differential.calls import TREE, Call, Scenario, call
from tests.differential.scenarios.common import RUNTIME, Rows, table
from tests.support.oci import PROCESS_URL, SPEC_URL, process, spec

RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
ROOTFS = [{"type": "bind", "source": TREE, "options": ["rbind", "ro"]}]
ONE = {"container_id": "c1"}


def encoded(type_url: str, document: Any) -> dict[str, Any]:
    """A JSON document as an ``Any``."""
    return {"type_url": type_url, "value": json.dumps(document).encode()}


def container(args: Sequence[str] = ("sleep", "1000"), id: str = "c1", **more: Any) -> Call:
    """A call that makes a container record."""
    fields = {"id": id, "runtime": RUNTIME, "spec": encoded(SPEC_URL, spec("<ns>", id, args))}
    return call("Containers.Create", container=fields | more)


def task(method: str, id: str = "c1", **fields: Any) -> Call:
    """A call about a task."""
    return call(f"Tasks.{method}", {"container_id": id} | fields)


def made(args: Sequence[str] = ("sleep", "1000"), id: str = "c1") -> list[Call]:
    """Calls that make a task."""
    return [container(args, id), task("Create", id, rootfs=ROOTFS)]


def run(args: Sequence[str] = ("sleep", "1000"), id: str = "c1") -> list[Call]:
    """Calls that start one."""
    return [*made(args, id), task("Start", id)]


def end(id: str = "c1") -> list[Call]:
    """Calls that end one."""
    return [task("Kill", id, signal=9), task("Wait", id), task("Delete", id)]


def exec(id: str = "e1", args: Sequence[str] = ("sleep", "1000"), **more: Any) -> Call:
    """A call that adds a process."""
    return task("Exec", exec_id=id, spec=encoded(PROCESS_URL, process(args)), **more)


UPDATE = task("Update", resources=encoded(RESOURCES, {"pids": {"limit": 50}}))
CALLS: Rows = {
    "Start": task("Start"),
    "Delete": task("Delete"),
    "DeleteProcess": task("DeleteProcess", exec_id="e1"),
    "Get": task("Get"),
    "Get a process": task("Get", exec_id="e1"),
    "Kill": task("Kill", signal=9),
    "Kill a process": task("Kill", signal=9, exec_id="e1"),
    "Exec": exec(),
    "ResizePty": task("ResizePty", width=80, height=24),
    "ResizePty of a process": task("ResizePty", exec_id="e1", width=80, height=24),
    "CloseIO": task("CloseIO", stdin=True),
    "CloseIO of a process": task("CloseIO", exec_id="e1", stdin=True),
    "Pause": task("Pause"),
    "Resume": task("Resume"),
    "ListPids": task("ListPids"),
    "Checkpoint": task("Checkpoint"),
    "Update": UPDATE,
    "Wait": task("Wait"),
    "Wait for a process": task("Wait", exec_id="e1"),
    "Start a process": task("Start", exec_id="e1"),
}
HARMLESS: Rows = {
    name: step
    for name, step in CALLS.items()
    if name not in ("Start", "Kill", "Wait", "Checkpoint", "Exec", "Pause", "Delete", "Update")
}
ENDED: Rows = {name: step for name, step in CALLS.items() if name not in ("Delete", "Checkpoint", "Update", "ListPids")}
LISTS: Rows = {
    "Create for no container": task("Create", "nosuch", rootfs=ROOTFS),
    "Create without an id": task("Create", "", rootfs=ROOTFS),
    "List of none": call("Tasks.List"),
    "Metrics of none": call("Tasks.Metrics"),
    "Metrics, bad filter": call("Tasks.Metrics", filters=["=="]),
    "Create for a container whose spec is no JSON": [
        container(spec={"type_url": SPEC_URL, "value": b"no json"}),
        task("Create", rootfs=ROOTFS),
    ],
    "Create with a runtime that is not there": [
        container(runtime={"name": "io.containerd.nosuch.v1"}),
        task("Create", rootfs=ROOTFS),
    ],
    "Create with a program that is not there": [container(("/nosuch",)), task("Create", rootfs=ROOTFS)],
}
RUNNING: Rows = {
    "List": [call("Tasks.List")],
    "Start again": [task("Start")],
    "Create again": [task("Create", rootfs=ROOTFS)],
    "Delete": [task("Delete")],
    "Kill with no signal": [task("Kill", signal=0)],
    "Kill with a signal that does not exist": [task("Kill", signal=99)],
    "Kill all": [
        exec(),
        task("Start", exec_id="e1"),
        task("Kill", signal=9, all=True),
        task("Wait", exec_id="e1"),
        task("Wait"),
    ],
    "Update": UPDATE,
    "Update with no JSON": [task("Update", resources={"type_url": RESOURCES, "value": b"no json"})],
    "Pause": [task("Pause"), task("Get"), task("Resume"), task("Get")],
    "Pause twice": [task("Pause"), task("Pause"), task("Resume")],
    "Resume what is not paused": [task("Resume")],
    "Kill what is paused": [task("Pause"), task("Kill", signal=9), task("Resume"), task("Wait")],
    "Exec without an id": [exec("")],
    "Exec with a bad id": [exec("no/slash")],
    "Exec twice": [exec(), exec()],
    "Exec that is not started": [exec(), task("Get", exec_id="e1"), task("DeleteProcess", exec_id="e1")],
    "Exec that ends": [
        exec(args=("sh", "-c", "exit 7")),
        task("Start", exec_id="e1"),
        task("Wait", exec_id="e1"),
        task("Get", exec_id="e1"),
        task("DeleteProcess", exec_id="e1"),
        task("Get", exec_id="e1"),
    ],
    "Exec that is killed": [
        exec(),
        task("Start", exec_id="e1"),
        task("Get", exec_id="e1"),
        task("Kill", exec_id="e1", signal=15),
        task("Wait", exec_id="e1"),
        task("Kill", exec_id="e1", signal=9),
        task("DeleteProcess", exec_id="e1"),
        task("DeleteProcess", exec_id="e1"),
    ],
    "Exec that runs, deleted": [exec(), task("Start", exec_id="e1"), task("DeleteProcess", exec_id="e1")],
    "Exec that runs, started again": [exec(), task("Start", exec_id="e1"), task("Start", exec_id="e1")],
    "Exec of a program that is not there": [exec(args=("/nosuch",)), task("Start", exec_id="e1")],
    "Exec, and its id again": [
        exec(args=("true",)),
        task("Start", exec_id="e1"),
        task("Wait", exec_id="e1"),
        task("DeleteProcess", exec_id="e1"),
        exec(args=("false",)),
        task("Start", exec_id="e1"),
        task("Wait", exec_id="e1"),
        task("DeleteProcess", exec_id="e1"),
    ],
    "Metrics of another": [call("Tasks.Metrics", filters=["id==nosuch"])],
    "another namespace": [Call("Tasks.Get", (ONE,), "<ns>-b"), Call("Tasks.List", namespace="<ns>-b")],
    "two at a time": [*run(id="c2"), call("Tasks.List"), *end("c2")],
}
LIVES: Rows = {
    "exits with a status": [*run(("sh", "-c", "exit 5")), task("Wait"), task("Get"), task("Delete"), task("Get")],
    "is killed by a signal": [*run(), task("Kill", signal=9), task("Wait"), task("Delete")],
    "is deleted before it starts": [*made(), task("Get"), task("Kill", signal=9), task("Wait"), task("Delete")],
    "is run twice": [
        *run(("true",)),
        task("Wait"),
        task("Delete"),
        task("Create", rootfs=ROOTFS),
        task("Start"),
        task("Wait"),
        task("Delete"),
    ],
}
SCENARIOS: list[Scenario] = [
    *table("no container", CALLS),
    *table("no task", CALLS, before=[container()]),
    *table("tasks", LISTS),
    *table("created task", HARMLESS, before=made(), after=end()),
    *table("running task", RUNNING, before=run(), after=end()),
    *table("running task", HARMLESS, before=run(), after=end()),
    *table("ended task", ENDED, before=[*run(("sh", "-c", "exit 5")), task("Wait")], after=[task("Delete")]),
    *table("task", LIVES),
]
