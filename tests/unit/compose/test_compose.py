# SPDX-License-Identifier: Apache-2.0
"""Composing builds of small source trees: nothing comes from an index here."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import tomli

from orlop.errors import ConfigError, FailedPrecondition, InvalidArgument
from orlop_compose import launch
from orlop_compose.build import build
from orlop_compose.command import ComposeCommand
from orlop_compose.specification import read
from orlop_compose.wheels import Sources, Target, Wheel, closure

PROJECT = """
[build-system]
requires = ["hatchling>=1.25"]
build-backend = "hatchling.build"
[project]
name = "{name}"
version = "{version}"
license = "MIT"
requires-python = ">=3.11"
dependencies = {requires}
{more}
[tool.hatch.build.targets.wheel]
packages = ["{package}"]
"""
BUILD = """
name = "mine"
version = "7"
distributions = ["acme-top"]
sources = ["src/*"]
outputs = ["wheelhouse"]
"""


def tree(folder: Path, name: str, *requires: str, version: str = "1", more: str = "") -> Path:
    """A source tree of one package."""
    package = name.replace("-", "_")
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(f"NAME = {name!r}\n")
    text = PROJECT.format(name=name, version=version, requires=json.dumps(requires), more=more, package=package)
    (folder / "pyproject.toml").write_text(text)
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A build file beside two source trees; ``acme-top`` needs ``acme-base``, and ``acme-other`` nobody needs."""
    tree(tmp_path / "src" / "top", "acme-top", "acme-base>=1", "absent; sys_platform == 'win32'")
    tree(
        tmp_path / "src" / "base",
        "acme-base",
        version="1.5",
        more='[project.entry-points."orlop.hook.v1"]\nbase = "acme_base:NAME"',
    )
    tree(tmp_path / "src" / "other", "acme-other")
    path = tmp_path / "mine.toml"
    path.write_text(BUILD)
    return path


def made(file: Path, output: Path, *, relock: bool = False) -> Mapping[str, bytes]:
    """What is in the wheelhouse of a build."""
    archive, _ = build(file, output, lambda _: None, relock=relock)
    with tarfile.open(archive) as opened:
        return {entry.name.partition("/")[2]: opened.extractfile(entry).read() for entry in opened}  # type: ignore[union-attr]


def test_what_is_needed_is_in_it_and_nothing_else(file: Path) -> None:
    found = made(file, file.parent / "dist")
    wheels = sorted(name for name in found if name.startswith("wheels/"))
    assert wheels == [
        "wheels/acme_base-1.5-py3-none-any.whl",
        "wheels/acme_top-1-py3-none-any.whl",
        "wheels/mine-7-py3-none-any.whl",
    ]
    pins = found["requirements.txt"].decode().splitlines()
    assert f"acme-top==1 --hash=sha256:{hashlib.sha256(found[wheels[1]]).hexdigest()}" in pins
    assert file.with_suffix(".lock").read_text().startswith("# python 3.11, platform manylinux_2_28_")


def test_the_same_again(file: Path) -> None:
    first = build(file, file.parent / "one", lambda _: None)
    second = build(file, file.parent / "two", lambda _: None)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_defaults_and_lock_come_along(file: Path) -> None:
    left_out, tables = (
        'leave_out = ["io.orlop.hook.v1.*"]\n',
        '[config]\noom_score = 3\n[config.debug]\nlevel = "warn"\n',
    )
    file.write_text(BUILD + left_out + tables)
    found = made(file, file.parent / "dist")
    (file.parent / "w.whl").write_bytes(found["wheels/mine-7-py3-none-any.whl"])
    with zipfile.ZipFile(file.parent / "w.whl") as archive:
        config = tomli.loads(archive.read("orlop_build/config.toml").decode())
        lock = tomli.loads(archive.read("orlop_build/plugins.lock").decode())
    assert config == {
        **{"version": 4, "oom_score": 3, "disabled_plugins": ["io.orlop.hook.v1.*"], "debug": {"level": "warn"}},
        **{"plugin_trust": "locked", "plugin_lock": "plugins.lock"},
    }
    # acme-top offers no plugin.
    assert list(lock["distributions"]) == ["acme-base"]
    assert set(lock["distributions"]["acme-base"]["files"]) >= {
        "acme_base/__init__.py",
        "acme_base-1.5.dist-info/entry_points.txt",
    }


def test_the_bill_of_materials_says_who_needs_whom(file: Path) -> None:
    _, materials = build(file, file.parent / "dist", lambda _: None)
    bill = json.loads(materials.read_text())
    needs = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    assert needs["acme-top==1"] == ["acme-base==1.5"]
    assert {each["purl"] for each in bill["components"]} >= {"pkg:pypi/acme-base@1.5", "pkg:pypi/mine@7"}
    assert "timestamp" not in bill["metadata"]


def test_without_leaves_out_what_others_ask_for(file: Path) -> None:
    file.write_text(BUILD + 'without = ["Acme_Base"]\n')
    found = made(file, file.parent / "dist")
    assert [name for name in found if name.startswith("wheels/acme")] == ["wheels/acme_top-1-py3-none-any.whl"]


def test_a_lock_for_another_python_is_refused(file: Path) -> None:
    made(file, file.parent / "dist")
    file.write_text(BUILD + 'python = "3.12"\n')
    with pytest.raises(FailedPrecondition, match=r"was made for python 3\.11.*--relock"):
        made(file, file.parent / "dist")
    assert b'"3.12"' in made(file, file.parent / "dist", relock=True)["build.json"]


def test_a_lock_that_lacks_something_is_refused(file: Path) -> None:
    made(file, file.parent / "dist")
    tree(file.parent / "src" / "more", "acme-more", "acme-gone")
    file.write_text(BUILD.replace('"acme-top"', '"acme-more"'))
    with pytest.raises(FailedPrecondition, match=r"lacks acme-gone \(for acme-more\).*--relock"):
        made(file, file.parent / "dist")


def test_a_tree_that_cannot_be_built_is_named(file: Path) -> None:
    (file.parent / "src" / "base" / "acme_base" / "__init__.py").unlink()
    (file.parent / "src" / "base" / "acme_base").rmdir()
    (file.parent / "src" / "base" / "pyproject.toml").write_text(
        (file.parent / "src" / "base" / "pyproject.toml").read_text().replace("MIT", "no licence at all")
    )
    with pytest.raises(FailedPrecondition, match="src/base.*cannot be built"):
        made(file, file.parent / "dist")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name = 3", "mine.toml: name: Input should be a valid string"),
        ('name = "No Name"', "mine.toml: name: String should match pattern"),
        ("colour = 1", "mine.toml: colour: unknown key; valid: name, version"),
        ("name =", "mine.toml: not valid TOML"),
    ],
)
def test_faults_of_a_build_file_name_the_key(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "mine.toml")
    assert any(fault in each for each in caught.value.faults), caught.value.faults


def test_paths_that_lead_nowhere_and_bad_requirements_are_faults(file: Path) -> None:
    file.write_text(BUILD.replace("src/*", "nowhere/*"))
    with pytest.raises(ConfigError, match='"nowhere/\\*": no source tree or wheel is there'):
        made(file, file.parent / "dist")
    file.write_text(BUILD.replace("acme-top", "acme top"))
    with pytest.raises(ConfigError, match='distributions: "acme top"'):
        made(file, file.parent / "dist")


PLUGINS = """
[project.scripts]
acme = "acme_base:main"
[project.entry-points."orlop.snapshotter.v1"]
acme = "acme_base:NAME"
[project.entry-points."com.acme.things.v1"]
thing = "acme_base:NAME"
"""


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("io.containerd.snapshotter.v1.acme", ""),
        ("io.containerd.*.acme", ""),
        ("com.acme.things.v1.thing", ""),
        ("io.containerd.snapshotter.v1.acne", "; write io.containerd.snapshotter.v1.acme"),
        ("acme", "; write io.containerd.snapshotter.v1.acme"),
        ("*.nothing", ""),
        ("io.containerd.differ.v1.acme", "; write io.containerd.snapshotter.v1.acme"),
    ],
)
def test_what_is_left_out_has_to_be_there(file: Path, pattern: str, said: str) -> None:
    tree(file.parent / "src" / "plugins", "acme-plugins", more=PLUGINS)
    file.write_text(BUILD.replace('"acme-top"', '"acme-plugins"') + f'leave_out = ["{pattern}"]\n')
    if not said and "nothing" not in pattern:
        assert made(file, file.parent / "dist")
        return
    with pytest.raises(ConfigError) as caught:
        made(file, file.parent / "dist")
    assert caught.value.faults == [f'{file}: leave_out: "{pattern}": no plugin of the build has this URI{said}']


def test_a_target_takes_older_platforms_too() -> None:
    names = Target("3.12", "manylinux_2_17_x86_64").platforms()
    assert names[0] == "manylinux_2_17_x86_64"
    assert {"manylinux_2_5_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64"} <= set(names)
    assert "cp312-cp312-manylinux_2_17_x86_64" in Target("3.12", "manylinux_2_17_x86_64").tags()
    assert Target("3.12", "musllinux_1_2_aarch64").platforms()[-1] == "musllinux_1_0_aarch64"
    assert Target("3.12", "musllinux_1_2_aarch64").environment["platform_machine"] == "aarch64"


def test_a_wheel_of_a_wrong_version_is_a_fault(file: Path, tmp_path: Path) -> None:
    from packaging.requirements import Requirement

    (tmp_path / "w").mkdir()
    sources = Sources([file.parent / "src" / "base"], tmp_path / "w")
    wheels: dict[str, Wheel] = {"acme-base": sources.wheel("acme-base")}
    _, faults = closure([Requirement("acme-base>=2")], wheels, Target("3.11", "manylinux_2_28_x86_64"))
    assert faults == ["acme-base>=2 (for the build), not 1.5"]


@pytest.mark.parametrize(
    ("argv", "name", "rest"),
    [
        (["/bin/build", "--version"], "orlopd", ["--version"]),
        (["/bin/build", "orlop", "ps"], "orlop", ["ps"]),
        (["/bin/orlop", "ps"], "orlop", ["ps"]),
        (["/bin/orlop", "orlopd"], "orlopd", []),
    ],
)
def test_one_file_holds_all_commands(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], name: str, rest: list[str]
) -> None:
    points = [EntryPoint(each, f"{each}:main", "console_scripts") for each in ("orlop", "orlopd")]
    monkeypatch.setattr(launch, "entry_points", lambda group: points)
    monkeypatch.setattr(launch, "_run", lambda point: point.name)
    monkeypatch.setattr(sys, "argv", argv)
    assert launch.main() == name
    assert sys.argv[1:] == rest


def test_a_build_without_a_daemon_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(launch, "entry_points", lambda group: [EntryPoint("orlop", "orlop:main", "console_scripts")])
    monkeypatch.setattr(sys, "argv", ["/bin/build", "--version"])
    assert launch.main() == 2
    assert "this build has no orlopd; name one of orlop" in capsys.readouterr().err


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    for name in ("orlop_compose.build", "orlop_compose.wheels", "orlop_compose.resolve", "orlop_compose.artefacts"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    arguments = argparse.Namespace(what=str(file), output=None, relock=False)
    with pytest.raises(InvalidArgument, match=r'pip install "orlop-compose\[build\]"'):
        ComposeCommand().run(arguments, None)
