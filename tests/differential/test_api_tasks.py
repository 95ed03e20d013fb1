# SPDX-License-Identifier: Apache-2.0
"""The task API on both daemons, call by call, in states where clients would not make these calls."""

from __future__ import annotations

import json
from typing import Any

from tests.support.api import Api
from tests.support.comparison import differential
from tests.support.ctr import eventually
from tests.support.transcript import Recorder

BUSY = "example.com/busy:1"
PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
HIDE = (
    (r"(?s)rootfs=.*", "rootfs=<mounts>"),
    (r"\bpid: \d+", "pid: <pid>"),
    (r'"/run/containerd/fifo/\d+/', '"<fifo>/'),
    (r'value: "\\n.*', "value: <data>"),
)


def encoded(type_url: str, document: dict[str, Any]) -> dict[str, Any]:
    """A JSON document as an ``Any``."""
    return {"type_url": type_url, "value": json.dumps(document).encode()}


def process(*args: str) -> dict[str, Any]:
    """What to execute in a container."""
    return encoded(PROCESS, {"args": list(args), "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]})


def wait_stopped(ctr: Recorder, id: str) -> None:
    eventually(lambda: "STOPPED" in ctr.quietly("tasks", "ls"), f"{id} has ended")


@differential()
def test_without_a_task(ctr: Recorder) -> None:
    """Every call about a container that has no task, and about one that does not exist."""
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    ctr.quietly("containers", "create", BUSY, "c1", "true")
    with Api(ctr) as api:
        for id in ("c1", "nosuch", ""):
            for method in (
                "Start",
                "Delete",
                "Kill",
                "Pause",
                "Resume",
                "ListPids",
                "CloseIO",
                "ResizePty",
                "Checkpoint",
                "Update",
                "Wait",
            ):
                api(f"Tasks.{method}", {"container_id": id})
            api("Tasks.Get", {"container_id": id})
            api("Tasks.DeleteProcess", {"container_id": id, "exec_id": "e"})
            api("Tasks.Exec", {"container_id": id, "exec_id": "e", "spec": process("true")})
        api("Tasks.Create", {"container_id": "nosuch"})
        api("Tasks.List", {})
        api("Tasks.Metrics", {})
        api("Tasks.Metrics", {"filters": ["id==nosuch"]})


@differential()
def test_created_and_not_started(ctr: Recorder) -> None:
    """Between create and start a task has a pid and little else."""
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    ctr.quietly("containers", "create", BUSY, "c1", "sleep", "1000")
    with Api(ctr) as api:
        mounts = api("Snapshots.Mounts", {"snapshotter": "overlayfs", "key": "c1"}, show=False)[0].mounts
        api("Tasks.Create", {"container_id": "c1", "rootfs": mounts}, hide=HIDE)
        api("Tasks.Create", {"container_id": "c1", "rootfs": mounts}, hide=HIDE)
        api("Tasks.Get", {"container_id": "c1"}, hide=HIDE)
        api("Tasks.ListPids", {"container_id": "c1"}, hide=HIDE)
        api("Tasks.Exec", {"container_id": "c1", "exec_id": "e", "spec": process("true")})
        api("Tasks.Delete", {"container_id": "c1"}, show=False)
        ctr.quietly("tasks", "rm", "--force", "c1") if ctr.quietly("tasks", "ls", "-q") else None
        api("Tasks.Create", {"container_id": "c1", "rootfs": mounts}, hide=HIDE)
        api("Tasks.Start", {"container_id": "c1"}, hide=HIDE)
        api("Tasks.Start", {"container_id": "c1"}, hide=HIDE)
        api("Tasks.Kill", {"container_id": "c1", "signal": 9})
        api("Tasks.Wait", {"container_id": "c1"}, show=False)
        api("Tasks.Delete", {"container_id": "c1"}, only=("id", "exit_status"))


@differential()
def test_running(ctr: Recorder) -> None:
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    ctr.quietly("run", "--detach", BUSY, "c1", "sleep", "1000")
    with Api(ctr) as api:
        api("Tasks.Get", {"container_id": "c1"}, hide=HIDE)
        api("Tasks.Get", {"container_id": "c1", "exec_id": "nosuch"})
        api("Tasks.List", {}, hide=HIDE)
        api("Tasks.Delete", {"container_id": "c1"}, loosely=CODE)
        api("Tasks.Kill", {"container_id": "c1", "signal": 0})
        api("Tasks.Kill", {"container_id": "c1", "signal": 99})
        api("Tasks.Kill", {"container_id": "c1", "signal": 9, "exec_id": "nosuch"})
        api("Tasks.CloseIO", {"container_id": "c1", "stdin": True})
        api("Tasks.CloseIO", {"container_id": "c1", "stdin": True})
        api("Tasks.CloseIO", {"container_id": "c1", "exec_id": "nosuch", "stdin": True})
        api("Tasks.ResizePty", {"container_id": "c1", "width": 80, "height": 24})
        api("Tasks.Update", {"container_id": "c1", "resources": encoded(RESOURCES, {"pids": {"limit": 50}})})
        api("Tasks.Update", {"container_id": "c1", "resources": {"type_url": RESOURCES, "value": b"no json"}})
        api("Tasks.Update", {"container_id": "c1", "resources": {"type_url": "nosuch", "value": b""}}, loosely=ANY)
        answers = api("Tasks.Metrics", {"filters": ["id==c1"]}, show=False)
        ctr.note(f"{[(item.id, item.data.type_url) for item in answers[0].metrics]}")
        api("Tasks.Metrics", {"filters": ["=="]}, loosely=CODE)
        api("Tasks.DeleteProcess", {"container_id": "c1", "exec_id": ""}, loosely=CODE)
        api("Tasks.DeleteProcess", {"container_id": "c1", "exec_id": "nosuch"})


CODE = "the shim gives no code, and containerd passes on none"
ANY = "what is wrong with it is found in different places"


@differential()
def test_exec(ctr: Recorder) -> None:
    """An exec is added, started, waited for and deleted; each step only once."""
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    ctr.quietly("run", "--detach", BUSY, "c1", "sleep", "1000")
    with Api(ctr) as api:
        one = {"container_id": "c1", "exec_id": "e1"}
        api("Tasks.Exec", {"container_id": "c1", "exec_id": "", "spec": process("true")})
        api("Tasks.Exec", {"container_id": "c1", "exec_id": "not@valid", "spec": process("true")})
        api("Tasks.Exec", one | {"spec": {"type_url": PROCESS, "value": b"no json"}})
        api("Tasks.Exec", one | {"spec": process("sh", "-c", "exit 3")})
        api("Tasks.Exec", one | {"spec": process("true")})
        api("Tasks.Get", one, hide=HIDE)
        api("Tasks.Kill", one | {"signal": 9})
        api("Tasks.Start", one, hide=HIDE)
        api("Tasks.Start", one, hide=HIDE)
        api("Tasks.Wait", one, only=("exit_status",))
        api("Tasks.Get", one, hide=HIDE)
        api("Tasks.Kill", one | {"signal": 9})
        api("Tasks.DeleteProcess", one, only=("id", "exit_status"))
        api("Tasks.DeleteProcess", one)
        api("Tasks.Wait", one)
        two = {"container_id": "c1", "exec_id": "e2"}
        api("Tasks.Exec", two | {"spec": process("sleep", "1000")})
        api("Tasks.Start", two, hide=HIDE)
        api("Tasks.DeleteProcess", two, loosely=CODE)
        api("Tasks.Kill", {"container_id": "c1", "signal": 9})
        wait_stopped(ctr, "c1")
        api("Tasks.Wait", two, only=("exit_status",))
        api("Tasks.Exec", {"container_id": "c1", "exec_id": "e3", "spec": process("true")})
        api("Tasks.DeleteProcess", two, only=("id", "exit_status"))


@differential()
def test_ended(ctr: Recorder) -> None:
    """A task that has ended and is not deleted still tells its exit status."""
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    ctr.quietly("run", "--detach", BUSY, "c1", "sh", "-c", "exit 5")
    wait_stopped(ctr, "c1")
    with Api(ctr) as api:
        api("Tasks.Get", {"container_id": "c1"}, hide=HIDE)
        api("Tasks.Wait", {"container_id": "c1"}, only=("exit_status",))
        api("Tasks.Kill", {"container_id": "c1", "signal": 9})
        for method in ("Start", "Pause", "Resume", "ListPids", "Checkpoint"):
            api(f"Tasks.{method}", {"container_id": "c1"}, show=False, loosely=ANY)
        api("Tasks.Delete", {"container_id": "c1"}, only=("id", "exit_status"))
        api("Tasks.Delete", {"container_id": "c1"})
        api("Tasks.Get", {"container_id": "c1"})


@differential()
def test_shared_shim(ctr: Recorder) -> None:
    """Containers of one group share a shim, and go one by one."""
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    for id in ("c1", "c2"):
        ctr.quietly("run", "--detach", "--annotation", "io.containerd.runc.v2.group=g", BUSY, id, "sleep", "1000")
    ctr.note(f"{sum(ctr.namespace in argv for argv in ctr.daemon.shims().values())} shims")
    ctr("tasks", "exec", "--exec-id", "e1", "c2", "echo", "two")
    ctr("tasks", "rm", "--force", "c1")
    ctr("tasks", "exec", "--exec-id", "e1", "c2", "echo", "two")
    ctr("tasks", "ls", "-q")
    ctr("tasks", "rm", "--force", "c2")
    ctr("tasks", "ls", "-q")
    eventually(lambda: not any(ctr.namespace in argv for argv in ctr.daemon.shims().values()), "the shim is gone")


@differential()
def test_out_of_memory(ctr: Recorder) -> None:
    """A container that takes more than it may is ended, and that is told."""
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    with ctr.events() as log:
        greedy = ("dd", "if=/dev/zero", "of=/dev/null", "bs=100000000")
        ctr.quietly("run", "--detach", "--memory-limit", "20000000", BUSY, "c1", *greedy)
        eventually(lambda: any("/tasks/oom" in line for line in log.lines(0)), "it is told")
        wait_stopped(ctr, "c1")
        told = sorted(line for line in log.lines(0) if line.startswith(("/tasks/oom", "/tasks/exit")))
        for line in told:
            ctr.note(line, hide=((r'"pid":\d+', '"pid":<pid>'),))


@differential()
def test_binary_logger(ctr: Recorder) -> None:
    """A program that follows the logger protocol gets both streams and knows whose they are."""
    ctr.quietly("images", "import", str(ctr.data["busy"]))
    logger = ctr.directory / "logger"
    logger.write_text('#!/bin/sh\ntrap "" TERM\nexec 5>&-\n{ cat <&3; cat <&4; echo "$CONTAINER_ID"; } >"$2"\n')
    logger.chmod(0o755)
    log = ctr.directory / "log"
    script = "echo one; echo two >&2"
    ctr("run", "--detach", "--log-uri", f"binary://{logger}?to={log}", BUSY, "c1", "sh", "-c", script)
    wait_stopped(ctr, "c1")
    ctr("tasks", "rm", "c1")  # closes the streams
    eventually(lambda: log.exists() and log.read_text().endswith("c1\n"), "all is logged")
    ctr.note(log.read_text())
    missing = ("run", "--detach", "--log-uri", "binary:///nosuch/logger", BUSY, "c2", "true")
    ctr.loosely("this shim notices only when it starts the logger, and has no code for it", *missing)
