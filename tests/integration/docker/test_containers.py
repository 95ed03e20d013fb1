# SPDX-License-Identifier: Apache-2.0
"""What people do with ``docker``, one container at a time."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.crun import NotUsable, crun_usable
from tests.support.ctr import eventually
from tests.support.docker import Dockerd

if TYPE_CHECKING:
    from tests.integration.docker.conftest import Place

IMAGE = "busy:1"
RUN = ("run", "--rm", "--network", "none")
STATE = "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}"
FOREVER = "while :; do sleep 0.1; done"
# The client tells the size once the process runs.
SIZE = "until stty size 2>/dev/null | grep 24; do sleep 0.05; done"
GREEDY = "x=$(yes | tr -d '\\n' | head -c 200000000 | grep z)"


def state(docker: Dockerd, name: str) -> dict[str, Any]:
    """What dockerd knows of a container's state."""
    found: dict[str, Any] = json.loads(docker.inspect(name, "{{json .State}}"))
    return found


def events(docker: Dockerd, name: str) -> list[dict[str, Any]]:
    """The events of a container so far."""
    asked = ("--since", "10m", "--until", f"{time.time():.9f}", "--filter", f"container={name}")
    told = docker.ok("events", *asked, "--filter", "type=container", "--format", "{{json .}}")
    return [json.loads(line) for line in told.splitlines()]


def cgroup_value(pid: str, controller: str, file: str) -> str:
    """A file of the control group, of version 1, that a process is in."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}/{file}").read_text().strip()
    pytest.skip(f"this host has no {controller} controller of version 1")


@pytest.mark.parametrize("network", ["none", "host"])
def test_run_gives_streams_and_status(docker: Dockerd, network: str) -> None:
    done = docker.run("run", "--rm", "--network", network, IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.out, done.err) == (7, "out\n", "err\n")


def test_run_passes_input_and_its_end(docker: Dockerd) -> None:
    done = docker.run(*RUN, "--interactive", IMAGE, "sh", "-c", "cat; echo end", stdin=b"some\ninput\n")
    assert (done.code, done.out) == (0, "some\ninput\nend\n")


def test_run_on_a_terminal(docker: Dockerd) -> None:
    script = f"echo ready; read line; {SIZE}; tty; echo [$line]; exit 5"
    code, shown = docker.on_terminal(*RUN, "--interactive", "--tty", IMAGE, "sh", "-c", script, keys=b"typed\r")
    assert code == 5
    assert "24 80" in shown
    assert "/dev/pts/0" in shown
    assert "[typed]" in shown


def test_much_output_arrives_whole_at_the_client_and_in_the_log(place: Place, docker: Dockerd) -> None:
    wanted = "".join(f"{number}\n" for number in range(1, 60001))
    assert docker.ok(*RUN, IMAGE, "seq", "1", "60000") == wanted
    name = place.run("seq", "1", "60000")
    docker.ok("wait", name)
    assert docker.ok("logs", name) == wanted


def test_logs_follow_until_the_end_and_wait_gives_the_status(place: Place, docker: Dockerd) -> None:
    name = place.shell("for i in 1 2 3; do echo line $i; sleep 0.1; done; echo bad >&2; exit 4")
    followed = docker.run("logs", "--follow", name)
    assert (followed.out, followed.err) == ("line 1\nline 2\nline 3\n", "bad\n")
    assert docker.ok("wait", name) == "4\n"
    assert docker.inspect(name, STATE) == "exited 4 false"


@pytest.mark.parametrize(
    ("command", "status", "reason"),
    [("nonesuch", 127, "executable file not found"), ("/etc/passwd", 126, "permission denied")],
)
def test_what_cannot_be_run(docker: Dockerd, command: str, status: int, reason: str) -> None:
    done = docker.run(*RUN, IMAGE, command)
    assert done.code == status
    assert reason in done.err


def test_exec(place: Place, docker: Dockerd) -> None:
    name = place.shell(FOREVER)
    done = docker.run("exec", name, "sh", "-c", "echo out; echo err >&2; exit 9")
    assert (done.code, done.out, done.err) == (9, "out\n", "err\n")
    assert docker.ok("exec", "--interactive", name, "cat", stdin=b"to exec\n") == "to exec\n"
    assert docker.ok("exec", "--user", "1000", "--workdir", "/tmp", "-e", "A=b", name, "sh", "-c", "echo $A; pwd") == (
        "b\n/tmp\n"
    )
    assert docker.run("exec", name, "nonesuch").code in (126, 127)
    docker.ok("exec", "--detach", name, "touch", "/tmp/made")
    eventually(lambda: docker.run("exec", name, "test", "-e", "/tmp/made").code == 0, "exec -d did nothing")
    code, shown = docker.on_terminal("exec", "--interactive", "--tty", name, "sh", "-c", f"{SIZE}; exit 3")
    assert code == 3
    assert "24 80" in shown
    docker.ok("kill", name)
    assert "is not running" in docker.run("exec", name, "true").err


def test_stop_and_kill(place: Place, docker: Dockerd) -> None:
    polite = place.shell(f'trap "exit 5" TERM; echo ready; {FOREVER}')
    deaf = place.shell(f'trap "" TERM; echo ready; {FOREVER}')
    told = place.shell(f'trap "exit 6" USR1; echo ready; {FOREVER}')
    for name in (polite, deaf, told):
        place.logged(name, "ready")
    docker.ok("stop", polite)
    docker.ok("stop", "--time", "1", deaf)
    docker.ok("kill", "--signal", "USR1", told)
    docker.ok("wait", told)
    assert [docker.inspect(name, STATE) for name in (polite, deaf, told)] == [
        "exited 5 false",
        "exited 137 false",
        "exited 6 false",
    ]
    docker.ok("start", polite)
    assert docker.inspect(polite, STATE) == "running 0 false"
    docker.ok("restart", "--time", "1", deaf)
    assert docker.inspect(deaf, STATE) == "running 0 false"


def test_state_from_creation_to_the_end(docker: Dockerd) -> None:
    docker.ok("create", "--name", "stated", "--network", "none", IMAGE, "sh", "-c", "exec sleep 1000")
    assert state(docker, "stated")["Status"] == "created"
    docker.ok("start", "stated")
    running = state(docker, "stated")
    assert (running["Status"], running["Running"]) == ("running", True)
    assert b"sleep" in Path(f"/proc/{running['Pid']}/cmdline").read_bytes()
    assert "cannot remove a running container" in docker.run("rm", "stated").err
    docker.ok("kill", "stated")
    ended = state(docker, "stated")
    assert (ended["Status"], ended["ExitCode"], ended["Pid"]) == ("exited", 137, 0)
    assert running["StartedAt"] == ended["StartedAt"] < ended["FinishedAt"]
    docker.ok("rm", "stated")
    assert docker.run("inspect", "stated").code == 1


def test_pause_and_unpause(place: Place, docker: Dockerd) -> None:
    name = place.shell("while :; do echo tick; sleep 0.05; done")
    place.logged(name, "tick")
    docker.ok("pause", name)
    assert docker.inspect(name, STATE) == "paused 0 false"
    assert "paused" in docker.run("exec", name, "true").err
    before = docker.ok("logs", name)
    eventually(lambda: docker.ok("logs", name) == before, "its log grows")
    frozen = docker.ok("logs", name)
    time.sleep(0.5)
    assert docker.ok("logs", name) == frozen
    docker.ok("unpause", name)
    eventually(lambda: docker.ok("logs", name) != frozen, "it stays frozen")
    docker.ok("pause", name)
    docker.ok("rm", "--force", name)


def test_top_and_stats(place: Place, docker: Dockerd) -> None:
    name = place.shell("sleep 1001 & sleep 1002", "--memory", "64m")
    docker.ok("exec", "--detach", name, "sleep", "1003")
    wanted = ["sleep 1001", "sleep 1002", "sleep 1003"]
    eventually(lambda: all(word in docker.ok("top", name) for word in wanted), "top does not show everything")
    figures = json.loads(docker.ok("stats", "--no-stream", "--format", "{{json .}}", name))
    assert figures["PIDs"] == "3"
    used, _, limit = figures["MemUsage"].partition(" / ")
    assert limit == "64MiB"
    assert used != "0B"
    before = cpu_seconds(docker, name)
    docker.ok("exec", name, "sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
    assert cpu_seconds(docker, name) > before


def cpu_seconds(docker: Dockerd, name: str) -> float:
    """Seconds of CPU time that a container used, from dockerd's own interface."""
    found = docker.get(f"/containers/{name}/stats?stream=false&one-shot=true")
    return float(found["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9


def test_memory_limit(place: Place, docker: Dockerd) -> None:
    name = place.shell(GREEDY, "--memory", "16m", "--memory-swap", "16m")
    assert docker.ok("wait", name) == "137\n"
    place.becomes(name, STATE, "exited 137 true")
    assert "oom" in [event["Action"] for event in events(docker, name)]


def test_update_takes_effect_while_it_runs(place: Place, docker: Dockerd) -> None:
    name = place.shell(FOREVER, "--memory", "64m")
    pid = docker.inspect(name, "{{.State.Pid}}")
    docker.ok("update", "--memory", "32m", "--memory-swap", "48m", "--cpu-shares", "512", "--pids-limit", "77", name)
    assert cgroup_value(pid, "memory", "memory.limit_in_bytes") == str(32 << 20)
    assert cgroup_value(pid, "cpu", "cpu.shares") == "512"
    assert cgroup_value(pid, "pids", "pids.max") == "77"


def test_events_come_in_order(place: Place, docker: Dockerd) -> None:
    name = place.shell(f'trap "exit 3" TERM; echo ready; {FOREVER}')
    place.logged(name, "ready")
    assert docker.run("exec", name, "sh", "-c", "exit 2").code == 2
    docker.ok("pause", name)
    docker.ok("unpause", name)
    docker.ok("stop", name)
    docker.ok("rm", name)
    found = events(docker, name)
    names = [event["Action"].partition(":")[0] for event in found]
    assert names == [
        *("create", "start", "exec_create", "exec_start", "exec_die", "pause", "unpause", "kill", "die", "stop"),
        "destroy",
    ]
    codes = {event["Action"]: event["Actor"]["Attributes"].get("exitCode") for event in found}
    assert (codes["exec_die"], codes["die"]) == ("2", "3")


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_cp(place: Place, docker: Dockerd, tmp_path: Path, running: bool) -> None:
    name = place.shell("echo inside > /made; exec sleep 1000" if running else "echo inside > /made")
    if running:
        eventually(lambda: docker.run("exec", name, "test", "-s", "/made").code == 0, "nothing is made")
    else:
        docker.ok("wait", name)
    (tmp_path / "in").write_text("copied\n")
    docker.ok("cp", str(tmp_path / "in"), f"{name}:/tmp/in")
    docker.ok("cp", f"{name}:/tmp/in", str(tmp_path / "back"))
    docker.ok("cp", f"{name}:/made", str(tmp_path / "made"))
    assert (tmp_path / "back").read_text() == "copied\n"
    assert (tmp_path / "made").read_text() == "inside\n"


def test_diff_and_commit(place: Place, docker: Dockerd) -> None:
    name = place.shell("echo data > /new; rm /etc/group")
    docker.ok("wait", name)
    assert set(docker.ok("diff", name).splitlines()) == {"A /new", "C /etc", "D /etc/group"}
    docker.ok("commit", "--change", 'CMD ["cat", "/new"]', name, "committed:1")
    assert docker.ok(*RUN, "committed:1") == "data\n"
    assert docker.run(*RUN, "committed:1", "cat", "/etc/group").code == 1


def test_attach(docker: Dockerd) -> None:
    docker.ok("create", "--interactive", "--name", "attached", "--network", "none", IMAGE, "sh", "-c", "cat; exit 4")
    done = docker.run("start", "--attach", "--interactive", "attached", stdin=b"through\n")
    assert (done.code, done.out) == (4, "through\n")
    docker.ok("start", "attached")
    done = docker.run("attach", "attached", stdin=b"again\n")
    assert (done.code, done.out) == (4, "again\n")


def test_build(docker: Dockerd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the context\n")
    (tmp_path / "Dockerfile").write_text(
        "FROM busy:1 AS first\nENV WORD=deed\nRUN echo $WORD > /made && test -d /proc/1\nWORKDIR /sub/dir\n"
        "FROM busy:1\nCOPY --from=first /made /made\nCOPY file /file\nRUN cat /file >> /made\n"
        'USER 1000\nENTRYPOINT ["cat"]\nCMD ["/made"]\n'
    )
    docker.ok("build", "--no-cache", "--network", "none", "--tag", "built:1", str(tmp_path))
    assert docker.ok(*RUN, "built:1") == "deed\nof the context\n"
    (tmp_path / "Dockerfile").write_text("FROM busy:1\nRUN echo so far; exit 8\n")
    done = docker.run("build", "--no-cache", "--network", "host", str(tmp_path))
    assert done.code != 0
    assert "so far" in done.out
    assert "returned a non-zero code: 8" in done.err


def test_health_checks(place: Place) -> None:
    name = place.shell(
        FOREVER, "--health-cmd", "test ! -e /tmp/ill", "--health-interval", "0.2s", "--health-retries", "1"
    )
    place.becomes(name, "{{.State.Health.Status}}", "healthy")
    place.docker.ok("exec", name, "touch", "/tmp/ill")
    place.becomes(name, "{{.State.Health.Status}}", "unhealthy")


def test_namespaces_of_another_container_and_of_the_host(place: Place, docker: Dockerd) -> None:
    name = place.run("sleep", "1234", flags=("--ipc", "shareable", "--hostname", "first"))
    shown = docker.ok(*RUN, "--pid", f"container:{name}", "--ipc", f"container:{name}", IMAGE, "ps")
    assert "sleep 1234" in shown
    inside = docker.ok(*RUN, "--pid", "host", "--uts", "host", IMAGE, "sh", "-c", "hostname; ls /proc")
    assert os.uname().nodename in inside
    assert str(os.getpid()) in inside.split()
    # Without a PID namespace of its own all of a container ends with its first process, still.
    left = place.shell("sleep 4321 & sleep 0.1", "--pid", "host")
    assert docker.ok("wait", left) == "0\n"


def test_what_a_container_may_do(docker: Dockerd, tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("from the host\n")
    tmp_path.chmod(0o755)
    flags = [
        *("--init", "--read-only", "--tmpfs", "/tmp", "--user", "1000:1000", "--cap-drop", "ALL"),
        *("--ulimit", "nofile=123", "--env", "A=b", "--workdir", "/tmp", "--volume", f"{tmp_path}:/host:ro"),
        *("--security-opt", "no-new-privileges", "--device", "/dev/zero:/dev/nothing", "--cpuset-cpus", "0"),
    ]
    script = (
        "echo $A; pwd; ulimit -n; cat /host/shared; touch /tmp/ok && echo tmpfs; "
        "touch /no 2>/dev/null || echo read-only; touch /host/no 2>/dev/null || echo ro-volume; "
        "grep -E 'CapEff|NoNewPrivs|Cpus_allowed_list|Uid|Seccomp:' "
        "/proc/self/status | tr -s '\\t ' ' '; head -c 1 /dev/nothing | wc -c; tr '\\0' ' ' < /proc/1/cmdline"
    )
    assert docker.ok(*RUN, *flags, IMAGE, "sh", "-c", script).splitlines()[:13] == [
        *("b", "/tmp", "123", "from the host", "tmpfs", "read-only", "ro-volume"),
        *("Uid: 1000 1000 1000 1000", "CapEff: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2"),
        *("Cpus_allowed_list: 0", "1"),
    ]


def test_many_at_once(docker: Dockerd) -> None:
    def one(number: int) -> tuple[int, str]:
        done = docker.run(*RUN, IMAGE, "sh", "-c", f"echo {number}; exit {number}", timeout=120)
        return done.code, done.out

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(12))) == [(number, f"{number}\n") for number in range(12)]


@pytest.mark.parametrize("runtime", ["runc", "io.containerd.runc.v2"])
def test_names_of_the_usual_runtime(docker: Dockerd, runtime: str) -> None:
    assert docker.ok(*RUN, "--runtime", runtime, IMAGE, "echo", "ran") == "ran\n"


def test_another_oci_runtime(place: Place, docker: Dockerd) -> None:
    try:
        with crun_usable():
            name = place.shell(f"echo on crun; {FOREVER}", "--runtime", "crun")
            place.logged(name, "on crun")
            assert docker.ok("exec", name, "echo", "inside") == "inside\n"
            docker.ok("pause", name)
            docker.ok("unpause", name)
            docker.ok("rm", "--force", name)
    except NotUsable as reason:
        pytest.skip(str(reason))


def test_a_checkpoint_that_fails_harms_nothing(place: Place, docker: Dockerd) -> None:
    name = place.shell(FOREVER)
    done = docker.run("checkpoint", "create", name, "point", timeout=120)
    if done.code == 0:
        pytest.skip("checkpoints work here")
    assert "criu" in done.err
    assert docker.inspect(name, STATE) == "running 0 false"
    assert docker.ok("exec", name, "echo", "inside") == "inside\n"
