# SPDX-License-Identifier: Apache-2.0
"""Log drivers whose receiver does nothing any more: with no shim does a container wait for it, and losses are told."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.integration.shim.conftest import Case, check_host, fresh, make_case
from tests.support.ctr import eventually
from tests.support.journal import Journal, usable

LINES = 6000
# More than all buffers on the way hold. The writer says whether it was ended by a signal.
WRITER = 'while [ ! -e "/go-$1" ]; do sleep 0.1; done; cat /lines && exit 7; exit 9'
SMALL = "max-buffer-size=64k"
PATIENCE = 90
# Is ready, and fails at the first thing that it reads.
BROKEN = f"""\
#!{sys.executable}
import os, sys
from orlop_sdk.serving.log import main_for

class Broken:
    schemes = ("broken",)
    def shim_uri(self, uri):
        return None
    def run(self, uri, options, streams):
        streams.ready()
        os.read(streams.stdout, 1)
        raise RuntimeError("no more")

sys.stderr = open(sys.argv[sys.argv.index("said") + 1], "w")
sys.exit(main_for(Broken)())
"""


@pytest.fixture(params=["ours", "debian"])
def orlop(request: pytest.FixtureRequest) -> Iterator[Case]:
    """Orlop with either shim."""
    check_host("runc")
    with ExitStack() as stack, fresh(make_case(stack, "orlopd", request.param, "runc")) as made:
        (made.tree / "lines").write_bytes(b"".join(b"%01000d\n" % number for number in range(LINES)))
        yield made


def start(case: Case, id: str, uri: str) -> None:
    """A container that writes much as soon as everything is in place."""
    case.start(id, "/bin/sh", "-c", WRITER, "sh", id, flags=("--log-uri", uri))


def ends(case: Case, id: str) -> None:
    """Wait for a writer to end by itself, after all of its output, and remove it."""
    eventually(lambda: case.status(id) == "STOPPED", lambda: f"{id} stands still\n{case.daemon.tail()}", PATIENCE)
    deleted = case.ctr.run("tasks", "rm", id)
    assert "exit code 7" in deleted.err, str(deleted)
    case.ctr.ok("containers", "rm", id)


def check_told(case: Case, whose: str, what: str) -> None:
    """The daemon's log says how much of somebody's output was dropped."""
    pattern = re.compile(
        rf"orlop-log: {re.escape(whose)}: (\d+) {what} \((\d+) bytes\) of this container's output were"
    )
    eventually(lambda: bool(pattern.search(case.daemon.log.read_text())), case.daemon.tail, PATIENCE)
    count = sum(int(said[1]) for said in pattern.finditer(case.daemon.log.read_text()))
    # What a receiver is told of losses counts as well, where that is dropped too.
    assert 0 < count <= LINES + 10


def test_receivers_that_do_nothing(orlop: Case) -> None:
    """A server that accepts and reads nothing, for those who drop and those who wait; and a disk that is full."""
    small = orlop.daemon.base / "small"
    small.mkdir()
    with ExitStack() as stack:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], check=True)
        stack.callback(subprocess.run, ["umount", str(small)], check=True)
        servers = {}
        for mode in ("non-blocking", "blocking"):
            server = stack.enter_context(socket.socket())
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            server.bind(("127.0.0.1", 0))
            server.listen()
            servers[mode] = f"tcp://127.0.0.1:{server.getsockname()[1]}"
            start(orlop, mode, f"syslog:///?syslog-address={servers[mode]}&mode={mode}&{SMALL}")
        start(orlop, "full", f"json-file://{small}/log")
        ids = (*servers, "full")
        for id in ids:
            (orlop.tree / f"go-{id}").touch()
        try:
            for id in ids:
                ends(orlop, id)
            for address in servers.values():
                check_told(orlop, f"syslog server {address}", "messages")
            check_told(orlop, f"{small}/log", "entries")
        finally:
            for id in ids:
                orlop.remove(id)


@pytest.mark.skipif(bool(usable()), reason=usable() or "journald is there")
def test_a_journal_that_stands_still(orlop: Case) -> None:
    with Journal(orlop.daemon.base) as journal:
        start(orlop, "c1", f"journald:///?socket={journal.socket}&{SMALL}")
        os.kill(journal.pid, signal.SIGSTOP)
        (orlop.tree / "go-c1").touch()
        try:
            ends(orlop, "c1")
            check_told(orlop, f"journal {journal.socket}", "messages")
        finally:
            os.kill(journal.pid, signal.SIGCONT)
            orlop.remove("c1")


def test_a_driver_that_fails_does_not_end_its_container(orlop: Case) -> None:
    program = orlop.daemon.base / "broken"
    program.write_text(BROKEN)
    program.chmod(0o755)
    said = orlop.daemon.base / "said"
    start(orlop, "c1", f"binary://{program}?uri=broken://&said={said}")
    (orlop.tree / "go-c1").touch()
    try:
        ends(orlop, "c1")
        eventually(lambda: "were dropped" in said.read_text(), said.read_text, PATIENCE)
    finally:
        orlop.remove("c1")
    assert "RuntimeError: no more; output is being dropped" in said.read_text()
    assert f"{LINES * 1001 - 1} bytes" in said.read_text()
