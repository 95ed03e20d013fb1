# SPDX-License-Identifier: Apache-2.0
"""What only our own shim is held to: broken runtimes, input that ends early, checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.ctr import eventually
from tests.support.daemon import OUR_SHIM
from tests.support.runtime import pids_of

if TYPE_CHECKING:
    from tests.integration.shim.conftest import Case

FAILING = """\
#!/bin/sh
for word; do
    if [ "$word" = {verb} ]; then
        echo "{verb} is broken" >&2
        exit 1
    fi
done
exec {runc} "$@"
"""
ONLY_CHECKPOINTS = """\
#!/bin/sh
case "$*" in *" checkpoint "*) echo "$*" >{said}; exit 0;; esac
exec {runc} "$@"
"""

# Says that a container was started only when it has ended.
SLOW_TO_SAY = """\
#!/bin/sh
{runc} "$@" || exit
case "$*" in
    *" start "*)
        while [ "$1" != --log ]; do shift; done
        pid=$(cat "${{2%/*}}/init.pid")
        tries=0
        while kill -0 "$pid" && [ $tries -lt 300 ]; do sleep 0.1; tries=$((tries + 1)); done
esac
exit 0
"""


def broken_runtime(case: Case, verb: str) -> str:
    """A runc that fails at one thing."""
    path = case.daemon.base / f"runc-{verb}"
    path.write_text(FAILING.format(verb=verb, runc=shutil.which("runc")))
    path.chmod(0o755)
    return str(path)


def test_input_ends_when_the_client_says_so(own: Case) -> None:
    done = own.run("c1", "/bin/cat", stdin=b"all of it\n")
    assert (done.code, done.out) == (0, "all of it\n")


@pytest.mark.parametrize("runtime", ["io.containerd.orlop.v1", OUR_SHIM], ids=["name", "path"])
def test_it_is_found_by_its_own_name(own: Case, runtime: str) -> None:
    own.ctr.ok("run", "-d", "--runtime", runtime, "--rootfs", str(own.tree), "c1", "/bin/sleep", "1000")
    try:
        (argv,) = own.daemon.shims().values()
        assert Path(argv[0]).name == Path(OUR_SHIM).name
        assert own.status("c1") == "RUNNING"
    finally:
        own.remove("c1")


@pytest.mark.parametrize("verb", ["create", "start", "pause", "exec"])
def test_a_runtime_that_fails_is_named_and_leaves_nothing(own: Case, verb: str) -> None:
    own.runtime = broken_runtime(own, verb)
    if verb in ("create", "start"):
        done = own.run("c1", "/bin/true")
    else:
        own.start("c1", "/bin/sleep", "1000")
        more = ("--exec-id", "e1") if verb == "exec" else ()
        done = own.ctr.run("tasks", verb, *more, "c1", *(("/bin/true",) if verb == "exec" else ()))
    assert done.code != 0
    assert f"{verb} is broken" in done.err or f"OCI runtime {verb} failed" in done.err
    own.remove("c1")


@pytest.mark.parametrize("verb", ["resume", "delete"])
def test_what_a_runtime_failed_at_can_be_asked_for_again(own: Case, verb: str) -> None:
    """The container stays as it was until the runtime does what it is told."""
    own.runtime = broken_runtime(own, verb)
    own.start("c1", "/bin/sleep", "1000")
    try:
        if verb == "resume":
            own.ctr.ok("tasks", "pause", "c1")
            call, before, after = ("tasks", "resume", "c1"), "PAUSED", "RUNNING"
        else:
            own.ctr.ok("tasks", "kill", "--signal", "SIGKILL", "c1")
            eventually(lambda: own.status("c1") == "STOPPED", "the container does not end")
            call, before, after = ("tasks", "rm", "c1"), "STOPPED", ""
        for _ in range(2):
            done = own.ctr.run(*call)
            assert done.code != 0
            assert f"{verb} is broken" in done.err
            assert own.status("c1") == before
        Path(own.runtime).write_text(f'#!/bin/sh\nexec {shutil.which("runc")} "$@"\n')
        own.ctr.run(*call)
        assert own.status("c1") == after
    finally:
        own.remove("c1")


def test_a_runtime_that_cannot_kill_keeps_nothing_alive(own: Case) -> None:
    own.runtime = broken_runtime(own, "kill")
    own.start("c1", "/bin/sh", "-c", "/bin/sleep 98127 & exec /bin/sleep 98127")
    try:
        eventually(lambda: len(pids_of("98127")) == 2, "not two processes")
        own.ctr.ok("tasks", "kill", "--signal", "SIGKILL", "c1")
        eventually(lambda: own.status("c1") == "STOPPED", "the container does not end")
        eventually(lambda: not pids_of("98127"), "a process lives on")
    finally:
        own.remove("c1")


def test_a_runtime_that_is_missing_is_named(own: Case) -> None:
    own.runtime = "/no/such/runc"
    done = own.run("c1", "/bin/true")
    assert done.code != 0
    assert "/no/such/runc" in done.err
    own.ctr.run("containers", "rm", "c1")


def test_a_missing_program_leaves_the_container_alone(own: Case) -> None:
    own.start("c1", "/bin/sleep", "1000")
    try:
        for number in range(3):
            done = own.ctr.run("tasks", "exec", "--exec-id", f"e{number}", "c1", "/no/such/program")
            assert "no such file or directory" in done.err
        assert own.ctr.run("tasks", "exec", "--exec-id", "e", "c1", "/bin/echo", "fine").out == "fine\n"
    finally:
        own.remove("c1")


ORPHAN = "echo $$ >/orphan; read x </go"


def test_orphans_are_reaped(own: Case) -> None:
    """What loses its parent in the host's pid namespace becomes the shim's child, and no zombie when it ends."""
    said = own.tree / "orphan"
    os.mkfifo(own.tree / "go")
    (own.tree / "script").write_text(ORPHAN)
    flags = ("--with-ns", f"pid:/proc/{os.getpid()}/ns/pid")
    # The shell between them ends at once.
    own.start("c1", "/bin/sh", "-c", "/bin/sh -c '/bin/sh /script & exit'; exec /bin/sleep 1000", flags=flags)
    try:
        eventually(lambda: said.exists() and said.read_text().endswith("\n"), "the orphan says nothing")
        stat = Path("/proc", said.read_text().strip(), "stat")
        shims = own.daemon.shims()
        eventually(lambda: int(stat.read_text().rpartition(") ")[2].split()[1]) in shims, "the shim does not get it")
        (own.tree / "go").write_text("x\n")
        eventually(lambda: not stat.exists(), "the orphan stays a zombie")
        assert own.status("c1") == "RUNNING"
    finally:
        own.remove("c1")
        for name in ("go", "orphan", "script"):
            (own.tree / name).unlink(missing_ok=True)


def test_input_does_not_pass_through_the_shim(own: Case) -> None:
    """The kernel moves it from one pipe to the other: the shim itself writes next to nothing."""
    much = 32 << 20
    own.start("c1", "/bin/sleep", "1000")
    try:
        done = own.ctr.run(
            "tasks", "exec", "--exec-id", "e1", "c1", "/bin/busybox", "wc", "-c", stdin=bytes(much), timeout=60
        )
        assert done.out.split() == [str(much)]
        # What is read is no sign: that of processes that have ended counts as their parent's.
        texts = [Path(f"/proc/{pid}/io").read_text() for pid in own.daemon.shims()]
        written = [int(line.split()[1]) for text in texts for line in text.splitlines() if line.startswith("wchar:")]
        assert len(written) == len(texts) > 0
        assert sum(written) < much / 8, written
    finally:
        own.remove("c1")


def test_many_at_once(own: Case) -> None:
    own.start("c1", "/bin/sleep", "1000")
    try:
        outputs = [own.daemon.base / f"many{number}" for number in range(8)]
        for number, path in enumerate(outputs):
            with (
                path.open("wb") as out,
                own.ctr.background(
                    "tasks", "exec", "--exec-id", f"e{number}", "c1", "/bin/echo", str(number), out=out
                ) as call,
            ):
                assert call.wait(30) == 0
        assert [path.read_text() for path in outputs] == [f"{number}\n" for number in range(8)]
    finally:
        own.remove("c1")


def test_the_bundle_has_what_clean_up_needs(own: Case) -> None:
    own.start("c1", "/bin/sleep", "1000")
    try:
        bundle = own.daemon.state / "io.containerd.runtime.v2.task" / own.namespace / "c1"
        assert (bundle / "runtime").read_text() == "runc"
        assert json.loads((bundle / "options.json").read_text())["binary_name"] == "runc"
        assert int((bundle / "init.pid").read_text()) > 0
        assert (bundle / "address").read_text().startswith("unix:///")
    finally:
        own.remove("c1")


def test_a_shim_that_dies_leaves_no_socket(own: Case) -> None:
    own.start("c1", "/bin/sleep", "98126")
    try:
        bundle = own.daemon.state / "io.containerd.runtime.v2.task" / own.namespace / "c1"
        socket = Path((bundle / "address").read_text().removeprefix("unix://"))
        assert socket.is_socket()
        (shim,) = own.daemon.shims()
        os.kill(shim, signal.SIGKILL)
        eventually(lambda: not socket.exists(), "the socket is still there")
    finally:
        own.remove("c1")


def test_exits_while_the_daemon_is_away_are_told_later(own: Case) -> None:
    own.start("c1", "/bin/sh", "-c", "trap 'exit 6' TERM; while :; do sleep 0.1; done")
    try:
        (pid,) = [int(line.split()[1]) for line in own.ctr.ok("tasks", "ls").splitlines() if line.startswith("c1 ")]
        own.daemon.kill()
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), "the container does not end")
        own.daemon.start()
        eventually(lambda: own.status("c1") == "STOPPED", "the end is not known")
        assert "exit with non-zero exit code 6" in own.ctr.run("tasks", "rm", "c1").err
    finally:
        own.remove("c1")


def test_want_of_memory_in_the_first_instant_is_told(own: Case) -> None:
    path = own.daemon.base / "runc-slow"
    path.write_text(SLOW_TO_SAY.format(runc=shutil.which("runc")))
    path.chmod(0o755)
    own.runtime = str(path)
    events = own.daemon.base / "events"
    # Of this namespace only: shims of earlier tests may have something to tell yet.
    with events.open("wb") as out, own.ctr.background("events", f'namespace=="{own.namespace}"', out=out):

        def subscribed() -> bool:
            own.ctr.ok("namespaces", "label", own.namespace, "probe=1")
            return bool(events.read_text())

        eventually(subscribed, "no events arrive")
        greedy = ("/bin/sh", "-c", "x=aaaaaaaa; while :; do x=$x$x; done")
        assert own.run("c1", *greedy, flags=("--memory-limit", str(16 << 20))).code != 0
        eventually(lambda: "/tasks/delete" in events.read_text(), events.read_text)
    topics = [word for word in events.read_text().split() if word.startswith("/tasks/")]
    assert list(dict.fromkeys(topics)) == [f"/tasks/{name}" for name in ("create", "start", "oom", "exit", "delete")]


def test_checkpoints_are_asked_of_the_runtime(own: Case) -> None:
    path = own.daemon.base / "runc-checkpoint"
    said = own.daemon.base / "said"
    path.write_text(ONLY_CHECKPOINTS.format(said=said, runc=shutil.which("runc")))
    path.chmod(0o755)
    own.runtime = str(path)
    own.start("c1", "/bin/sleep", "1000")
    try:
        own.ctr.ok("tasks", "checkpoint", "--image-path", str(own.daemon.base / "image"), "c1")
        words = said.read_text().split()
        assert words[words.index("--image-path") + 1] == str(own.daemon.base / "image")
        assert "--leave-running" in words
        assert words[-1] == "c1"
    finally:
        own.remove("c1")
