# SPDX-License-Identifier: Apache-2.0
"""What people see who sit at a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.support.cli import Orlop

BUSY = "busy:1"
READ = 'while read line; do eval "$line"; done'
"""A shell without line editing, which would answer with control sequences."""


def test_run_on_a_terminal(any_busy: Orlop) -> None:
    """The container's terminal is of this one's size, follows it, and makes signals of keys."""
    with any_busy.terminal(
        "run", "-it", "--rm", BUSY, "sh", "-c", f"trap 'echo interrupted; exit 5' INT; {READ}"
    ) as terminal:
        terminal.type("stty size\n")
        terminal.expect("24 80\r\n")
        terminal.resize(40, 100)
        terminal.type("until stty size | grep -q 40; do sleep 0.1; done; stty size; test -t 2 && echo terminal\n")
        terminal.expect("40 100\r\n")
        terminal.expect("terminal\r\n")
        assert terminal.attributes() != terminal.before
        terminal.type("echo now; while true; do sleep 0.1; done\n")
        terminal.expect("now\r\n")
        terminal.type("\x03")
        terminal.expect("interrupted\r\n")
        assert terminal.wait() == 5
        assert terminal.attributes() == terminal.before
    assert any_busy.ok("ps", "-aq") == ""


def test_exec_on_a_terminal(any_busy: Orlop, tmp_path: Path) -> None:
    any_busy.ok("run", "-d", "--log-uri", f"file://{tmp_path}/log", "--name", "c1", BUSY, "sleep", "100")
    with any_busy.terminal("exec", "-it", "c1", "sh", "-c", READ) as terminal:
        terminal.type("tty; stty size\n")
        terminal.expect("24 80\r\n")
        terminal.type("exit 6\n")
        assert terminal.wait() == 6
        assert terminal.attributes() == terminal.before
    any_busy.ok("rm", "-f", "c1")


def test_control_c_without_a_terminal_in_the_container(orlop_busy: Orlop) -> None:
    script = "trap 'echo got; exit 4' INT; echo ready; while true; do sleep 0.1; done"
    with orlop_busy.terminal("run", "--rm", BUSY, "sh", "-c", script) as terminal:
        terminal.expect("ready\r\n")
        terminal.type("\x03")
        terminal.expect("got\r\n")
        assert terminal.wait() == 4


def test_a_terminal_that_hangs_up(orlop_busy: Orlop) -> None:
    script = "trap 'exit 7' HUP; echo ready; while true; do sleep 0.1; done"
    with orlop_busy.terminal("run", "-it", "--rm", BUSY, "sh", "-c", script) as terminal:
        terminal.expect("ready\r\n")
        os.kill(terminal.process.pid, signal.SIGHUP)
        assert terminal.wait() == 7
    assert orlop_busy.ok("ps", "-aq") == ""


def test_interrupted_from_elsewhere_the_terminal_is_restored(orlop_busy: Orlop) -> None:
    with orlop_busy.terminal("run", "-it", "--rm", BUSY, "sh", "-c", f"echo ready; {READ}") as terminal:
        terminal.expect("ready\r\n")
        os.kill(terminal.process.pid, signal.SIGINT)
        assert terminal.wait() == 130
        assert terminal.attributes() == terminal.before
    assert orlop_busy.ok("ps", "-aq") == ""


def test_bars_on_a_terminal_and_lines_elsewhere(orlop: Orlop, archive: Path) -> None:
    lines = orlop.run("import", str(archive)).err.splitlines()
    assert "imported    docker.io/library/busy:1" in lines
    assert all("\x1b" not in line for line in lines)
    assert orlop.run("--format", "json", "import", str(archive)).err == ""
    with orlop.terminal("import", str(archive)) as terminal:
        terminal.expect("━")
        terminal.expect("docker.io/library/busy:1\r\n")
        assert terminal.wait() == 0


def test_control_c_ends_what_only_watches(orlop: Orlop) -> None:
    with orlop.terminal("events") as terminal:
        subprocess.run(["sleep", "1"], check=True)
        terminal.type("\x03")
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.shown


def test_archives_do_not_go_to_terminals(orlop_busy: Orlop) -> None:
    for words in (("export", "-", BUSY), ("import", "-")):
        with orlop_busy.terminal(*words) as terminal:
            terminal.expect("is a terminal")
            assert terminal.wait() == 1
