# SPDX-License-Identifier: Apache-2.0
"""Output of containers on its way to a syslog server and to the journal: real shims, real receivers; needs root."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.ctr import eventually
from tests.support.daemon import Daemon
from tests.support.image import Image, write_archive
from tests.support.journal import Journal, usable
from tests.support.runtime import PATIENCE, World, world
from tests.support.syslog_server import DatagramServer, StreamServer, parse, server_context

from orlop.hooks import manager
from orlop.interfaces.log import LOG_DRIVER, LogDriver
from orlop.values import Stdio
from orlop_journald.driver import JournaldDriver
from orlop_runtime.log_uri import LogUris
from orlop_syslog.driver import SyslogDriver

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("containerd-shim-runc-v2", "runc", "busybox"))),
    reason="needs root, containerd's runc shim, runc and busybox-static",
)
needs_journald = pytest.mark.skipif(bool(usable()), reason=usable() or "journald is there")

DRIVERS: dict[str, LogDriver] = {"journald": JournaldDriver(), "syslog": SyslogDriver()}
SCRIPT = "echo out; sleep 0.2; echo err >&2; sleep 0.2; printf 'no end'"


OWN = pytest.mark.parametrize("w", [True], ids=["own"], indirect=True)
THEIRS = pytest.mark.parametrize("w", [False], ids=["containerds"], indirect=True)
BOTH = pytest.mark.parametrize("w", [True, False], ids=["own", "containerds"], indirect=True)


@pytest_asyncio.fixture
async def w(short_tmp: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with world(short_tmp, own=request.param) as made:
        yield made


async def log_to(w: World, uri: str, image: str = "") -> None:
    """Run a container that logs to a URI, to its end."""
    uris = LogUris(DRIVERS, LOG_DRIVER.name, manager().hook)
    stdio = uris.resolve(Stdio(stdout=uri, stderr=uri), w.namespace, "c1", image)
    task = await w.run("c1", ["sh", "-c", SCRIPT], stdio)
    async with asyncio.timeout(PATIENCE):
        await task.wait()
        await task.delete()


def check(received: list[bytes]) -> None:
    """What `SCRIPT` writes, as messages."""
    messages = [parse(message) for message in received]
    assert [(message.severity, message.text) for message in messages] == [(6, b"out"), (3, b"err"), (6, b"no end")]
    assert {message.application for message in messages} == {"c1"}


@OWN
async def test_syslog_by_unix_socket(w: World) -> None:
    with DatagramServer(w.base / "log").start() as server:
        await log_to(w, f"syslog://?syslog-address={server.address}")
        eventually(lambda: len(server.received) == 3, lambda: str(server.received), PATIENCE)
        check(server.received)


@THEIRS
async def test_syslog_by_tcp(w: World) -> None:
    with StreamServer().start() as server:
        await log_to(w, f"syslog://?syslog-address={server.address}")
        check(await asyncio.to_thread(server.all))


@OWN
async def test_syslog_by_tls(w: World) -> None:
    with StreamServer(server_context(w.base)).start() as server:
        await log_to(w, f"syslog://?syslog-address={server.address}&syslog-tls-ca-cert={w.base}/server.pem")
        check(await asyncio.to_thread(server.all))


@needs_journald
@BOTH
async def test_journald(w: World) -> None:
    with Journal(w.base) as journal:
        await log_to(w, f"journald://?socket={journal.socket}&tag=web", "docker.io/library/demo:1")
        eventually(lambda: len(journal.entries(CONTAINER_TAG="web")) == 3, "entries are missing", PATIENCE)
        entries = journal.entries(CONTAINER_TAG="web")
    assert [(entry["PRIORITY"], entry["MESSAGE"]) for entry in entries] == [
        (b"6", b"out"),
        (b"3", b"err"),
        (b"6", b"no end"),
    ]
    assert {entry["IMAGE_NAME"] for entry in entries} == {b"docker.io/library/demo:1"}
    assert {entry["CONTAINER_NAMESPACE"] for entry in entries} == {w.namespace.encode()}


@THEIRS
async def test_a_server_that_is_away_stops_no_container(w: World, caplog: pytest.LogCaptureFixture) -> None:
    await log_to(w, f"syslog://?syslog-address=unixgram://{w.base}/nobody")
    # It ran to its end, and what became of its output is in the daemon's log.
    for _ in range(int(PATIENCE / 0.05)):
        if "3 messages" in caplog.text:
            break
        await asyncio.sleep(0.05)
    assert "orlop-log: syslog server unixgram://" in caplog.text
    assert "3 messages" in caplog.text


@needs_journald
def test_through_the_daemon_the_image_is_known_and_mistakes_show_at_once(short_tmp: Path) -> None:
    name = "docker.io/library/demo:1"
    write_archive(short_tmp / "demo.tar", {name: Image()})
    with Daemon(short_tmp) as daemon, Journal(short_tmp / "j") as journal:
        ctr = daemon.ctr("logs")
        ctr.ok("image", "import", str(short_tmp / "demo.tar"))
        uri = f"journald://?socket={journal.socket}&tag={{{{.ImageName}}}}/{{{{.Name}}}}"
        ctr.ok("run", "--rm", "--log-uri", uri, name, "c1", "echo", "hello")
        eventually(lambda: bool(journal.entries(CONTAINER_NAME="c1")), daemon.tail, PATIENCE)
        (entry,) = journal.entries(CONTAINER_NAME="c1")
        wrong = ctr.run("run", "--log-uri", "syslog://?syslog-facility=x", name, "c2", "true")
    assert entry["MESSAGE"] == b"hello"
    assert entry["IMAGE_NAME"] == name.encode()
    assert entry["CONTAINER_TAG"] == f"{name}/c1".encode()
    assert entry["CONTAINER_NAMESPACE"] == b"logs"
    assert wrong.code != 0
    assert 'syslog-facility: there is no facility "x"' in wrong.err
