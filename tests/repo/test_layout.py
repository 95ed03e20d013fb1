# SPDX-License-Identifier: Apache-2.0
"""The layout rules of this repository: what lies where, how large it may grow, and what every distribution declares."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "examples",
    "kernel",
    "plugins",
    "pyproject.toml",
    "requirements.lock",
    "sdk",
    "tests",
}
FILE_LINES = 600
FUNCTION_LINES = 60
#: The machinery, without the interfaces: to use one of those, nobody has to read the others.
KERNEL_CODE_LINES = 2250
INTERFACE_CODE_LINES = 100
GENERATED = re.compile(r"_pb2\.py$|^sdk/orlop_sdk/api/index\.py$")
SPDX = "# SPDX-License-Identifier: Apache-2.0"

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tracked() -> tuple[Path, ...]:
    """The files that git tracks and that are there, relative to the root."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return tuple(Path(name) for name in listing.split("\0") if name and (ROOT / name).is_file())


def python_files() -> list[Path]:
    """Hand-written Python files."""
    return [path for path in tracked() if path.suffix == ".py" and not GENERATED.search(str(path))]


def product_files() -> list[Path]:
    """Hand-written Python files that are not tests."""
    return [path for path in python_files() if "tests" not in path.parts]


def members() -> list[Path]:
    """The folders of the distributions, relative to the root; the meta-distribution's is ``.``."""
    return [
        Path("."),
        Path("kernel"),
        Path("sdk"),
        *sorted(path.parent.relative_to(ROOT) for path in ROOT.glob("plugins/*/*/pyproject.toml")),
    ]


def rooms() -> list[Path]:
    return [path for path in members() if path.parts[:2] == ("plugins", "builtin")]


@cache
def pyproject(member: Path) -> dict[str, Any]:
    return tomllib.loads((ROOT / member / "pyproject.toml").read_text())


def requirement_name(requirement: str) -> str:
    """The normalised distribution name at the start of a requirement."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def requirements(member: Path) -> set[str]:
    """The names of all distributions that a member depends on, its extras and dependency groups included."""
    data = pyproject(member)
    lists = [
        data["project"]["dependencies"],
        *data["project"].get("optional-dependencies", {}).values(),
        *data.get("dependency-groups", {}).values(),
    ]
    return {requirement_name(item) for items in lists for item in items}


def test_top_level_holds_only_what_it_should() -> None:
    assert {path.parts[0] for path in tracked()} - TOP_LEVEL == set()


def test_plugins_are_builtin_or_contrib() -> None:
    assert {path.parts[1] for path in tracked() if path.parts[0] == "plugins"} <= {"README.md", "builtin", "contrib"}


def test_every_plugin_folder_is_a_distribution() -> None:
    folders = {Path(*path.parts[:3]) for path in tracked() if path.parts[0] == "plugins" and len(path.parts) > 2}
    assert folders <= set(members())


@pytest.mark.parametrize("room", rooms(), ids=str)
def test_room_anatomy(room: Path) -> None:
    package = f"orlop_{room.name}"
    wanted = {"pyproject.toml", "LICENSE", "README.md", f"{package}/__init__.py", f"{package}/py.typed"}
    assert {name for name in wanted if not (ROOT / room / name).is_file()} == set()
    extra = {path.parts[3] for path in tracked() if path.parts[:3] == room.parts}
    assert extra <= {"pyproject.toml", "LICENSE", "README.md", package, "tests"}


@pytest.mark.parametrize("member", members(), ids=str)
def test_distribution_metadata(member: Path) -> None:
    project = pyproject(member)["project"]
    expected = {".": "orlop", "kernel": "orlop-kernel", "sdk": "orlop-sdk"}.get(str(member), f"orlop-{member.name}")
    assert project["name"] == expected
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.11"
    assert project["version"] == pyproject(Path("."))["project"]["version"]


@pytest.mark.parametrize("member", members(), ids=str)
def test_every_distribution_carries_its_licence_and_readme(member: Path) -> None:
    """A copy each: what lies outside its folder, or is a link to there, gets into no source distribution."""
    license = ROOT / member / "LICENSE"
    assert not license.is_symlink()
    assert license.read_bytes() == (ROOT / "LICENSE").read_bytes()
    if (ROOT / member / "README.md").exists():
        assert pyproject(member)["project"]["readme"] == "README.md"


@pytest.mark.parametrize("member", members(), ids=str)
def test_entry_point_groups_name_an_interface_version(member: Path) -> None:
    groups = pyproject(member)["project"].get("entry-points", {})
    own = [name for name in groups if name.startswith("orlop")]
    assert [name for name in own if not re.fullmatch(r"orlop\.[a-z0-9_]+(\.v[0-9]+)?", name)] == []


def test_arrows_of_the_distributions_point_down() -> None:
    own = {pyproject(member)["project"]["name"] for member in members()}
    assert requirements(Path("kernel")) & own == set()
    assert requirements(Path("kernel")) == {"pluggy", "pydantic", "stevedore", "tomli"}
    assert requirements(Path("sdk")) & own == {"orlop-kernel"}
    for member in members()[3:]:
        assert requirements(member) & own <= {"orlop-kernel", "orlop-sdk"}, member


def test_default_set_holds_every_room() -> None:
    names = {requirement_name(item) for item in pyproject(Path("."))["project"]["dependencies"]}
    assert {f"orlop-{room.name}" for room in rooms()} <= names


def test_workspace_tables_name_every_member() -> None:
    root = pyproject(Path("."))
    names = {pyproject(member)["project"]["name"] for member in members()[1:]}
    assert set(root["tool"]["uv"]["sources"]) == names
    packages = {"orlop" if name == "orlop-kernel" else name.replace("-", "_") for name in names}
    assert set(root["tool"]["importlinter"]["root_packages"]) == packages
    paths = {path.rpartition("_DIR/")[2] for path in root["tool"]["mypy"]["mypy_path"]}
    assert {path for path in paths if not path.startswith("examples/")} == {str(member) for member in members()[1:]}


def test_lock_has_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    blocks = re.split(r"\n(?=[a-z])", text.strip())
    assert [block for block in blocks if "==" not in block or "--hash=sha256:" not in block] == []


def test_lock_covers_what_members_declare() -> None:
    locked = {
        requirement_name(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if line[0] != " "
    }
    wanted = {name for member in members() for name in requirements(member)}
    missing = {name for name in wanted - locked if name != "orlop" and not name.startswith("orlop-")}
    assert missing == set(), "run `make lock`"


def test_every_python_file_names_its_license() -> None:
    def head(path: Path) -> list[str]:
        lines = (ROOT / path).read_text().split("\n", 2)[:2]
        return lines[1:] if lines[0].startswith("#!") else lines[:1]

    assert [str(path) for path in python_files() if head(path) != [SPDX]] == []


def test_no_module_is_a_catch_all() -> None:
    assert [
        str(path)
        for path in product_files()
        if {"util", "utils", "helper", "helpers"} & set(path.with_suffix("").parts)
    ] == []


def test_test_folders_are_no_packages() -> None:
    """Test folders share the import name ``tests``; one ``__init__.py`` would hide all others."""
    assert [str(path) for path in python_files() if path.name == "__init__.py" and path.parent.name == "tests"] == []


def test_files_are_short() -> None:
    sizes = {str(path): (ROOT / path).read_text().count("\n") for path in product_files()}
    assert {path: lines for path, lines in sizes.items() if lines > FILE_LINES} == {}


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, Function):
            yield node


def test_functions_are_short() -> None:
    long = {
        f"{path}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path in product_files()
        for node in functions(path)
        if node.end_lineno is not None and node.end_lineno - node.lineno >= FUNCTION_LINES
    }
    assert long == {}


def code_lines(source: str) -> int:
    """How many lines hold code: blank lines, comments and strings that stand alone (docstrings) do not."""
    lines: set[int] = set()
    statement: list[tokenize.TokenInfo] = []
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            if {item.type for item in statement} != {tokenize.STRING}:
                lines.update(line for item in statement for line in range(item.start[0], item.end[0] + 1))
            statement = []
        elif token.type not in layout:
            statement.append(token)
    return len(lines)


def test_kernel_is_readable_in_one_sitting() -> None:
    sizes = {
        path: code_lines((ROOT / path).read_text()) for path in product_files() if path.parts[:2] == ("kernel", "orlop")
    }
    interfaces = {path: size for path, size in sizes.items() if path.parts[2] == "interfaces"}
    assert sum(sizes.values()) - sum(interfaces.values()) <= KERNEL_CODE_LINES, "something in the kernel is a plugin"
    assert {path: size for path, size in interfaces.items() if size > INTERFACE_CODE_LINES} == {}


def test_nothing_names_the_place_it_was_written_in() -> None:
    """A path of somebody's machine in a tracked file works nowhere else."""
    places = [str(ROOT)]
    if len(ROOT.parts) == 3 and ROOT.parent not in {
        Path("/tmp"),
        Path("/home"),
        Path("/src"),
        Path("/opt"),
        Path("/srv"),
    }:
        places.append(f"{ROOT.parent}/")
    pattern = re.compile(rb"(?<![^\s\"'`(=:])(%s)" % b"|".join(re.escape(place.encode()) for place in places))
    assert [str(path) for path in tracked() if pattern.search((ROOT / path).read_bytes())] == []
