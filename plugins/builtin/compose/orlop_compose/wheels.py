# SPDX-License-Identifier: Apache-2.0
"""Wheels: what one says about itself, how they are built from source trees, and which of them a build needs."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Final

import build as pypa
from build.env import DefaultIsolatedEnv
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from pyproject_hooks import quiet_subprocess_runner

from orlop.errors import FailedPrecondition

#: What archives date their entries with: the first moment that a ZIP archive can express.
EPOCH: Final = 315532800


class Wheel:
    """A wheel on disk."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        name, version, _, _ = parse_wheel_filename(path.name)
        self.name: Final[str] = name
        self.version: Final = version

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @cached_property
    def metadata(self) -> PathDistribution:
        """What its metadata says."""
        with zipfile.ZipFile(self.path) as archive:
            (info,) = {name.split("/")[0] for name in archive.namelist() if name.split("/")[0].endswith(".dist-info")}
        return PathDistribution(zipfile.Path(self.path, f"{info}/"))

    def requires(self, target: Target, extras: Iterable[str] = ()) -> Iterator[Requirement]:
        """What it needs on *target*, with these of its extras."""
        for text in self.metadata.requires or ():
            requirement = Requirement(text)
            if canonicalize_name(requirement.name) in target.without:
                continue
            if requirement.marker is None or any(
                requirement.marker.evaluate(target.environment | {"extra": extra}) for extra in ("", *extras)
            ):
                yield requirement


class Target:
    """The machines that a build is for: a Python version (``3.11``) and a platform as wheels name it.

    What is in *without* nobody gets, whoever asks for it.
    """

    def __init__(self, python: str, platform_tag: str, without: Iterable[str] = ()) -> None:
        self.without: Final = frozenset(map(canonicalize_name, without))
        self.python: Final = python
        self.platform: Final = platform_tag
        environment = {
            **{key: str(value) for key, value in default_environment().items()},
            "python_version": python,
            "platform_machine": platform_tag.partition("_")[2].lstrip("0123456789_") or platform.machine(),
        }
        if python != ".".join(platform.python_version_tuple()[:2]):
            environment |= {"python_full_version": f"{python}.0", "implementation_version": f"{python}.0"}

        self.environment: Final[dict[str, str]] = environment

    @property
    def abi(self) -> str:
        """Its ABI, such as ``cp311``."""
        return f"cp{self.python.replace('.', '')}"

    def tags(self) -> list[str]:
        """The tags of all wheels that it takes, the best first."""
        version = tuple(map(int, self.python.split(".")))
        own = cpython_tags(version, abis=[self.abi], platforms=self.platforms())
        return [str(tag) for tag in [*own, *compatible_tags(version, self.abi, self.platforms())]]

    def platforms(self) -> list[str]:
        """All platforms whose wheels run there, the best first."""
        family, _, rest = self.platform.partition("_")
        major, minor, machine = [*rest.split("_", 2), "", ""][:3]
        if not minor.isdigit():
            return [self.platform]
        names = [f"{family}_{major}_{number}_{machine}" for number in range(int(minor), -1, -1)]
        legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"} if family == "manylinux" else {}
        return [*names, *(f"{name}_{machine}" for number, name in legacy.items() if number <= int(minor))]


class Sources:
    """Source trees and wheels by the name of their distribution; a tree is built when it is needed."""

    def __init__(self, paths: Iterable[Path], folder: Path) -> None:
        self._folder = folder
        self._trees: dict[str, Path] = {}
        self.built: Final[dict[str, Wheel]] = {}
        for path in paths:
            if path.suffix == ".whl":
                wheel = Wheel(Path(shutil.copy(path, folder)))
                self.built[wheel.name] = wheel
            else:
                self._trees[_name_of(path)] = path

    def __contains__(self, name: str) -> bool:
        return name in self._trees or name in self.built

    def name_of(self, path: Path) -> str:
        """The name of what is at one of the paths."""
        return Wheel(path).name if path.suffix == ".whl" else _name_of(path)

    def wheel(self, name: str) -> Wheel:
        """The wheel of a distribution that is in here."""
        if name not in self.built:
            self.built[name] = build_wheel(self._trees[name], self._folder)
        return self.built[name]


def build_wheel(tree: Path, folder: Path) -> Wheel:
    """Build a source tree. Raises `FailedPrecondition` with the backend's words.

    What the build needs is taken from this environment if it is all there, and installed into a new one otherwise.
    """
    # A backend must not find another one's leftovers, nor leave its own: it gets a copy.
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, tree.name or "source")
        shutil.copytree(tree, copy, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist"))
        try:
            path = _run_backend(copy, folder)
        except (pypa.BuildException, pypa.BuildBackendException) as error:
            raise FailedPrecondition(f'source tree "{tree}": cannot be built: {error}') from error
    return Wheel(path)


def _run_backend(tree: Path, folder: Path) -> Path:
    before = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = str(EPOCH)
    try:
        builder = pypa.ProjectBuilder(tree, runner=quiet_subprocess_runner)
        if not builder.check_dependencies("wheel"):
            return Path(builder.build("wheel", folder))
        with DefaultIsolatedEnv() as environment:
            builder = pypa.ProjectBuilder.from_isolated_env(environment, tree, runner=quiet_subprocess_runner)
            environment.install(builder.build_system_requires)
            environment.install(builder.get_requires_for_build("wheel"))
            return Path(builder.build("wheel", folder))
    finally:
        if before is None:
            del os.environ["SOURCE_DATE_EPOCH"]
        else:
            os.environ["SOURCE_DATE_EPOCH"] = before


def _name_of(tree: Path) -> str:
    try:
        return canonicalize_name(tomllib.loads((tree / "pyproject.toml").read_text())["project"]["name"])
    except (KeyError, tomllib.TOMLDecodeError) as error:
        raise FailedPrecondition(f'source tree "{tree}": its pyproject.toml has no project.name: {error}') from error


def closure(
    wanted: Iterable[Requirement], wheels: Mapping[str, Wheel], target: Target
) -> tuple[dict[str, Wheel], list[str]]:
    """Those of *wheels* that *wanted* needs, by name, and what is missing or of a wrong version, in words."""
    chosen: dict[str, Wheel] = {}
    faults: list[str] = []
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [("the build", requirement) for requirement in wanted]
    while queue:
        who, requirement = queue.pop(0)
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        wheel = wheels.get(name)
        if wheel is None:
            faults.append(f"{requirement} (for {who})")
            continue
        if not requirement.specifier.contains(wheel.version, prereleases=True):
            faults.append(f"{requirement} (for {who}), not {wheel.version}")
        chosen[name] = wheel
        queue.extend((name, need) for need in wheel.requires(target, requirement.extras))
    return dict(sorted(chosen.items())), faults
