# SPDX-License-Identifier: Apache-2.0
"""The syslog driver: the suite for all drivers, and what is its own."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tests.support.ctr import eventually
from tests.support.place import short_directory
from tests.support.syslog_server import DatagramServer, StreamServer, make_certificate, parse, server_context

from orlop.errors import InvalidArgument
from orlop.interfaces.log import LogDriver
from orlop_sdk.logs import relay
from orlop_sdk.testing.log import LogDriverSuite, LogRun
from orlop_syslog import SyslogConfig
from orlop_syslog.address import Address
from orlop_syslog.driver import SyslogDriver
from orlop_syslog.message import Heads, facility_code

LONGEST = 16 << 10
SEVERITIES = {6: "stdout", 3: "stderr"}
# More than any test writes: a buffer that is never full drops nothing.
ROOMY = "max-buffer-size=64m"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no server that takes nothing."""
    monkeypatch.setattr(relay, "LAST", 30.0)


@pytest.fixture
def short() -> Iterator[Path]:
    with short_directory() as path:
        yield path


def uri_of(address: str, *options: str) -> str:
    return "&".join([f"syslog://?syslog-address={address}", *options])


def by_stream(received: list[bytes]) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    for message in map(parse, received):
        name = SEVERITIES[message.severity]
        # Pieces are cut where no character is, and so may be a little shorter.
        ending = b"" if len(message.text) > LONGEST - 4 else b"\n"
        found[name] = found.get(name, b"") + message.text + ending
    return found


class Suite(LogDriverSuite):
    server: DatagramServer | StreamServer
    bad_uris = (
        "syslog://logs.example:514",
        "syslog:///dev/log",
        "syslog://?syslog-address=logs.example",
        "syslog://?syslog-address=tcp://",
        "syslog://?syslog-address=tcp://h:port",
        "syslog://?syslog-address=tcp://a..b",
        "syslog://?syslog-address=unixgram://dev/log",
        "syslog://?syslog-facility=local8",
        "syslog://?syslog-format=rfc1",
        "syslog://?syslog-tls-cert=/etc/passwd",
        "syslog://?syslog-tls-ca-cert=/nonexistent/ca.pem",
        "syslog://?syslog-tls-ca-cert=ca.pem",
        "syslog://?tag={{.Color}}",
        "syslog://?mode=never",
        "syslog://?max-buffer-size=1k",
        "syslog://?max-line-size=1m",
        "syslog://?color=red",
    )

    @pytest.fixture
    def driver(self) -> LogDriver:
        return SyslogDriver()

    def logged(self, uri: str) -> Mapping[str, bytes]:
        return by_stream(self.server.all())


class TestUnixSocket(Suite):
    @pytest.fixture
    def uri(self, short: Path) -> Iterator[str]:
        with DatagramServer(short / "log") as self.server:
            self.server.start()
            yield uri_of(self.server.address, ROOMY)


class TestTcp(Suite):
    @pytest.fixture
    def uri(self) -> Iterator[str]:
        with StreamServer() as self.server:
            self.server.start()
            yield uri_of(self.server.address, ROOMY)


class TestTls(Suite):
    @pytest.fixture
    def uri(self, tmp_path: Path) -> Iterator[str]:
        with StreamServer(server_context(tmp_path)) as self.server:
            self.server.start()
            yield uri_of(self.server.address, ROOMY, f"syslog-tls-ca-cert={tmp_path}/server.pem")


def run(uri: str, *lines: bytes, container: str = "c1") -> None:
    """A container that writes some lines to stdout."""
    log = LogRun(SyslogDriver(), uri, container)
    log.wait_ready()
    for line in lines:
        log.write("stdout", line + b"\n")
    log.end()


# ---- what arrives ----------------------------------------------------------------------------------------------------


def test_a_message_says_who_and_when() -> None:
    with StreamServer().start() as server:
        run(uri_of(server.address, "syslog-facility=local3", "tag=a{{.Name}}/{{.ID}}"), b"hello", container="f" * 64)
        (message,) = map(parse, server.all())
    assert (message.facility, message.severity, message.text) == (19, 6, b"hello")
    assert message.application == f"a{'f' * 64}"[:48]
    assert message.kind == f"a{'f' * 64}"[:32]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", message.time)


def test_by_udp() -> None:
    with DatagramServer().start() as server:
        run(uri_of(server.address, "tag={{.Namespace}}.{{.Name}}"), b"one", b"two")
        eventually(lambda: len(server.received) == 2, lambda: str(server.received), 30)
        first, second = map(parse, server.received)
    assert (first.application, first.text, second.text) == ("default.c1", b"one", b"two")


def test_settings_hold_where_the_uri_says_nothing(short: Path) -> None:
    with DatagramServer(short / "log").start() as server:
        config = SyslogConfig(syslog_address=server.address, syslog_facility="local7", tag="all")
        log = LogRun(SyslogDriver(config), "syslog://?tag=this")
        log.wait_ready()
        log.write("stderr", b"trouble\n")
        log.end()
        (message,) = map(parse, server.all())
    assert (message.facility, message.severity, message.application) == (23, 3, "this")


def test_the_older_form(short: Path) -> None:
    with DatagramServer(short / "log").start() as server:
        run(uri_of(server.address, "syslog-format=rfc3164", "tag=web:1"), b"hello")
        (message,) = server.all()
    assert re.fullmatch(rb"<30>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d web_1\[\d+\]: hello", message)


def test_heads_at_a_known_time() -> None:
    moment = 1_700_000_000_123_456_789
    new = Heads("rfc5424micro", 3, "a b", "host", 7, local=False)
    assert new.make(6, moment) == b"<30>1 2023-11-14T22:13:20.123456Z host a_b 7 a_b - "
    seconds = Heads("rfc5424", 0, "", "", 7, local=True)
    assert seconds.make(3, moment) == b"<3>1 2023-11-14T22:13:20Z - - 7 - - "
    old = Heads("rfc3164", 23, "t", "host", 7, local=False)
    day = time.strftime("%b %e %H:%M:%S", time.localtime(moment // 10**9))
    assert old.make(3, moment) == f"<187>{day} host t[7]: ".encode()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("unix:///dev/log", "unixgram:///dev/log"),
        ("udp://h", "udp://h:514"),
        ("tcp://[::1]:601", "tcp://[::1]:601"),
        ("tcp+tls://h", "tcp+tls://h:6514"),
        # A URI's query has blanks for plus signs.
        ("tcp tls://h:1", "tcp+tls://h:1"),
    ],
)
def test_addresses(text: str, written: str) -> None:
    assert str(Address.parse(text)) == written


@pytest.mark.parametrize(("name", "code"), [("kern", 0), ("local7", 23), ("3", 3)])
def test_facilities(name: str, code: int) -> None:
    assert facility_code(name) == code


@pytest.mark.parametrize("name", ["", "local8", "24", "-1", "Daemon"])
def test_facilities_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="facility"):
        facility_code(name)


def test_mistakes_name_the_option() -> None:
    with pytest.raises(InvalidArgument, match="max-line-size: .*from 1024 to 61440 bytes"):
        SyslogDriver().shim_uri("syslog://?max-line-size=1m")
    with pytest.raises(InvalidArgument, match='no option "max_line_size"; there are .*max-line-size'):
        SyslogDriver().shim_uri("syslog://?max_line_size=1k")


# ---- TLS -------------------------------------------------------------------------------------------------------------


def test_a_server_of_unknown_certificate_gets_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_certificate(tmp_path, "other")
    with StreamServer(server_context(tmp_path)).start() as server:
        log = LogRun(SyslogDriver(), uri_of(server.address, f"syslog-tls-ca-cert={tmp_path}/other.pem"))
        log.wait_ready()
        log.write("stdout", b"secret\n")
        eventually(lambda: "certificate verify failed" in caplog.text, "nothing is said", 30)
        monkeypatch.setattr(relay, "LAST", 0.1)
        log.end()
        assert server.streams == []
    assert dropped(caplog) == 1


def test_any_certificate_will_do_if_told_so(tmp_path: Path) -> None:
    with StreamServer(server_context(tmp_path)).start() as server:
        run(uri_of(server.address, "syslog-tls-skip-verify=true"), b"hello")
        assert [parse(message).text for message in server.all()] == [b"hello"]


def test_a_certificate_is_shown_to_the_server(tmp_path: Path) -> None:
    context = server_context(tmp_path)
    certificate, key = make_certificate(tmp_path, "client")
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    options = {
        "syslog-tls-ca-cert": tmp_path / "server.pem",
        "syslog-tls-cert": certificate,
        "syslog-tls-key": key,
    }
    with StreamServer(context).start() as server:
        run(uri_of(server.address, urlencode(options)), b"hello")
        assert [parse(message).text for message in server.all()] == [b"hello"]


# ---- servers that are slow, or away ----------------------------------------------------------------------------------


def dropped(caplog: pytest.LogCaptureFixture) -> int:
    return sum(map(int, re.findall(r"(\d+) messages \(\d+ bytes\)", caplog.text)))


def test_a_server_that_takes_nothing_makes_nobody_wait(short: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [b"%06d %s" % (number, b"x" * 1000) for number in range(3000)]
    with DatagramServer(short / "log") as server:
        log = LogRun(SyslogDriver(), uri_of(server.address, "max-buffer-size=64k"))
        log.wait_ready()
        for line in lines:
            log.write("stdout", line + b"\n")  # more than all buffers hold, and it returns
        server.start()
        log.end()
        messages = [parse(message) for message in server.all()]
    kept = [message.text for message in messages if message.severity == 6]
    notices = [message for message in messages if message.severity == 4]
    assert len(kept) + dropped(caplog) == len(lines)
    assert dropped(caplog) > 0
    assert kept == sorted(kept)
    assert notices
    assert all(b"of this container's output were dropped" in notice.text for notice in notices)


def test_a_slow_server_loses_nothing_if_containers_wait_for_it(short: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [b"%06d %s" % (number, b"x" * 1000) for number in range(1000)]
    with DatagramServer(short / "log", pause=0.001).start() as server:
        run(uri_of(server.address, "max-buffer-size=64k", "mode=blocking"), *lines)
        assert [parse(message).text for message in server.all()] == lines
    assert dropped(caplog) == 0


def test_what_waits_is_sent_when_the_server_comes(short: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = LogRun(SyslogDriver(), uri_of(f"unixgram://{short}/log"))
    log.wait_ready()
    log.write("stdout", b"early\n")
    eventually(lambda: "trying again" in caplog.text, "nothing is said", 30)
    with DatagramServer(short / "log").start() as server:
        eventually(lambda: bool(server.received), "it does not try again", 30)
        log.end()
        assert [parse(message).text for message in server.received] == [b"early"]
    assert "reached again" in caplog.text


def test_a_broken_connection_is_made_anew(caplog: pytest.LogCaptureFixture) -> None:
    with StreamServer().start() as server:
        log = LogRun(SyslogDriver(), uri_of(server.address))
        log.wait_ready()
        log.write("stdout", b"before\n")
        eventually(lambda: server.taken > 0, "nothing arrives", 30)
        server.hang_up.set()
        eventually(lambda: len(server.streams) == 1, "the server does not hang up", 30)
        log.write("stdout", b"after\n")
        log.end()
        eventually(lambda: len(server.streams) == 2, "no second connection", 30)
        assert [parse(message).text for message in server.all()][-1] == b"after"
    assert "reached again" in caplog.text
