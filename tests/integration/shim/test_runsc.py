# SPDX-License-Identifier: Apache-2.0
"""Our shim with an unusual OCI runtime: Debian's ``runsc``, whose containers have a kernel of their own."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from tests.support.ctr import eventually

if TYPE_CHECKING:
    from tests.integration.shim.conftest import Case

pytestmark = pytest.mark.skipif(shutil.which("runsc") is None, reason="needs runsc; Debian has it")
# Its other platforms want virtualisation, or a newer one of it. A network of its own it has no need of here.
RUNSC = """\
#!/bin/sh
exec runsc --platform=ptrace --network=none "$@"
"""


@pytest.fixture
def gvisor(own: Case) -> Case:
    """A case whose containers run in gVisor."""
    program = own.daemon.base / "my-runsc"
    program.write_text(RUNSC)
    program.chmod(0o755)
    own.runtime = str(program)
    return own


def test_a_whole_life(gvisor: Case) -> None:
    script = "echo out; echo err >&2; read line; cat /proc/version; exit 7"
    done = gvisor.run("c1", "/bin/sh", "-c", script, stdin=b"in\n")
    out, version = done.lines()
    assert (done.code, out, done.err) == (7, "out", "err\n"), str(done)
    assert version.startswith("Linux version 4.4.0"), "gVisor says so whatever the host's kernel is"


def test_a_program_that_is_not_there(gvisor: Case) -> None:
    """It is the start that fails, where with others the creation does."""
    done = gvisor.run("c1", "/no/such/program")
    assert done.code != 0
    assert "OCI runtime start failed" in done.err
    assert "/no/such/program" in done.err
    assert gvisor.status("c1") == "CREATED"
    gvisor.remove("c1")


def test_all_that_can_be_asked_of_it(gvisor: Case) -> None:
    gvisor.start("c1", "/bin/sleep", "1000")
    try:
        done = gvisor.ctr.run(
            "tasks", "exec", "--exec-id", "e1", "c1", "/bin/sh", "-c", "cat; exit 5", stdin=b"through\n"
        )
        assert (done.code, done.out) == (5, "through\n")
        script = "echo ready; read x; stty size; echo $x!"
        shown = gvisor.ctr.on_terminal(
            "tasks", "exec", "-t", "--exec-id", "e2", "c1", "/bin/sh", "-c", script, keys=b"hi\n"
        )
        assert "24 80\r" in shown.out
        assert "hi!\r" in shown.out
        assert len(gvisor.ctr.ok("tasks", "ps", "c1").splitlines()) > 1
        assert "memory.usage_in_bytes" in gvisor.ctr.ok("tasks", "metrics", "c1")
        gvisor.ctr.ok("tasks", "pause", "c1")
        assert gvisor.status("c1") == "PAUSED"
        gvisor.ctr.ok("tasks", "resume", "c1")
        gvisor.daemon.kill()
        gvisor.daemon.start()
        assert gvisor.status("c1") == "RUNNING"
        gvisor.ctr.ok("tasks", "kill", "--signal", "SIGKILL", "c1")
        eventually(lambda: gvisor.status("c1") == "STOPPED", "it does not end")
    finally:
        gvisor.remove("c1")
