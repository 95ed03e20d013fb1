# SPDX-License-Identifier: Apache-2.0
"""The json-file driver: the suite for all drivers, and what is its own."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.ctr import eventually

from orlop.errors import InvalidArgument
from orlop.interfaces.log import LogDriver
from orlop_jsonfile.driver import JsonFileDriver, RotatingFile, entries_of, parse_size
from orlop_sdk.logs.lines import Pieces
from orlop_sdk.logs.options import timestamp
from orlop_sdk.testing.log import LogDriverSuite, LogRun

LOG = logging.getLogger(__name__)


def by_age(folder: Path) -> list[Path]:
    """The files that are there, oldest first."""
    return sorted(folder.iterdir(), key=lambda path: -int(path.suffix[1:] or 0))


def encoded(text: str) -> bytes:
    """With what is no character in it, if the text has any."""
    return text.encode(errors="surrogatepass")


def entries(path: Path) -> list[dict[str, str]]:
    # Not splitlines(), for which characters inside of strings end lines too.
    return [json.loads(line) for line in path.read_text().split("\n") if line]


class TestSuite(LogDriverSuite):
    bad_uris = (
        "json-file://relative",
        "json-file:///",
        "json-file:///x?max-size=many",
        "json-file:///x?max-size=0",
        "json-file:///x?max-file=0",
        "json-file:///x?compress=true",
    )

    @pytest.fixture
    def driver(self) -> LogDriver:
        return JsonFileDriver()

    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        return f"json-file://{tmp_path}/logs/c1.json"

    def logged(self, uri: str) -> Mapping[str, bytes]:
        found: dict[str, bytes] = {}
        for entry in entries(Path(urlsplit(uri).path)):
            found[entry["stream"]] = found.get(entry["stream"], b"") + entry["log"].encode()
        return found


def test_entries_are_dockers(tmp_path: Path) -> None:
    run = LogRun(JsonFileDriver(), f"json-file://{tmp_path}/log")
    run.wait_ready()
    run.write("stdout", 'grüße "you"\n'.encode())
    run.end()
    (entry,) = entries(tmp_path / "log")
    assert list(entry) == ["log", "stream", "time"]
    assert (entry["log"], entry["stream"]) == ('grüße "you"\n', "stdout")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", entry["time"])


def test_rotates_before_a_file_grows_too_large(tmp_path: Path) -> None:
    run = LogRun(JsonFileDriver(), f"json-file://{tmp_path}/log?max-size=1k&max-file=3")
    run.wait_ready()
    for number in range(100):
        run.write("stdout", b"line %03d\n" % number)
    run.end()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert all(path.stat().st_size <= 1024 for path in tmp_path.iterdir())
    texts = [entry["log"] for name in ("log.2", "log.1", "log") for entry in entries(tmp_path / name)]
    assert texts == [f"line {number:03d}\n" for number in range(100 - len(texts), 100)]


def test_a_single_file_is_emptied(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", 10, 1, LOG)
    file.write(b"12345678\n")
    file.write(b"abc\n")
    file.close()
    assert (tmp_path / "log").read_bytes() == b"abc\n"


def test_appends_to_what_is_there(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        run = LogRun(JsonFileDriver(), f"json-file://{tmp_path}/log")
        run.wait_ready()
        run.write("stdout", text)
        run.end()
    assert [entry["log"] for entry in entries(tmp_path / "log")] == ["one\n", "two\n"]


def test_a_long_line_is_split_where_no_character_is(tmp_path: Path) -> None:
    run = LogRun(JsonFileDriver(), f"json-file://{tmp_path}/log")
    run.wait_ready()
    text = "x" + "é" * 20_000
    run.write("stdout", text.encode() + b"\n")
    run.end()
    found = [entry["log"] for entry in entries(tmp_path / "log")]
    assert "".join(found) == text + "\n"
    assert [piece.endswith("\n") for piece in found] == [False] * (len(found) - 1) + [True]
    assert all(len(piece.encode()) <= (16 << 10) + 1 for piece in found)


def test_many_entries_at_once_rotate_as_single_ones_do(tmp_path: Path) -> None:
    file = RotatingFile(tmp_path / "log", 10, 3, LOG)
    file.write(b"12345678\na\nb\na longer one\nc\n")
    file.close()
    assert (tmp_path / "log.2").read_bytes() == b"a\nb\n"
    assert (tmp_path / "log.1").read_bytes() == b"a longer one\n"
    assert (tmp_path / "log").read_bytes() == b"c\n"


TEXTS = st.one_of(st.binary(max_size=12), st.text('a\x7f\ud800\\"\t\x1b\r\x85\u2028é😀', max_size=8).map(encoded))


@given(st.lists(TEXTS.map(lambda text: text.replace(b"\n", b"n")), min_size=1, max_size=6), st.data())
def test_entries_say_what_the_container_said(texts: list[bytes], data: st.DataObject) -> None:
    unended = data.draw(st.sets(st.integers(0, len(texts) - 1)))
    block = entries_of("stderr", Pieces(texts, unended), 0)
    assert block.endswith(b"\n")
    found = [json.loads(line) for line in block[:-1].split(b"\n")]
    said = [text.decode(errors="replace") + ("" if index in unended else "\n") for index, text in enumerate(texts)]
    assert [entry["log"] for entry in found] == said
    assert {(entry["stream"], entry["time"]) for entry in found} == {("stderr", "1970-01-01T00:00:00.000000000Z")}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")
@pytest.mark.parametrize("options", ["", "?max-size=30k&max-file=30"])
def test_a_full_disk_takes_whole_entries_and_what_it_does_not_take_is_counted(
    tmp_path: Path, options: str, caplog: pytest.LogCaptureFixture
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=True)
    try:
        run = LogRun(JsonFileDriver(), f"json-file://{tmp_path}/log{options}")
        run.wait_ready()
        for number in range(3000):
            run.write("stdout", b"line %04d\n" % number)
        eventually(lambda: "output is being dropped: No space left on device" in caplog.text, "nothing is said", 30)
        # Enough for all that the driver may still have before it.
        subprocess.run(["mount", "-o", "remount,size=1m", str(tmp_path)], check=True)
        run.write("stdout", b"the last\n")
        run.end()
        kept = [entry["log"] for path in by_age(tmp_path) for entry in entries(path)]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    dropped = sum(
        map(int, re.findall(r": (\d+) entries \(\d+ bytes\) of this container's output were dropped", caplog.text))
    )
    assert kept[-1] == "the last\n"
    assert kept == sorted(kept)
    assert (len(kept) + dropped, len(set(kept))) == (3001, len(kept))
    assert dropped > 0


@pytest.mark.parametrize(("text", "size"), [("-1", 0), ("5", 5), ("2k", 2048), ("10m", 10 << 20), ("1GB", 1 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-2", "ten", "1t", "1.5m"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="max-size"):
        parse_size(text)


def test_timestamps_have_nanoseconds() -> None:
    assert timestamp(1_700_000_000_000_000_001) == "2023-11-14T22:13:20.000000001Z"
