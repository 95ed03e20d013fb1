# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse

import pytest

from orlop_cli.parser import CommandParser, GlobalOptions, global_parser, merged, split


@pytest.mark.parametrize(
    ("line", "before", "rest"),
    [
        ("", "", ""),
        ("ps -a", "", "ps -a"),
        ("-a /s ps -a", "-a /s", "ps -a"),
        ("--address=/s -n x --debug ps", "--address=/s -n x --debug", "ps"),
        ("--format json", "--format json", ""),
        ("--bogus ps", "--bogus", "ps"),
    ],
)
def test_split(line: str, before: str, rest: str) -> None:
    assert split(line.split()) == (before.split(), rest.split())


def options(before: str, after: str) -> GlobalOptions:
    parser = CommandParser("orlop test")
    actions = parser.add_subparsers(dest="action")
    actions.add_parser("act")
    return merged(global_parser().parse_args(before.split()), parser.parse_args(after.split()))


def test_what_comes_later_counts_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINERD_ADDRESS", "/env")
    monkeypatch.delenv("CONTAINERD_NAMESPACE", raising=False)
    assert options("", "") == GlobalOptions("/env", "", "table", False)
    assert options("-a /one -n a", "--address /two") == GlobalOptions("/two", "a", "table", False)
    assert options("--format json", "--debug act") == GlobalOptions("/env", "", "json", True)
    assert options("", "--format table act --format json --namespace n") == GlobalOptions("/env", "n", "json", False)


def test_a_subcommand_may_have_options_of_the_same_name() -> None:
    parser = CommandParser("orlop test")
    parser.add_argument("--format")
    arguments = parser.parse_args(["--format", "anything"])
    assert arguments.format == "anything"
    assert merged(argparse.Namespace(address="", namespace="", format="json", debug=False), arguments).format == "json"


def test_options_are_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser("orlop test")
    parser.add_argument("--network-mode")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--network", "x"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said == "orlop test: unrecognized arguments: --network x; orlop test --help tells what there is\n"
