# SPDX-License-Identifier: Apache-2.0
"""A log driver as a program, called as shims call it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orlop_jsonfile.driver import JsonFileDriver
from orlop_sdk.serving.log import uri_of

PROGRAM = """\
import sys
from orlop_jsonfile.driver import JsonFileDriver
from orlop_sdk.serving.log import main_for
sys.exit(main_for(JsonFileDriver)())
"""


class Called:
    """The program with the descriptors that a shim gives it."""

    def __init__(self, *arguments: str) -> None:
        (out, self.out), (err, self.err), (self.ready, ready) = os.pipe(), os.pipe(), os.pipe()
        # bash puts the descriptors where the protocol has them, whatever their numbers are here.
        shell = f'exec 3<&{out} 4<&{err} 5>&{ready}; exec "$@"'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", sys.executable, "-c", PROGRAM, *arguments],
            pass_fds=(out, err, ready),
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"CONTAINER_ID": "c1", "CONTAINER_NAMESPACE": "default"},
        )
        for fd in (out, err, ready):
            os.close(fd)

    def close(self) -> None:
        for fd in (self.out, self.err, self.ready):
            os.close(fd)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"json-file://{tmp_path}/log?max-size=1m"


def test_it_logs_until_both_streams_end(uri: str, tmp_path: Path) -> None:
    called = Called("other", "x", "uri", uri)
    # bash keeps the ends it got as well, so the byte tells, and not the close.
    assert os.read(called.ready, 1) == b"1"
    called.process.terminate()  # as shims do when the container is deleted
    os.write(called.out, b"hello\n")
    os.write(called.err, b"trouble\n")
    called.close()
    _, said = called.process.communicate(timeout=30)
    assert (called.process.returncode, said) == (0, "")
    assert [line[:16] for line in sorted((tmp_path / "log").read_text().splitlines())] == [
        '{"log":"hello\\n"',
        '{"log":"trouble\\',
    ]


@pytest.mark.parametrize("arguments", [(), ("uri",), ("uri", "other:///x"), ("uri", "/x"), ("uri", "json-file://h/x")])
def test_it_says_what_is_wrong(arguments: tuple[str, ...]) -> None:
    called = Called(*arguments)
    _, said = called.process.communicate(timeout=30)
    called.close()
    assert called.process.returncode == 1
    assert "InvalidArgument: log URI" in said


def test_the_uri_is_found_in_any_order() -> None:
    assert uri_of(JsonFileDriver(), ["a", "b", "uri", "json-file:///x", "c", "d"]) == "json-file:///x"
