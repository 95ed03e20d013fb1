# SPDX-License-Identifier: Apache-2.0
"""One suite for every daemon with every shim with every OCI runtime."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from tests.support.ctr import eventually
from tests.support.runtime import pids_of

if TYPE_CHECKING:
    from tests.integration.shim.conftest import Case

# Ends when its input does, and not before.
LOGGER = """\
#!/bin/sh
trap "" TERM
exec >"$2"
printf "%s %s\\n" "$CONTAINER_ID" "$CONTAINER_NAMESPACE"
exec 5>&-
cat <&3
cat <&4
"""


def test_streams_and_exit_status(case: Case) -> None:
    done = case.run("c1", "/bin/sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.out, done.err) == (7, "out\n", "err\n")


def test_much_output_arrives_whole(case: Case) -> None:
    done = case.run("c1", "/bin/seq", "1", "100000")
    assert done.code == 0
    assert done.out == "".join(f"{number}\n" for number in range(1, 100001))


def test_input_arrives(case: Case) -> None:
    done = case.run("c1", "/bin/sh", "-c", "read line; echo got $line", stdin=b"hello\n")
    assert (done.code, done.out) == (0, "got hello\n")


def test_a_terminal(case: Case) -> None:
    flags = case.flags("-t")
    shown = case.ctr.on_terminal(
        "run", "--rm", *flags, "c1", "/bin/sh", "-c", "echo ready; read line; echo got $line; exit 3", keys=b"abc\n"
    )
    assert shown.code == 3
    assert "got abc\r" in shown.out


def test_more_processes(case: Case) -> None:
    case.start("c1", "/bin/sleep", "1000")
    try:
        done = case.ctr.run("tasks", "exec", "--exec-id", "e1", "c1", "/bin/sh", "-c", "echo out; echo err >&2; exit 5")
        assert (done.code, done.out, done.err) == (5, "out\n", "err\n")
        done = case.ctr.run("tasks", "exec", "--exec-id", "e2", "c1", "/bin/sh", "-c", "cat", stdin=b"through\n")
        assert (done.code, done.out) == (0, "through\n")
        done = case.ctr.run("tasks", "exec", "--exec-id", "e3", "c1", "/no/such/program")
        assert done.code != 0
        assert "OCI runtime exec failed" in done.err
        shown = case.ctr.on_terminal(
            "tasks",
            "exec",
            "-t",
            "--exec-id",
            "e4",
            "c1",
            "/bin/sh",
            "-c",
            "echo ready; read x; echo $x!",
            keys=b"hi\n",
        )
        assert "hi!\r" in shown.out
        assert case.status("c1") == "RUNNING"
    finally:
        case.remove("c1")


def test_pause_pids_and_metrics(case: Case) -> None:
    case.start("c1", "/bin/sh", "-c", "/bin/sleep 1001 & /bin/sleep 1000")
    try:
        eventually(lambda: len(case.ctr.ok("tasks", "ps", "c1").splitlines()) == 3, "not two processes")
        case.ctr.ok("tasks", "pause", "c1")
        assert case.status("c1") == "PAUSED"
        case.ctr.ok("tasks", "resume", "c1")
        assert case.status("c1") == "RUNNING"
        metrics = case.ctr.ok("tasks", "metrics", "c1")
        assert "pids.current" in metrics
        assert "memory.usage_in_bytes" in metrics
    finally:
        case.remove("c1")


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 0), ("SIGUSR1", 9), ("SIGKILL", 137)])
def test_signals(case: Case, name: str, status: int) -> None:
    script = "trap 'exit 0' TERM; trap 'exit 9' USR1; echo up; while :; do sleep 0.1; done"
    output = case.daemon.base / "output"
    with (
        output.open("wb") as out,
        case.ctr.background("run", "--rm", *case.flags(), "c1", "/bin/sh", "-c", script, out=out) as running,
    ):
        eventually(lambda: output.read_bytes() == b"up\n", "the container says nothing")
        case.ctr.ok("tasks", "kill", "--signal", name, "c1")
        assert running.wait(20) == status


def test_what_cannot_run_leaves_nothing(case: Case) -> None:
    done = case.run("c1", "/no/such/program")
    assert done.code != 0
    assert "OCI runtime create failed" in done.err
    case.ctr.run("containers", "rm", "c1")


def test_output_to_a_file(case: Case) -> None:
    log = case.daemon.base / "logs" / "c1.log"
    case.start("c1", "/bin/sh", "-c", "echo out; echo err >&2", flags=("--log-uri", f"file://{log}"))
    eventually(lambda: case.status("c1") == "STOPPED", "the container does not end")
    case.remove("c1")
    lines = set(log.read_text().splitlines())
    # containerd 1.6's shim may lose what it has not copied when the container ends.
    assert lines == {"err", "out"} if case.ours else lines <= {"err", "out"}


def test_output_to_a_program(case: Case) -> None:
    program = case.daemon.base / "logger"
    program.write_text(LOGGER)
    program.chmod(0o755)
    kept = case.daemon.base / "kept"
    case.start("c1", "/bin/sh", "-c", "echo out; echo err >&2", flags=("--log-uri", f"binary://{program}?to={kept}"))
    eventually(lambda: case.status("c1") == "STOPPED", "the container does not end")
    case.remove("c1")
    eventually(lambda: kept.read_text() == f"c1 {case.namespace}\nout\nerr\n", kept.read_text)


def test_a_shared_pid_namespace_is_cleared(case: Case) -> None:
    case.start(
        "c1", "/bin/sh", "-c", "/bin/sleep 98123 & /bin/sleep 1", flags=("--with-ns", f"pid:/proc/{os.getpid()}/ns/pid")
    )
    eventually(lambda: case.status("c1") == "STOPPED", "the container does not end")
    eventually(lambda: not pids_of("98123"), "a process outlives its container")
    case.remove("c1")


def test_want_of_memory_is_told(case: Case) -> None:
    events = case.daemon.base / "events"
    with events.open("wb") as out, case.ctr.background("events", out=out):
        time.sleep(0.3)
        done = case.run(
            "c1", "/bin/sh", "-c", "x=aaaaaaaa; while :; do x=$x$x; done", flags=("--memory-limit", str(16 << 20))
        )
        assert done.code != 0
        eventually(lambda: b"/tasks/oom" in events.read_bytes(), events.read_text)


def test_containers_outlive_the_daemon(case: Case) -> None:
    case.start("c1", "/bin/sh", "-c", "trap 'exit 4' TERM; while :; do sleep 0.1; done")
    try:
        case.daemon.kill()
        case.daemon.start()
        assert case.status("c1") == "RUNNING"
        assert case.ctr.run("tasks", "exec", "--exec-id", "e1", "c1", "/bin/echo", "back").out == "back\n"
        case.ctr.ok("tasks", "kill", "--signal", "SIGTERM", "c1")
        eventually(lambda: case.status("c1") == "STOPPED", "the container does not end")
        assert case.ctr.run("tasks", "rm", "c1").code == 4 or case.status("c1") == ""
    finally:
        case.remove("c1")


def test_a_shim_that_dies_is_cleaned_up_after(case: Case) -> None:
    case.start("c1", "/bin/sleep", "98124")
    try:
        (shim,) = case.daemon.shims()
        os.kill(shim, signal.SIGKILL)
        eventually(lambda: case.status("c1") == "", "the task is still there")
        eventually(lambda: not pids_of("98124"), "the container's process is still there")
    finally:
        case.remove("c1")


def test_one_shim_for_a_group(case: Case) -> None:
    flags = ("--annotation", "io.containerd.runc.v2.group=pod")
    try:
        for id in ("c1", "c2", "c3"):
            case.start(id, "/bin/sleep", "1000", flags=flags)
        assert len(case.daemon.shims()) == 1
        case.remove("c2")
        assert case.status("c1") == case.status("c3") == "RUNNING"
    finally:
        for id in ("c1", "c3"):
            case.remove(id)
