# SPDX-License-Identifier: Apache-2.0
"""What subcommands make of the words they are given."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import pytest

from orlop.errors import NotFound, Unavailable
from orlop.values import Mount
from orlop_cli.commands import logs, run_options
from orlop_cli.commands.containers import signal_number
from orlop_cli.console import Usage
from orlop_cli.unreachable import explain


@pytest.mark.parametrize("name", ["15", "TERM", "term", "SIGTERM", "sigterm"])
def test_signals(name: str) -> None:
    assert signal_number(name) == signal.SIGTERM


@pytest.mark.parametrize("name", ["", "0", "99", "NOSUCH", "SIG"])
def test_no_signals(name: str) -> None:
    with pytest.raises(Usage, match="unknown"):
        signal_number(name)


@pytest.mark.parametrize(
    ("text", "count"), [("1", 1), ("1b", 1), ("64k", 65536), ("512m", 512 << 20), ("2G", 2 << 30), ("1t", 1 << 40)]
)
def test_memory(text: str, count: int) -> None:
    assert run_options._bytes(text) == count


@pytest.mark.parametrize("text", ["", "m", "1.5g", "-1", "12q", "1mm"])
def test_no_memory(text: str) -> None:
    with pytest.raises(Usage, match="such as 512m"):
        run_options._bytes(text)


def test_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_options._volume(f"{tmp_path}:/data") == Mount("bind", str(tmp_path), "/data", ("rbind", "rw"))
    assert run_options._volume(".:/data:ro") == Mount("bind", str(tmp_path), "/data", ("rbind", "ro"))
    for text in ("data:/data", "/tmp", "/tmp:data", "/tmp:/data:rx", ""):
        with pytest.raises(Usage, match="/host/path:/container/path"):
            run_options._volume(text)
    with pytest.raises(NotFound, match="create it first"):
        run_options._volume("./nosuch:/data")


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "value")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert run_options.environment(["HERE", "NOWHERE", "A=1=2", "B="]) == {"HERE": "value", "A": "1=2", "B": ""}


@pytest.mark.parametrize(
    ("text", "lines", "rest"),
    [
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\nb\n", 5, b"a\nb\n"),
        (b"a\nb\n", 0, b""),
        (b"", 3, b""),
        (b"\n\n", 1, b"\n"),
        (b"x\r" * 100_000 + b"\nlast\n", 1, b"last\n"),
        (b"first\n" + b"y" * 200_000 + b"\n", 1, b"y" * 200_000 + b"\n"),
    ],
)
def test_the_last_lines(text: bytes, lines: int, rest: bytes) -> None:
    file = io.BytesIO(text)
    logs._Log(file).skip(lines)
    assert file.read() == rest


def test_what_cannot_be_reached(tmp_path: Path) -> None:
    error = Unavailable("as it came")
    assert str(explain(error, str(tmp_path / "nosuch"))).startswith(f'daemon "{tmp_path}/nosuch": no such socket')
    assert explain(error, "127.0.0.1:10010") is error
