# SPDX-License-Identifier: Apache-2.0
"""Makes the folder of a new distribution."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Final

from orlop.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from orlop_sdk.scaffold.kinds import KINDS, Kind

MOST: Final = 40
"""Characters of a name, for the plugin's URI is part of paths."""
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SUFFIX: Final = ".in"
#: The folder of the templates that gets the name of the package.
_PACKAGE: Final = "package"


def create(kind: str, name: str, parent: Path) -> Path:
    """Make the folder *name* in *parent* with a distribution of that kind; returns its path.

    Raises `InvalidArgument` for an unknown kind or a name that can be none, `AlreadyExists` for one that is taken, by a
    folder or an installed plugin, and `FailedPrecondition` when the folder cannot be made. Nothing is ever overwritten.
    """
    if kind not in KINDS:
        raise InvalidArgument(f'kind "{kind}": not known; write one of {", ".join(KINDS)}')
    check_name(name)
    folder = parent / name
    if folder.exists() or folder.is_symlink():
        raise AlreadyExists(f'folder "{folder}": exists already; choose another name, or move it away')
    variables = variables_of(KINDS[kind], name)
    _check_free(KINDS[kind], name, variables["package"])
    try:
        # Made aside and renamed, so that nobody finds half of it.
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=parent) as made:
            whole = Path(made, name)
            for path, text in contents(kind, variables):
                file = whole / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
            shutil.move(whole, folder)
    except OSError as error:
        raise FailedPrecondition(f'folder "{folder}": cannot be made: {error.strerror or error}') from error
    return folder


def check_name(name: str) -> None:
    """Raise `InvalidArgument` unless *name* may be a plugin's id, part of a distribution's name and of a module's."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f'name "{name}": must begin with a small letter, and have small letters, digits and single "-" between them'
        )
    if len(name) > MOST:
        raise InvalidArgument(f'name "{name}": is longer than {MOST} characters')
    if name.startswith("orlop-"):
        raise InvalidArgument(f'name "{name}": leave "orlop-" out, the distribution gets it anyway')


def variables_of(kind: Kind, name: str) -> dict[str, str]:
    """What the templates may refer to as ``$variable``."""
    variables = {
        "id": name,
        "distribution": f"orlop-{name}",
        "module": name.replace("-", "_"),
        "package": f"orlop_{name.replace('-', '_')}",
        "name": "".join(map(str.capitalize, name.split("-"))),
        "variable": name.replace("-", "_").upper(),
        "path": name.replace("-", ""),
        "type": f"io.orlop.{name}.v1",
        "uri": f"{kind.type.name}.{name}",
        "group": kind.type.group,
        "needs": kind.needs,
    }
    for text in ("summary", "usage"):
        variables[text] = Template(getattr(kind, text)).substitute(variables)
    variables["entry_points"] = Template(_entry_points(kind)).substitute(variables)
    return variables


def contents(kind: str, variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The files of a new distribution: path below its folder, and text."""
    templates = files("orlop_sdk.scaffold") / "templates"
    found = dict(_walk(templates / "common")) | dict(_walk(templates / kind))
    for path, file in sorted(found.items()):
        place = path.removesuffix(_SUFFIX)
        if place.startswith(f"{_PACKAGE}/"):
            place = variables["package"] + place.removeprefix(_PACKAGE)
        yield place, Template(file.read_text()).substitute(variables)


def _walk(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{above}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            yield above + entry.name, entry


def _entry_points(kind: Kind) -> str:
    """The tables of ``pyproject.toml`` that declare what is in the distribution."""
    tables = {"$group": {"$id": "$package:plugin"}, **kind.points}
    lines: list[str] = []
    for group, points in tables.items():
        header = "project.scripts" if group == "console_scripts" else f'project.entry-points."{group}"'
        lines += [f"[{header}]", *(f'{name} = "{target}"' for name, target in points.items()), ""]
    return "\n".join(lines)


def _check_free(kind: Kind, name: str, package: str) -> None:
    for point in entry_points(group=kind.type.group, name=name):
        owner = f"{point.dist.name} {point.dist.version}" if point.dist is not None else "another distribution"
        raise AlreadyExists(f'plugin "{kind.type.name}.{name}": {owner} has one of that name; choose another')
    if importlib.util.find_spec(package) is not None:
        raise AlreadyExists(f'package "{package}": is installed already; choose another name')
