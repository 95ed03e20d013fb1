# SPDX-License-Identifier: Apache-2.0
"""Containers from the command line, on orlopd and on containerd."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.support.cli import Orlop
from tests.support.ctr import columns, eventually

BUSY = "busy:1"


def ids(orlop: Orlop, *options: str) -> list[str]:
    return orlop.ok("ps", "-q", *options).split()


def test_run_gives_output_and_status(any_busy: Orlop) -> None:
    result = any_busy.run("run", "--rm", BUSY, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (result.code, result.out, result.err) == (7, "out\n", "err\n")
    assert ids(any_busy, "-a") == []


def test_run_passes_input_on(any_busy: Orlop) -> None:
    data = bytes(range(256)) * 4000
    result = any_busy.run("run", "--rm", "-i", BUSY, "cat", stdin=data)
    assert result.code == 0, result.err
    assert result.raw == data
    assert any_busy.run("run", "--rm", BUSY, "cat", stdin=b"unheard").out == ""


def test_options_belong_to_the_command_after_the_image(orlop_busy: Orlop) -> None:
    assert orlop_busy.ok("run", "--rm", BUSY, "echo", "--rm", "-d", "--format", "json") == "--rm -d --format json\n"


def test_run_shapes_the_container(orlop_busy: Orlop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host")
    tmp_path.chmod(0o755)
    script = "cat /data/file; echo; touch /data/new 2>/dev/null; echo $?; id -u; pwd; echo $A $B-$C; hostname"
    out = orlop_busy.run(
        *("run", "--rm", "-v", f"{tmp_path}:/data:ro", "-u", "1000:1000", "-w", "/tmp", "--hostname", "box"),
        *("-e", "A=1", "-e", "B", "-e", "C", BUSY, "sh", "-c", script),
        env={"B": "2"},
    )
    assert out.out.splitlines() == ["from the host", "1", "1000", "/tmp", "1 2-", "box"]
    assert not (tmp_path / "new").exists()


def test_a_program_that_cannot_start(any_busy: Orlop) -> None:
    for options in ((), ("--rm",), ("-d",)):
        assert '"nosuch": executable file not found' in any_busy.fails("run", *options, BUSY, "nosuch")
    assert ids(any_busy, "-a") == []


def test_status_is_kept_for_ps(any_busy: Orlop) -> None:
    assert any_busy.run("run", "--name", "c1", BUSY, "sh", "-c", "exit 3").code == 3
    assert ids(any_busy) == []
    (row,) = any_busy.json("ps", "-a")
    assert (row["id"], row["image"], row["status"], row["exit_status"], row["pid"]) == ("c1", BUSY, "stopped", 3, None)
    assert columns(any_busy.ok("ps", "--all"))[0][:4] == ["c1", BUSY, "stopped", "(3)"]
    assert any_busy.ok("rm", "c1") == "c1\n"


def test_a_name_can_be_used_once(orlop_busy: Orlop) -> None:
    orlop_busy.ok("run", "--name", "c1", BUSY, "true")
    assert "orlop rm c1 removes it" in orlop_busy.fails("run", "--name", "c1", BUSY, "true")


def test_a_life_in_the_background(any_busy: Orlop) -> None:
    """Run detached, list, look inside, read and follow its log, stop with a signal that it heeds, remove."""
    script = 'trap "echo bye; exit 5" TERM; echo hello; while true; do sleep 0.1; done'
    assert any_busy.ok("run", "-d", "--name", "web", BUSY, "sh", "-c", script) == "web\n"
    (row,) = any_busy.json("ps")
    assert row["status"] == "running"
    assert row["pid"] > 0
    eventually(lambda: any_busy.ok("logs", "web") == "hello\n", "it says hello")
    inside = any_busy.run("exec", "-e", "A=1", "-w", "/etc", "web", "sh", "-c", "echo $A $PWD; exit 9")
    assert (inside.code, inside.out) == (9, "1 /etc\n")
    assert any_busy.run("exec", "-i", "web", "cat", stdin=b"through").out == "through"
    assert '"nosuch"' in any_busy.fails("exec", "web", "nosuch")
    assert "orlop stop web first" in any_busy.fails("rm", "web")
    with any_busy.background("logs", "--follow", "web") as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"hello\n"
        assert any_busy.ok("stop", "web") == "web\n"
        assert follower.communicate(timeout=30)[0] == b"bye\n"
        assert follower.returncode == 0
    assert any_busy.json("ps", "-a")[0]["exit_status"] == 5
    assert any_busy.ok("stop", "web") == "web\n"
    assert any_busy.ok("logs", "--tail", "1", "web") == "bye\n"
    for words in (("exec", "web", "true"), ("kill", "web")):
        assert 'container "web": does not run' in any_busy.fails(*words)
    log = Path(row["labels"]["orlop.io/log-uri"].removeprefix("file://"))
    assert log.exists()
    assert any_busy.ok("rm", "web") == "web\n"
    assert not log.exists()
    assert ids(any_busy, "-a") == []


def test_what_does_not_heed_signals(orlop_busy: Orlop, tmp_path: Path) -> None:
    script = "trap '' TERM; while true; do sleep 0.1; done"
    for name in ("c1", "c2", "c3"):
        orlop_busy.ok("run", "-d", "--log-uri", f"file://{tmp_path}/{name}", "--name", name, BUSY, "sh", "-c", script)
    assert orlop_busy.ok("stop", "--time", "0.2", "c1") == "c1\n"
    assert orlop_busy.ok("kill", "c2") == "c2\n"
    eventually(lambda: ids(orlop_busy) == ["c3"], "c1 and c2 have ended")
    statuses = {row["id"]: row["exit_status"] for row in orlop_busy.json("ps", "-a")}
    assert statuses == {"c1": 137, "c2": 137, "c3": None}
    removed = orlop_busy.run("rm", "-f", "c1", "nosuch", "c2", "c3")
    assert (removed.code, removed.out) == (1, "c1\nc2\nc3\n")
    assert removed.err == 'orlop: container "nosuch": not found\n'


def test_kill_by_name_or_number(orlop_busy: Orlop, tmp_path: Path) -> None:
    script = "trap 'exit 42' USR1; while true; do sleep 0.1; done"
    for name in ("USR1", "10"):
        uri = f"file://{tmp_path}/log"
        orlop_busy.ok("run", "-d", "--log-uri", uri, "--name", "c1", BUSY, "sh", "-c", script)
        # Only once the shell has said what to do with it does the signal not end it.
        eventually(lambda: orlop_busy.run("exec", "c1", "true").code == 0, "it runs")
        orlop_busy.ok("kill", "--signal", name, "c1")
        eventually(lambda: ids(orlop_busy) == [], "it has ended")
        assert orlop_busy.json("ps", "-a")[0]["exit_status"] in {42, 128 + signal.SIGUSR1}
        orlop_busy.ok("rm", "c1")
    assert 'signal "NOSUCH": unknown' in orlop_busy.fails("kill", "-s", "NOSUCH", "c1", code=2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(any_busy: Orlop, number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 4' {number.name.removeprefix('SIG')}; echo ready; while true; do sleep 0.1; done"
    with any_busy.background("run", "--rm", BUSY, "sh", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (4, b"got\n", b"")
    assert ids(any_busy, "-a") == []


def test_logs_of_a_log_driver(orlop_busy: Orlop, tmp_path: Path) -> None:
    uri = f"json-file://{tmp_path}/log.json"
    orlop_busy.ok("run", "-d", "--log-uri", uri, "--name", "c1", BUSY, "sh", "-c", "echo out; echo err >&2")
    eventually(lambda: ids(orlop_busy) == [], "it has ended")

    def said() -> bool:
        result = orlop_busy.run("logs", "c1")
        return (result.out, result.err) == ("out\n", "err\n")

    eventually(said, "both lines are logged, each to its stream")


def test_no_log(orlop_busy: Orlop) -> None:
    orlop_busy.ok("run", "--name", "c1", BUSY, "true")
    assert "orlop run --detach does that" in orlop_busy.fails("logs", "c1")
    assert 'container "nosuch": not found' in orlop_busy.fails("logs", "nosuch")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("run",), 2, "run: no image"),
        (("run", "--rm", "-d", BUSY), 2, "--detach does not go with --rm"),
        (("run", "-d", "-t", BUSY), 2, "--detach does not go with"),
        (("run", "--log-uri", "file:///x", BUSY), 2, "--log-uri goes with --detach"),
        (("run", "-p", "80:80", BUSY), 2, "unrecognized arguments: -p"),
        (("run", "--network", "bridge", BUSY), 2, "choose from"),
        (("run", "-m", "many", BUSY), 2, "such as 512m"),
        (("run", "-e", "=1", BUSY), 2, "empty name"),
        (("run", "-v", "data:/data", BUSY), 2, "/host/path:/container/path"),
        (("run", "-v", "/nosuch/path:/data", BUSY), 1, "create it first"),
        (("run", "-t", BUSY), 1, "standard input is no terminal"),
        (("run", "--pull", "never", "nosuch", "true"), 1, "orlop pull nosuch fetches it"),
        (("exec", "nosuch", "true"), 1, 'container "nosuch": not found'),
        (("exec", "nosuch"), 2, "no command"),
        (("logs", "-n", "-1", "nosuch"), 2, "--tail"),
    ],
)
def test_mistakes(orlop_busy: Orlop, words: tuple[str, ...], code: int, said: str) -> None:
    assert said in orlop_busy.fails(*words, code=code)
