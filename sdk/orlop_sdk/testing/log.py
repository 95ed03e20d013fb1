# SPDX-License-Identifier: Apache-2.0
"""The conformance suite for log drivers that run in the helper.

Subclass it in a test file, and say how to make yours, where it shall log to, and how to read that again::

    class TestDemo(LogDriverSuite):
        bad_uris = ("demo://host/path",)

        @pytest.fixture
        def driver(self) -> LogDriver:
            return DemoDriver()

        @pytest.fixture
        def uri(self, tmp_path: Path) -> str:
            return f"demo://{tmp_path}/log"

        def logged(self, uri: str) -> dict[str, bytes]:
            return read_back(uri)

Drivers that shims know themselves have nothing to run, and need no suite.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import parse_qsl, urlsplit

import pytest

from orlop.errors import InvalidArgument
from orlop.interfaces.log import LogDriver, LogStreams

#: Seconds within which a driver has to be ready, and to return once both streams have ended.
PATIENCE = 30.0


@dataclass
class LogRun:
    """A driver at work in a thread, and the ends of the streams that a container would write to."""

    driver: LogDriver
    uri: str
    container: str = "c1"
    namespace: str = "default"
    readiness: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        stdout, self.stdout = os.pipe()
        stderr, self.stderr = os.pipe()
        self._reading = (stdout, stderr)
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="log-driver", daemon=True)
        self._thread.start()

    def wait_ready(self) -> None:
        """Return when the driver said that it is set up."""
        assert self._ready.wait(PATIENCE), "the driver did not call ready()"

    def end(self) -> None:
        """End both streams and wait for the driver; raises what it raised."""
        for name in ("stdout", "stderr"):
            self.close(name)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the driver did not return when both streams had ended"
        for fd in self._reading:
            os.close(fd)
        if self._error is not None:
            raise self._error

    def write(self, stream: str, data: bytes) -> None:
        """Write all of it as the container."""
        view = memoryview(data)
        while view:
            view = view[os.write(getattr(self, stream), view) :]

    def close(self, stream: str) -> None:
        """End one stream. May be called twice."""
        fd = getattr(self, stream)
        if fd >= 0:
            os.close(fd)
            setattr(self, stream, -1)

    def _run(self) -> None:
        streams = LogStreams(*self._reading, self.container, self.namespace, self._note_ready)
        try:
            self.driver.run(self.uri, options_of(self.uri), streams)
        # Whatever a driver raises belongs to the test that waits for it.
        except BaseException as error:  # noqa: BLE001  # see above
            self._error = error
            self._ready.set()

    def _note_ready(self) -> None:
        self.readiness.append(True)
        self._ready.set()


def options_of(uri: str) -> Mapping[str, str]:
    """The query of a URI, as the helper passes it."""
    return dict(parse_qsl(urlsplit(uri).query, keep_blank_values=True))


class LogDriverSuite:
    """What every log driver does. Each test has a driver of its own."""

    bad_uris: ClassVar[Sequence[str]] = ()
    """URIs of its schemes that it cannot use."""

    @pytest.fixture
    def driver(self) -> LogDriver:
        """The driver under test."""
        pytest.fail(f"{type(self).__name__} lacks the fixture driver; see {__name__}")

    @pytest.fixture
    def uri(self) -> str:
        """Where to log to: a new place for each test."""
        pytest.fail(f"{type(self).__name__} lacks the fixture uri; see {__name__}")

    def logged(self, uri: str) -> Mapping[str, bytes]:
        """What was logged to a URI: the text of ``stdout`` and of ``stderr``. Absent counts as empty."""
        pytest.fail(f"{type(self).__name__} lacks the method logged; see {__name__}")

    def test_has_schemes(self, driver: LogDriver, uri: str) -> None:
        assert driver.schemes
        assert all(re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) for scheme in driver.schemes)
        assert uri.partition("://")[0] in driver.schemes

    def test_leaves_its_uris_to_the_helper(self, driver: LogDriver, uri: str) -> None:
        assert driver.shim_uri(uri) is None

    def test_refuses_bad_uris_when_the_container_is_created(self, driver: LogDriver) -> None:
        for uri in self.bad_uris:
            with pytest.raises(InvalidArgument):
                driver.shim_uri(uri)

    def test_is_ready_once_and_before_anything_is_written(self, driver: LogDriver, uri: str) -> None:
        run = LogRun(driver, uri)
        run.wait_ready()
        run.end()
        assert run.readiness == [True]

    def test_tells_streams_apart(self, driver: LogDriver, uri: str) -> None:
        run = LogRun(driver, uri)
        run.wait_ready()
        run.write("stdout", b"out 1\nout 2\n")
        run.write("stderr", b"err 1\n")
        run.end()
        assert _both(self.logged(uri)) == (b"out 1\nout 2\n", b"err 1\n")

    def test_goes_on_when_one_stream_ends(self, driver: LogDriver, uri: str) -> None:
        run = LogRun(driver, uri)
        run.wait_ready()
        run.close("stdout")
        run.write("stderr", b"still here\n")
        run.end()
        assert _both(self.logged(uri)) == (b"", b"still here\n")

    def test_keeps_a_last_line_without_newline(self, driver: LogDriver, uri: str) -> None:
        run = LogRun(driver, uri)
        run.wait_ready()
        run.write("stdout", b"whole\nhalf")
        run.end()
        assert _both(self.logged(uri))[0].rstrip(b"\n") == b"whole\nhalf"

    def test_loses_nothing_of_much(self, driver: LogDriver, uri: str) -> None:
        lines = b"".join(b"%07d %s\n" % (number, b"x" * (number % 90)) for number in range(20_000))
        run = LogRun(driver, uri)
        run.wait_ready()
        run.write("stdout", lines)
        run.end()
        assert _both(self.logged(uri))[0] == lines

    def test_keeps_empty_lines(self, driver: LogDriver, uri: str) -> None:
        run = LogRun(driver, uri)
        run.wait_ready()
        run.write("stdout", b"\n\none\n\n")
        run.end()
        assert _both(self.logged(uri))[0] == b"\n\none\n\n"

    def test_puts_pieces_of_a_line_together(self, driver: LogDriver, uri: str) -> None:
        run = LogRun(driver, uri)
        run.wait_ready()
        for piece in (b"a", b"b", "ü".encode()[:1], "ü".encode()[1:], b"c\nd", b"\n"):
            run.write("stderr", piece)
            time.sleep(0.01)  # so that they arrive apart
        run.end()
        assert _both(self.logged(uri))[1] == "abüc\nd\n".encode()

    def test_both_streams_at_once_keep_their_order(self, driver: LogDriver, uri: str) -> None:
        run = LogRun(driver, uri)
        run.wait_ready()
        lines = {name: [b"%s %05d\n" % (name.encode(), n) for n in range(5000)] for name in ("stdout", "stderr")}

        def pour(name: str) -> None:
            for line in lines[name]:
                run.write(name, line)

        writers = [threading.Thread(target=pour, args=(name,)) for name in lines]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(PATIENCE)
        run.end()
        assert _both(self.logged(uri)) == (b"".join(lines["stdout"]), b"".join(lines["stderr"]))

    def test_survives_what_is_no_text(self, driver: LogDriver, uri: str) -> None:
        run = LogRun(driver, uri)
        run.wait_ready()
        run.write("stdout", random.Random(1).randbytes(300_000) + b"\n\0\xff\xfe\x1b[2J\n")  # noqa: S311
        run.write("stderr", b"after it\n")
        run.end()
        assert _both(self.logged(uri))[1] == b"after it\n"

    def test_takes_lines_of_any_length(self, driver: LogDriver, uri: str) -> None:
        line = "é".encode() * 100_000 + b"\n"
        run = LogRun(driver, uri)
        run.wait_ready()
        run.write("stdout", line)
        run.end()
        assert _both(self.logged(uri))[0] == line


def _both(logged: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    return logged.get("stdout", b""), logged.get("stderr", b"")
