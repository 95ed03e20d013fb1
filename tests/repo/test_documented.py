# SPDX-License-Identifier: Apache-2.0
"""Everything that a reader can name is explained on the page that owns it.

What there is comes from the code: hooks, members of interfaces, config keys, timeouts, commands, programs. A new one
fails here until its README names it, beside the plugin that it belongs to.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import inspect
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.repo.test_layout import ROOT, members, product_files, pyproject

from orlop.config import from_data, load
from orlop.config.settings import Settings
from orlop.discovery import Candidate, Catalogue, discover
from orlop.hooks import HOOK, Hooks
from orlop.interfaces.introspection import COMMAND, CommandPlugin
from orlop.kernel import Kernel
from orlop.plugin import PluginType
from orlop_sdk.main import _parser as sdk_parser
from orlop_services.daemon import parser as daemon_parser

MEMBERS = {pyproject(member)["project"]["name"]: member for member in members()[1:]}
KERNEL = MEMBERS["orlop-kernel"]
SDK = MEMBERS["orlop-sdk"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
Key = tuple[str, ...]
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
#: Stands for whatever name the operator gives to a table.
NAME = "*"


# ---- pages -----------------------------------------------------------------------------------------------------------


@cache
def page(member: Path) -> str:
    """The README of a distribution."""
    return (ROOT / member / "README.md").read_text()


def spans(text: str) -> list[str]:
    """The pieces in backticks."""
    return [span.replace("\\", "") for span in re.findall(r"`([^`\n]+)`", text)]


@cache
def statements(member: Path) -> list[list[str]]:
    """The pieces in backticks of each paragraph, each item of a list and each row of a table, without code blocks."""
    text = re.sub(r"\n(?=[|*-] ?)", "\n\n", FENCE.sub("\n\n", page(member)))
    return [spans(paragraph) for paragraph in text.split("\n\n")]


@cache
def settings_shown(member: Path) -> list[Key]:
    """The keys that the page's TOML blocks set; the names of tables are as they are written there."""
    return [key for language, block in FENCE.findall(page(member)) if language == "toml" for key in flat(block)]


def flat(block: str) -> list[Key]:
    """The keys of a TOML document, tables among them."""

    def walk(table: Mapping[str, Any], above: Key) -> Iterator[Key]:
        for name, value in table.items():
            yield (*above, name)
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict):
                    yield from walk(each, (*above, name))

    return list(walk(tomllib.loads(block), ()))


@cache
def phrases(member: Path) -> set[Key]:
    """All commands that the page names, as words; ``plugins enable|disable`` names two."""
    lines = [line for language, block in FENCE.findall(page(member)) if language == "sh" for line in block.splitlines()]
    found: set[Key] = set()
    for text in [*spans(page(member)), *lines]:
        found.update(itertools.product(*(word.split("|") for word in text.split()[:4])))
    return found


def names(words: list[str], name: str) -> bool:
    """Whether one of these pieces is a name, or has it as a word."""
    return any(name in re.split(r"[^\w.-]+", span) for span in words)


# ---- interfaces and hooks --------------------------------------------------------------------------------------------


def undocumented(path: Path) -> Iterator[str]:
    """Public classes, functions and fields of a module that no docstring explains, their own or their class's."""
    tree = ast.parse(path.read_text())
    if ast.get_docstring(tree) is None:
        yield "the module"
    for node in tree.body:
        if isinstance(node, Definition) and node.name[0] != "_":
            if ast.get_docstring(node) is None:
                yield node.name
            if isinstance(node, ast.ClassDef):
                yield from (f"{node.name}.{name}" for name in undocumented_members(node))


def undocumented_members(owner: ast.ClassDef) -> Iterator[str]:
    """The same of a class."""
    told = re.findall(r"[`*](\w+)[`*]", ast.get_docstring(owner) or "")
    for node, following in itertools.zip_longest(owner.body, owner.body[1:]):
        if isinstance(node, Definition) and node.name[0] != "_" and ast.get_docstring(node) is None:
            yield node.name
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id not in told:
            if not (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)):
                yield node.target.id


INTERFACES = sorted((ROOT / KERNEL / "orlop/interfaces").glob("*.py"))


@pytest.mark.parametrize("path", [*INTERFACES, ROOT / KERNEL / "orlop/hooks.py"], ids=lambda path: path.stem)
def test_every_member_of_an_interface_is_explained(path: Path) -> None:
    assert list(undocumented(path)) == []


def test_the_kernels_page_has_every_role() -> None:
    types = [type for type in catalogue().types.values() if type.interface.__module__.startswith("orlop.")]
    assert len(types) > 20
    missing = [f"{type.name} {type.group}" for type in types if type is not HOOK and not has_role(type)]
    assert missing == [], "a row with these two, and the module of the interface"


def has_role(type: PluginType[Any]) -> bool:
    """Whether one row of the page has the type's name, its group, and where its interface is."""
    wanted = {type.name, type.group, type.interface.__module__.removeprefix("orlop.interfaces.")}
    return any(wanted <= set(row) for row in statements(KERNEL))


def test_the_kernels_page_has_every_hook_as_it_is_called() -> None:
    hooks = {name: function for name, function in vars(Hooks).items() if name.startswith("orlop_")}
    assert hooks
    calls = [f"{name}({', '.join(list(inspect.signature(hook).parameters)[1:])})" for name, hook in hooks.items()]
    assert [call for call in calls if call not in spans(page(KERNEL))] == []


# ---- config ----------------------------------------------------------------------------------------------------------


@cache
def catalogue() -> Catalogue:
    """What the distributions of this repository offer."""
    found = discover()
    found.candidates = {uri: each for uri, each in found.candidates.items() if owner(each) in MEMBERS}
    return found


def owner(candidate: Candidate) -> str:
    """The distribution that a plugin comes with."""
    return candidate.origin.partition(" ")[0]


def fields(model: type[BaseModel], above: Key = ()) -> Iterator[tuple[Key, str | None]]:
    """All keys of a config model and what their docstrings say; `NAME` stands for names that operators choose."""
    for name, info in model.model_fields.items():
        key = (*above, info.alias or name)
        yield key, info.description
        for inner, named in models(info.annotation):
            yield from fields(inner, (*key, NAME) if named else key)


def models(annotation: Any, named: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    """The models inside an annotation, and whether they are values of a table with free names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, named
    for argument in getattr(annotation, "__args__", ()):
        yield from models(argument, named or getattr(annotation, "__origin__", None) is dict)


def matches(shown: Key, key: Key) -> bool:
    """Whether a key that is written somewhere is this one."""
    return len(shown) == len(key) and all(one in (other, NAME) for other, one in zip(shown, key, strict=True))


def test_the_kernels_page_has_every_key_at_the_top() -> None:
    found = dict(fields(Settings))
    assert [key for key, text in found.items() if not text] == []
    rows = [{word for span in words for word in re.findall(r"\w+", span)} for words in statements(KERNEL)]
    assert [".".join(key) for key in found if not any(set(key) - {NAME} <= row for row in rows)] == []


CONFIGURED = [uri for uri, candidate in catalogue().candidates.items() if candidate.type != COMMAND.name]


@pytest.mark.parametrize("uri", CONFIGURED)
def test_the_rooms_page_has_the_plugin_and_its_keys(uri: str) -> None:
    """A key is set in a TOML block, or named in the same row or paragraph as the plugin."""
    candidate = catalogue().candidates[uri]
    member = MEMBERS[owner(candidate)]
    found = dict(fields(candidate.load().config))
    assert [key for key, text in found.items() if not text] == [], "keys without a docstring"
    ids = {uri, candidate.id, f".{candidate.id}"}
    about = [words for words in statements(member) if ids & set(words) or any(f'"{uri}"' in each for each in words)]
    shown = [key[2:] for key in settings_shown(member) if key[:2] == ("plugins", uri)]
    assert about or shown, f"{member}/README.md does not name it"
    missing = [
        ".".join(key)
        for key in found
        if not any(matches(each, key) for each in shown) and not any(names(words, key[-1]) for words in about)
    ]
    assert missing == [], f"{member}/README.md, beside {candidate.id}"


SHOWN = [
    (member, number)
    for member in MEMBERS.values()
    for number, (language, text) in enumerate(FENCE.findall(page(member)))
    if language == "toml" and "build-system" not in text
]


@pytest.mark.parametrize(("member", "number"), SHOWN, ids=str)
def test_what_a_page_shows_of_a_config_passes_its_check(member: Path, number: int, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"version = 4\n{FENCE.findall(page(member))[number][1]}")
    kernel = Kernel(load(file))
    kernel.select()
    assert kernel.config.findings.warnings == []


@pytest.mark.parametrize("member", list(MEMBERS.values()), ids=str)
def test_the_rooms_page_has_every_timeout(member: Path) -> None:
    trees = [ast.parse((ROOT / path).read_text()) for path in product_files() if path.is_relative_to(member)]
    asked = {
        node.args[0].value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "timeout"
        if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    }
    assert sorted(name for name in asked if name not in spans(page(member))) == []


# ---- commands --------------------------------------------------------------------------------------------------------


def tree(parser: argparse.ArgumentParser, above: Key = ()) -> Iterator[tuple[Key, str | None]]:
    """The subcommands of a parser, theirs included, and what the help says of each."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help for choice in action._choices_actions}
            for name, inner in action.choices.items():
                yield (*above, name), texts.get(name)
                yield from tree(inner, (*above, name))


def unexplained(parser: argparse.ArgumentParser, member: Path, *program: str) -> list[str]:
    """Subcommands that have no help text, or that a page does not name."""
    known = {phrase[1:] if phrase[0] == program[0] else phrase for phrase in phrases(member)}
    return [
        " ".join(path)
        for path, text in tree(parser, program[1:])
        if not text or not any(phrase[: len(path)] == path for phrase in known)
    ]


@pytest.mark.parametrize("name", [item.id for item in catalogue().candidates.values() if item.type == COMMAND.name])
def test_the_rooms_page_has_every_subcommand_of_orlop(name: str) -> None:
    candidate = catalogue().candidates[f"{COMMAND.name}.{name}"]
    command = asyncio.run(made(candidate))
    assert command.summary
    parser = argparse.ArgumentParser(name)
    command.configure(parser)
    top = argparse.ArgumentParser("orlop")
    top.add_subparsers().add_parser(name, help=command.summary, parents=[parser], add_help=False)
    assert unexplained(top, MEMBERS[owner(candidate)], "orlop") == []


async def made(candidate: Candidate) -> CommandPlugin:
    """A subcommand as the command has it."""
    config = from_data({"root": "/nonexistent/root", "state": "/nonexistent/state"})
    async with Kernel(config, only=[candidate.uri], leave_out=()) as kernel:
        return kernel.get(COMMAND, candidate.id)


def test_the_services_page_has_every_command_of_orlopd() -> None:
    assert unexplained(daemon_parser(), MEMBERS["orlop-services"], "orlopd") == []


def test_the_sdks_page_has_every_command_and_kind_of_orlop_sdk() -> None:
    assert unexplained(sdk_parser(), SDK, "orlop-sdk") == []
    (commands,) = [action for action in sdk_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    kinds = {
        (name, str(choice))
        for name, inner in commands.choices.items()
        for action in inner._actions
        if not action.option_strings
        for choice in action.choices or ()
    }
    assert len(kinds) > 10
    known = {phrase[1:3] for phrase in phrases(SDK)}
    assert sorted(" ".join(kind) for kind in kinds - known) == []


@pytest.mark.parametrize("member", list(MEMBERS.values()), ids=str)
def test_every_program_is_on_a_page(member: Path) -> None:
    assert [name for name in pyproject(member)["project"].get("scripts", {}) if (name,) not in firsts(member)] == []


def firsts(member: Path) -> set[Key]:
    """The first words of all commands on a page."""
    return {phrase[:1] for phrase in phrases(member)}
