# SPDX-License-Identifier: Apache-2.0
"""The frame around subcommands: help, global options, exit statuses, and subcommands from elsewhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.support.cli import PROGRAM, Orlop
from tests.support.environment import pip_install

BUILT_IN = "config events exec export images import kill logs plugins ps pull push rm rmi run stop tag version".split()
PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "orlop-greet"
version = "1.0"
dependencies = ["orlop-kernel"]

[project.entry-points."orlop.command.v1"]
broken = "orlop_greet.broken:command"
greet = "orlop_greet:greet"

[tool.hatch.build.targets.wheel]
packages = ["orlop_greet"]
"""
GREET = '''\
"""A subcommand from elsewhere."""

from orlop.interfaces.introspection import CommandPlugin, command
from orlop.plugin import InitContext, NoConfig


class Greet:
    summary = "say hello"

    def configure(self, parser):
        parser.add_argument("--format", default="plain")
        parser.add_argument("whom")

    def run(self, arguments, console):
        if arguments.whom == "nobody":
            raise ZeroDivisionError("nobody to greet")
        console.result(f"hello {arguments.whom} ({arguments.format})", {"hello": arguments.whom})
        return 3


@command("greet")
async def greet(ctx: InitContext[NoConfig]) -> CommandPlugin:
    return Greet()
'''


@pytest.fixture
def nowhere(tmp_path: Path) -> Orlop:
    """The command where there is no daemon."""
    return Orlop(tmp_path / "nosuch.sock", "default")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the module search path, with a distribution that has two subcommands, one of them broken."""
    source, target = tmp_path_factory.mktemp("greet"), tmp_path_factory.mktemp("target")
    package = source / "orlop_greet"
    package.mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (package / "__init__.py").write_text(GREET)
    (package / "broken.py").write_text("import a_module_that_nobody_has\n")
    pip_install([source], "--target", str(target))
    return target


@pytest.fixture
def extended(tmp_path: Path, elsewhere: Path) -> Orlop:
    """The command with subcommands from elsewhere."""
    return Orlop(tmp_path / "nosuch.sock", "default", env={"PYTHONPATH": str(elsewhere)})


def test_help_lists_every_subcommand(nowhere: Orlop) -> None:
    text = nowhere.ok("--help")
    assert text == nowhere.ok("help") == nowhere.ok("-h")
    listed = [line.split()[0] for line in text.partition("commands:\n")[2].splitlines() if line.startswith("  ")]
    assert listed == sorted(listed)
    assert set(BUILT_IN) <= set(listed)  # other distributions add theirs
    assert nowhere.run().code == 2


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_subcommand_has_help(nowhere: Orlop, name: str) -> None:
    text = nowhere.ok(name, "--help")
    assert text.startswith(f"usage: orlop {name}")
    assert "--format" in text
    if name in {"run", "plugins"}:
        assert nowhere.ok("help", name) == text


def test_wrong_usage(nowhere: Orlop) -> None:
    assert 'unknown command "pss"; valid: ' in nowhere.fails("pss", code=2)
    assert "unrecognized arguments: --bogus" in nowhere.run("--bogus", "ps").err
    assert "unrecognized arguments: --bogus" in nowhere.fails("ps", "--bogus", code=2)
    assert "required: ACTION" in nowhere.fails("plugins", code=2)
    assert "choose from" in nowhere.fails("ps", "--format", "xml", code=2)
    assert nowhere.run("--address").code == 2


def test_global_options_on_either_side(orlop_busy: Orlop) -> None:
    before = orlop_busy.ok("--format", "json", "images")
    assert orlop_busy.ok("images", "--format", "json") == before
    assert orlop_busy.ok("--format=table", "images", "--format=json") == before
    plugins = orlop_busy.ok("plugins", "ls", "--format", "json")
    assert plugins == orlop_busy.ok("--format", "json", "plugins", "ls")
    address = orlop_busy.env["CONTAINERD_ADDRESS"]
    bare = Orlop(Path("/nonexistent"), "other")
    assert bare.ok("-a", address, "-n", orlop_busy.namespace, "images", "-q") == orlop_busy.ok("images", "-q")
    assert bare.ok("images", "-q", "--address", f"unix://{address}", "--namespace", orlop_busy.namespace) != ""
    assert bare.ok("--address", address, "images", "-q") == ""


def test_debug_tells_more(nowhere: Orlop) -> None:
    for words in (("--debug", "ps"), ("ps", "--debug")):
        result = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, check=False, env=nowhere.env)
        assert result.returncode == 1
        assert "Traceback" in result.stderr
        assert 'orlop: daemon "' in result.stderr


def test_a_reader_that_goes_away(nowhere: Orlop) -> None:
    with nowhere.background("config", "default") as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        assert process.communicate(timeout=30)[1] == b""
        assert process.returncode == 1


def test_a_subcommand_from_elsewhere(extended: Orlop) -> None:
    result = extended.run("greet", "you")
    assert (result.code, result.out, result.err) == (3, "hello you (plain)\n", "")
    # An option of its own wins over the global one of the same name; before the subcommand that is meant.
    assert extended.run("greet", "--format", "odd", "you").out == "hello you (odd)\n"
    assert extended.run("--format", "json", "greet", "you").out.split() == ["{", '"hello":', '"you"', "}"]
    assert "ZeroDivisionError: nobody to greet; this is a flaw" in extended.fails("greet", "nobody")
    assert "usage: orlop greet" in extended.ok("greet", "--help")


def test_a_broken_subcommand_breaks_nothing_else(extended: Orlop) -> None:
    text = extended.ok("--help")
    assert "  greet        say hello" in text
    assert "  broken       (broken: " in text
    said = extended.fails("broken")
    assert "orlop-greet 1.0" in said
    assert "a_module_that_nobody_has" in said
    assert extended.ok("version", "--client").startswith("client ")
