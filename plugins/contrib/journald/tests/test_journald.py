# SPDX-License-Identifier: Apache-2.0
"""The journald driver, with the real journald: the suite for all drivers, and what is its own."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping

import pytest
from tests.support.ctr import eventually
from tests.support.journal import Journal, usable
from tests.support.place import short_directory

from orlop.interfaces.log import LogDriver, LogStreams
from orlop_journald import JournaldConfig
from orlop_journald.driver import Entries, JournaldDriver
from orlop_journald.native import field
from orlop_sdk.logs import relay
from orlop_sdk.logs.lines import Pieces
from orlop_sdk.testing.log import LogDriverSuite, LogRun

needs_journald = pytest.mark.skipif(os.geteuid() != 0 or bool(usable()), reason=usable() or "needs root")
STREAMS = {b"6": "stdout", b"3": "stderr"}


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no journal that takes nothing."""
    monkeypatch.setattr(relay, "LAST", 30.0)


@pytest.fixture(scope="module")
def journal() -> Iterator[Journal]:
    with short_directory() as base, Journal(base) as made:
        yield made


@pytest.fixture
def tag(request: pytest.FixtureRequest) -> str:
    """Tells this test's entries from all others."""
    return re.sub(r"\W", "-", request.node.nodeid)


@needs_journald
class TestSuite(LogDriverSuite):
    bad_uris = (
        "journald://host",
        "journald:///run/systemd/journal/socket",
        "journald://?socket=journal/socket",
        f"journald://?socket=/{'x' * 108}",
        "journald://?tag={{.Color}}",
        "journald://?mode=never",
        "journald://?max-buffer-size=2g",
        "journald://?max-line-size=0",
        "journald://?color=red",
    )
    journal: Journal

    @pytest.fixture
    def driver(self) -> LogDriver:
        return JournaldDriver()

    @pytest.fixture
    def uri(self, journal: Journal, tag: str) -> str:
        self.journal = journal
        # A buffer that is never full drops nothing.
        return f"journald://?socket={journal.socket}&tag={tag}&max-buffer-size=64m"

    def logged(self, uri: str) -> Mapping[str, bytes]:
        found: dict[str, bytes] = {}
        for entry in self.journal.entries(CONTAINER_TAG=uri.partition("tag=")[2].partition("&")[0]):
            name = STREAMS[entry["PRIORITY"]]
            ending = b"" if "CONTAINER_PARTIAL_MESSAGE" in entry else b"\n"
            found[name] = found.get(name, b"") + entry["MESSAGE"] + ending
        return found


def run(driver: LogDriver, uri: str, data: bytes, container: str = "c1") -> None:
    """A container that writes something to stdout."""
    log = LogRun(driver, uri, container)
    log.wait_ready()
    log.write("stdout", data)
    log.end()


@needs_journald
def test_an_entry_has_dockers_fields(journal: Journal, tag: str) -> None:
    id = "0123456789ab" + "c" * 52
    run(JournaldDriver(), f"journald://?socket={journal.socket}&tag={tag}.{{{{.ID}}}}", b"hello\n", id)
    (entry,) = journal.entries(CONTAINER_TAG=f"{tag}.0123456789ab")
    own = {name: value for name, value in entry.items() if not name.startswith("_") and name != "SYSLOG_TIMESTAMP"}
    assert own == {
        "MESSAGE": b"hello",
        "PRIORITY": b"6",
        "CONTAINER_ID": b"0123456789ab",
        "CONTAINER_ID_FULL": id.encode(),
        "CONTAINER_NAME": id.encode(),
        "CONTAINER_NAMESPACE": b"default",
        "CONTAINER_TAG": f"{tag}.0123456789ab".encode(),
        "SYSLOG_IDENTIFIER": f"{tag}.0123456789ab".encode(),
    }
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", entry["SYSLOG_TIMESTAMP"])
    assert entry["_TRANSPORT"] == b"journal"


@needs_journald
def test_settings_hold_where_the_uri_says_nothing(journal: Journal, tag: str) -> None:
    run(JournaldDriver(JournaldConfig(socket=journal.socket, tag=tag)), "journald://", b"hello\n")
    assert [entry["MESSAGE"] for entry in journal.entries(CONTAINER_TAG=tag)] == [b"hello"]


@needs_journald
def test_a_line_that_is_too_large_for_a_datagram_comes_whole(journal: Journal, tag: str) -> None:
    # The send buffer has 16 MiB at most, for the kernel doubles what is asked for.
    line = b"x" * (17 << 20)
    uri = f"journald://?socket={journal.socket}&tag={tag}&max-line-size=20m&max-buffer-size=64m"
    run(JournaldDriver(), uri, b"before\n" + line + b"\nafter\n")
    assert [entry["MESSAGE"] for entry in journal.entries(CONTAINER_TAG=tag)] == [b"before", line, b"after"]


def test_the_file_of_a_large_entry_cannot_be_changed() -> None:
    with short_directory() as base, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(base / "socket"))
        journal.settimeout(30)
        run(JournaldDriver(), f"journald://?socket={base}/socket&max-line-size=20m", b"x" * (17 << 20))
        data, (fd,), _, _ = socket.recv_fds(journal, 1 << 16, 1)
        try:
            size = os.fstat(fd).st_size
            text = os.pread(fd, size, 0)
            with pytest.raises(PermissionError):
                os.pwrite(fd, b"y", 0)
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size + 1)
        finally:
            os.close(fd)
    assert data == b""
    assert text.endswith(b"\nMESSAGE=" + b"x" * (17 << 20) + b"\n")


@needs_journald
def test_nothing_that_a_container_writes_makes_a_field(journal: Journal, tag: str) -> None:
    run(
        JournaldDriver(),
        f"journald://?socket={journal.socket}&tag={tag}",
        b"x\0y\nPRIORITY=0\n\rCONTAINER_NAME=other\n",
    )
    found = journal.entries(CONTAINER_TAG=tag)
    assert [entry["MESSAGE"] for entry in found] == [b"x\0y", b"PRIORITY=0", b"\rCONTAINER_NAME=other"]
    assert {(entry["PRIORITY"], entry["CONTAINER_NAME"]) for entry in found} == {(b"6", b"c1")}


def test_pieces_are_marked_and_names_cannot_break_out() -> None:
    streams = LogStreams(-1, -1, "c1", "default", lambda: None, image="a\nPRIORITY=0")
    whole, piece, last = Entries("{{.ImageName}}", streams).make("stdout", Pieces([b"a", b"b", b"c"], {1}))
    assert b"CONTAINER_PARTIAL_MESSAGE=true\n" in piece
    assert b"PARTIAL" not in whole + last
    assert b"IMAGE_NAME\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n" in whole
    assert field("A", b"b") == b"A=b\n"


def dropped(caplog: pytest.LogCaptureFixture) -> int:
    return sum(map(int, re.findall(r"(\d+) messages \(\d+ bytes\)", caplog.text)))


def test_a_journal_that_takes_nothing_makes_nobody_wait(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LAST", 1.0)
    lines = [b"%06d %s" % (number, b"x" * 1000) for number in range(20_000)]
    with short_directory() as base, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(base / "socket"))
        log = LogRun(JournaldDriver(), f"journald://?socket={base}/socket&max-buffer-size=64k")
        log.wait_ready()
        for line in lines:
            log.write("stdout", line + b"\n")  # more than all buffers hold, and it returns
        log.end()
        journal.setblocking(False)
        kept = []
        try:
            while entries := journal.recv(1 << 17):
                kept += re.findall(rb"PRIORITY=6\n.*\nMESSAGE=(.*)\n", entries)
        except BlockingIOError:
            pass
    assert kept == sorted(kept)
    assert set(kept) < set(lines)
    # What says so to the journal may have been dropped as well.
    said = caplog.text.count("of this container's output were dropped")
    assert 0 <= dropped(caplog) - (len(lines) - len(kept)) <= said


@needs_journald
def test_what_waits_is_sent_when_the_journal_comes(caplog: pytest.LogCaptureFixture) -> None:
    with short_directory() as base:
        journal = Journal(base)
        log = LogRun(JournaldDriver(), f"journald://?socket={journal.socket}&tag=t")
        log.wait_ready()
        log.write("stdout", b"early\n")
        eventually(lambda: "trying again" in caplog.text, "nothing is said", 30)
        with journal:
            eventually(lambda: "reached again" in caplog.text, "it does not try again", 30)
            log.end()
            assert [entry["MESSAGE"] for entry in journal.entries(CONTAINER_TAG="t")] == [b"early"]
