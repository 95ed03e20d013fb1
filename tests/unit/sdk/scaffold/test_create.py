# SPDX-License-Identifier: Apache-2.0
"""``orlop-sdk new``: names that may and may not be, and folders that are never touched."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from orlop_sdk.main import main
from orlop_sdk.scaffold import KINDS, create


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_makes_a_whole_distribution(kind: str, tmp_path: Path) -> None:
    folder = create(kind, "my-first", tmp_path)
    assert folder == tmp_path / "my-first"
    assert list(tmp_path.iterdir()) == [folder]
    assert {
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "orlop_my_first/__init__.py",
        "orlop_my_first/py.typed",
        "tests/test_plugin.py",
    } <= files(folder)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "orlop-my-first"
    assert project["entry-points"][KINDS[kind].type.group] == {"my-first": "orlop_my_first:plugin"}
    assert "license" not in project, "the author's to choose"
    for name in files(folder):
        text = (folder / name).read_text()
        assert "$id" not in text
        assert "${" not in text
        assert all(len(line) <= 120 for line in text.splitlines() if not name.endswith(".md"))


@pytest.mark.parametrize(
    "name",
    ["", "Upper", "1st", "under_score", "a--b", "-a", "a-", "a b", "../up", "a/b", "a.b", "é", "x" * 41, "orlop-x"],
)
def test_bad_names_are_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="^name "):
        create("hook", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_kinds_are_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="write one of snapshotter, differ"):
        create("snapshoter", "mine", tmp_path)


def test_what_is_there_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("keep")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("mine", "dangling"):
        with pytest.raises(AlreadyExists, match="exists already"):
            create("hook", name, tmp_path)
    assert files(tmp_path / "mine") == {"notes"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "mine"]


def test_names_of_installed_plugins_and_packages_are_taken(tmp_path: Path) -> None:
    with pytest.raises(AlreadyExists, match=r'plugin "io.containerd.snapshotter.v1.native": orlop-snapshots'):
        create("snapshotter", "native", tmp_path)
    with pytest.raises(AlreadyExists, match='package "orlop_core"'):
        create("hook", "core", tmp_path)
    assert create("hook", "native", tmp_path).is_dir()


def test_a_place_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="cannot be made: No such file"):
        create("hook", "mine", tmp_path / "absent")


def test_the_command_says_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "log-driver", "mine"]) == 0
    assert "pip install -e './mine[test]' && pytest mine" in capsys.readouterr().out
    assert main(["new", "log-driver", "mine"]) == 1
    assert capsys.readouterr().err.startswith("orlop-sdk: folder")
