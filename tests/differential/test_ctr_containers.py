# SPDX-License-Identifier: Apache-2.0
"""``ctr run``, ``containers`` and ``tasks`` against both daemons."""

from __future__ import annotations

from tests.support.comparison import differential
from tests.support.ctr import eventually
from tests.support.transcript import Recorder

BUSY = "example.com/busy:1"
PIDS = ((r"\b\d{2,}\b", "<pid>"),)


def import_busy(ctr: Recorder) -> None:
    ctr.quietly("images", "import", str(ctr.data["busy"]))


def await_status(ctr: Recorder, id: str, status: str) -> None:
    """Wait until ``tasks ls`` shows a task in that status."""
    eventually(
        lambda: any(
            line.split()[::2] == [id, status] for line in ctr.quietly("tasks", "ls").splitlines() if line.split()
        ),
        f"{id} is {status}",
    )


def sleeper(ctr: Recorder, id: str, *options: str, command: tuple[str, ...] = ("sleep", "1000")) -> None:
    """A container that runs until it is killed."""
    ctr("run", "--detach", *options, BUSY, id, *command)


@differential()
def test_run(ctr: Recorder) -> None:
    """Output, exit status and standard input of short containers, which leave nothing."""
    import_busy(ctr)
    ctr("run", "--rm", BUSY, "c1", "echo", "hello")
    ctr("run", "--rm", BUSY, "c1", "sh", "-c", "echo out; exit 3")
    ctr("run", "--rm", BUSY, "c1", "nosuch")
    # No program here waits for the end of its input: this ctr passes it on only if the process has started by then.
    ctr("run", "--rm", BUSY, "c1", "head", "-n", "1", stdin=b"typed\n")
    ctr("run", "--rm", BUSY, "c1", "sh", "-c", "head -c 200000 | wc -c", stdin=b"x" * 200_000)
    ctr("run", "--rm", "example.com/nobody:1", "c1")
    ctr("run", "--rm", BUSY, "not@valid", "true")
    ctr("run", "--rm", BUSY, "x" * 77, "true")
    ctr("run", "--rm", "--snapshotter", "nosuch", BUSY, "c1", "true")
    ctr("run", "--rm", "--snapshotter", "native", BUSY, "c1", "echo", "native")
    unknown = ("run", "--rm", "--runtime", "io.containerd.nosuch.v1", BUSY, "c1", "true")
    ctr.loosely("containerd has no code of its own for a shim that is not installed", *unknown)
    ctr("run", "--rm", "--null-io", BUSY, "c1", "echo", "unseen")
    ctr.quietly("leases", "create", "--id", "collect")
    ctr.quietly("leases", "rm", "--sync", "collect")
    for noun in ("containers", "tasks", "snapshots"):
        ctr(noun, "ls")


@differential()
def test_run_with_options(ctr: Recorder) -> None:
    """What the client puts into the spec arrives in the container."""
    import_busy(ctr)
    shown = (
        "id -u; pwd; echo $A $IMAGE; cat /host/noise | wc -c; cat /sys/fs/cgroup/pids/pids.max 2>/dev/null; hostname"
    )
    host = f"type=bind,src={ctr.data['noise'].parent},dst=/host,options=rbind:ro"
    options = ("--env", "A=1", "--cwd", "/tmp", "--mount", host, "--label", "mine=1", "--annotation", "note=2")
    ctr("run", "--rm", *options, BUSY, "c1", "sh", "-c", shown, hide=((r"^ *[a-z]+[a-z0-9-]*$", "<host>"),))
    ctr("run", "--rm", "--read-only", BUSY, "c1", "touch", "/file")
    ctr("run", "--rm", "--memory-limit", "20000000", BUSY, "c1", "true")
    ctr("run", "--rm", "--cpus", "0.5", "--cpu-shares", "512", BUSY, "c1", "true")
    ctr("run", "--rm", "--privileged", BUSY, "c1", "true")
    ctr("run", "--rm", "--net-host", BUSY, "c1", "true")
    ctr("run", "--rm", "--seccomp", BUSY, "c1", "true")
    log = ctr.directory / "log"
    # containerd 1.6's shim closes the file of both streams when the first one ends: let both lines be there by then.
    ctr("run", "--rm", "--log-uri", f"file://{log}", BUSY, "c1", "sh", "-c", "echo one; echo two >&2; sleep 1")
    ctr.note("".join(sorted(log.read_text().splitlines(keepends=True))))
    pid = ctr.directory / "pid"
    ctr("run", "--rm", "--pid-file", str(pid), BUSY, "c1", "true")
    ctr.note(f"a pid: {pid.read_text().isdecimal()}")


@differential()
def test_run_on_a_terminal(ctr: Recorder) -> None:
    import_busy(ctr)
    script = "tty; echo ready; read a; echo got $a; exit 4"
    ctr.on_terminal("run", "--rm", "--tty", BUSY, "c1", "sh", "-c", script, keys=b"word\n")
    ctr("containers", "ls")


@differential()
def test_run_detached(ctr: Recorder) -> None:
    """The life of a container that nobody waits for."""
    import_busy(ctr)
    sleeper(ctr, "c1", "--label", "mine=1")
    ctr("tasks", "ls", hide=PIDS)
    ctr("tasks", "ls", "-q")
    ctr("containers", "ls")
    ctr("tasks", "ps", "c1", hide=PIDS)
    ctr("run", "--detach", BUSY, "c1", "sleep", "1000")
    ctr("containers", "rm", "c1")
    ctr("tasks", "rm", "c1")
    ctr("tasks", "start", "--detach", "c1")
    ctr("snapshots", "rm", "c1")
    ctr("tasks", "kill", "--signal", "SIGKILL", "c1")
    await_status(ctr, "c1", "STOPPED")
    ctr("tasks", "ls", hide=PIDS)
    ctr("tasks", "kill", "c1")
    ctr("tasks", "exec", "--exec-id", "e1", "c1", "true")
    ctr("tasks", "pause", "c1")
    ctr("tasks", "ps", "c1")
    ctr("tasks", "rm", "c1")
    ctr("tasks", "rm", "c1")
    ctr("tasks", "start", "--detach", "c1")
    ctr("tasks", "rm", "--force", "c1")
    ctr("containers", "rm", "c1")
    ctr("containers", "rm", "c1")
    ctr("snapshots", "ls")


@differential()
def test_exit_status(ctr: Recorder) -> None:
    import_busy(ctr)
    for id, signal in (("c1", "SIGTERM"), ("c2", "SIGKILL"), ("c3", "15"), ("c4", "NOSUCH")):
        sleeper(ctr, id, command=("sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"))
        ctr("tasks", "kill", "--signal", signal, id)
        if signal != "NOSUCH":
            await_status(ctr, id, "STOPPED")
            ctr("tasks", "rm", id)


@differential()
def test_exec(ctr: Recorder) -> None:
    import_busy(ctr)
    sleeper(ctr, "c1")
    ctr("tasks", "exec", "--exec-id", "e1", "c1", "echo", "inside")
    ctr("tasks", "exec", "--exec-id", "e1", "c1", "sh", "-c", "echo $IMAGE; exit 5")
    ctr("tasks", "exec", "--exec-id", "e1", "--user", "1000", "--cwd", "/tmp", "c1", "sh", "-c", "id -u; pwd")
    ctr("tasks", "exec", "--exec-id", "e1", "c1", "head", "-n", "1", stdin=b"typed\n")
    ctr("tasks", "exec", "--exec-id", "e1", "c1", "nosuch")
    ctr("tasks", "exec", "--exec-id", "", "c1", "true")
    ctr("tasks", "exec", "--exec-id", "not@valid", "c1", "true")
    ctr("tasks", "exec", "--exec-id", "e1", "nosuch", "true")
    ctr.on_terminal("tasks", "exec", "--tty", "--exec-id", "e1", "c1", "sh", "-c", "tty; exit 6")
    ctr("tasks", "exec", "--detach", "--exec-id", "e2", "c1", "sleep", "1000")
    ctr("tasks", "exec", "--detach", "--exec-id", "e2", "c1", "sleep", "1000")
    ctr("tasks", "ps", "c1", hide=PIDS)
    ctr("tasks", "rm", "--exec-id", "e2", "c1")
    ctr("tasks", "kill", "--signal", "SIGKILL", "--exec-id", "e2", "c1")
    eventually(lambda: "e2" not in ctr.quietly("tasks", "ps", "c1"), "e2 has ended")
    ctr("tasks", "rm", "--exec-id", "e2", "c1")
    ctr("tasks", "rm", "--exec-id", "e2", "c1")
    ctr("tasks", "kill", "--exec-id", "nosuch", "c1")


@differential()
def test_pause(ctr: Recorder) -> None:
    import_busy(ctr)
    sleeper(ctr, "c1")
    ctr("tasks", "resume", "c1")
    ctr("tasks", "pause", "c1")
    ctr("tasks", "ls", hide=PIDS)
    ctr("tasks", "pause", "c1")
    ctr("tasks", "exec", "--exec-id", "e1", "c1", "true")
    ctr("tasks", "rm", "c1")
    ctr("tasks", "resume", "c1")
    ctr("tasks", "ls", hide=PIDS)
    ctr("tasks", "exec", "--exec-id", "e1", "c1", "echo", "again")


@differential()
def test_metrics(ctr: Recorder) -> None:
    import_busy(ctr)
    sleeper(ctr, "c1", "--memory-limit", "30000000")
    values = ((r"(usage_in_bytes|cache|cpuacct.usage) +\d+", r"\1 <n>"), (r"\[[\d ]+\]", "<list>"))
    ctr("tasks", "metrics", "c1", hide=values)
    ctr("tasks", "metrics", "nosuch")
    ctr("tasks", "kill", "--signal", "SIGKILL", "c1")
    await_status(ctr, "c1", "STOPPED")
    ctr("tasks", "metrics", "c1", out=False)


@differential()
def test_unknown_task(ctr: Recorder) -> None:
    """A container without a task, and no container at all."""
    import_busy(ctr)
    ctr("containers", "create", BUSY, "c1", "true")
    for id in ("c1", "nosuch"):
        for call in ("kill", "pause", "resume", "ps", "rm", "attach", "metrics"):
            ctr("tasks", call, id)
        ctr("tasks", "exec", "--exec-id", "e1", id, "true")
    ctr("tasks", "start", "nosuch")
    ctr("tasks", "start", "c1")
    ctr("tasks", "rm", "c1")
    ctr("containers", "rm", "c1")


@differential()
def test_create_and_start(ctr: Recorder) -> None:
    import_busy(ctr)
    ctr("containers", "create", "--env", "A=1", BUSY, "c1", "stat", "/nosuch")
    ctr("containers", "create", BUSY, "c1")
    ctr("containers", "create", "example.com/nobody:1", "c2")
    ctr("tasks", "start", "c1")
    ctr("tasks", "ls")
    ctr("containers", "info", "c1")
    ctr("containers", "rm", "--keep-snapshot", "c1")
    ctr("snapshots", "ls")


@differential()
def test_containers(ctr: Recorder) -> None:
    import_busy(ctr)
    ctr.quietly("containers", "create", "--label", "colour=red", BUSY, "c1")
    ctr.quietly("containers", "create", "--label", "colour=blue", BUSY, "c2")
    ctr("containers", "ls", "-q")
    for expression in (
        "id==c1",
        "id!=c1",
        "labels.colour==red",
        "labels.colour~=b.*",
        "image==example.com/busy:1",
        "runtime.name~=runc",
        "id==c1,labels.colour==blue",
        "==",
    ):
        ctr("containers", "ls", "-q", expression)
    ctr("containers", "label", "c1", "colour=", "shape=round")
    ctr("containers", "label", "c1", f"long={'x' * 5000}")
    ctr("containers", "label", "nosuch", "a=1")
    ctr("containers", "info", "c1")
    ctr("containers", "info", "nosuch")
    ctr("containers", "rm", "c1", "nosuch", "c2")
    ctr("containers", "ls")


@differential()
def test_events_of_a_container(ctr: Recorder) -> None:
    """What a container with an exec, a pause and an end by signal tells."""
    import_busy(ctr)
    pids = (
        (r'"(pid|exit_status)":\d+', r'"\1":<n>'),
        (r"/fifo/\d+/", "/fifo/<n>/"),
        (r"snapshots/\d+", "snapshots/<n>"),
        (r'"index=off",|,"index=off"', ""),  # stands before the layers, or behind them as of containerd 1.7
    )
    with ctr.events() as log:
        ctr.quietly("run", "--detach", BUSY, "c1", "sleep", "1000")
        ctr.quietly("tasks", "exec", "--exec-id", "e1", "c1", "true")
        ctr.quietly("tasks", "pause", "c1")
        ctr.quietly("tasks", "resume", "c1")
        ctr.quietly("tasks", "kill", "--signal", "SIGKILL", "c1")
        await_status(ctr, "c1", "STOPPED")
        ctr.quietly("tasks", "rm", "c1")
        ctr.quietly("containers", "rm", "c1")
        for line in log.lines(13):
            ctr.note(line, hide=pids)
