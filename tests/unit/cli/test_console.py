# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from orlop.values import now
from orlop_cli.console import Console, age, size


@dataclass
class Thing:
    name: str
    when: datetime


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 << 10, "1.5 MiB"),
        (3 << 30, "3.0 GiB"),
        (5 << 40, "5.0 TiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "just now"), (1, "1 second ago"), (59, "59 seconds ago"), (61, "1 minute ago"), (7300, "2 hours ago")],
)
def test_age(seconds: float, text: str) -> None:
    assert age(now() - timedelta(seconds=seconds)) == text


def test_age_of_what_is_yet_to_come() -> None:
    assert age(now() + timedelta(hours=1)) == "just now"


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, object]] = [
        {"id": "a", "exit_status": None, "labels": ["x", "y"]},
        {"id": "longer", "exit_status": 0, "labels": ()},
    ]
    Console("", "", "table").table(rows, ("id", "exit_status", "labels"))
    assert capsys.readouterr().out.splitlines() == [
        "ID       EXIT STATUS   LABELS",
        "a        -             x,y",
        "longer   0             -",
    ]
    Console("", "", "table").table(rows, ("id",), quiet="id")
    assert capsys.readouterr().out == "a\nlonger\n"


def test_json_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    when = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    rows = [{"id": "a", "thing": Thing("t", when), "data": b"bytes"}]
    Console("", "", "json").table(rows, ("id",), show=lambda row: {"id": "shown in tables only"})
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {"id": "a", "thing": {"name": "t", "when": "2020-01-02T03:04:05+00:00"}, "data": "bytes"}
