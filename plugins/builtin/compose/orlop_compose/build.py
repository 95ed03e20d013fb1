# SPDX-License-Identifier: Apache-2.0
"""Makes a build: from what an integrator wrote to artefacts, the same bytes every time.

Order of work: build wheels of the source trees, complete them from the lock (or an index, once), put the default
config and the lock of plugins into one more wheel, pack all of them, and write down what is in there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import tomlkit
from packaging.requirements import InvalidRequirement, Requirement

from orlop.errors import ConfigError
from orlop_compose import artefacts, left_out
from orlop_compose.resolve import Resolver
from orlop_compose.sbom import bill
from orlop_compose.specification import Specification, read
from orlop_compose.trust import lock_of_wheels
from orlop_compose.wheels import Sources, Target, Wheel, build_wheel

#: The package of a build that holds its config, its lock, and what starts its commands. The kernel looks for it.
PACKAGE: Final = "orlop_build"
_FORMS: Final = {"executable": ("", artefacts.executable), "wheelhouse": ("-wheelhouse.tar", artefacts.wheelhouse)}


def build(file: Path, output: Path, tell: Callable[[str], object], *, relock: bool = False) -> list[Path]:
    """Make what *file* describes in the directory *output*, and return the paths of all artefacts.

    Raises `ConfigError` for faults of the file, and `FailedPrecondition` when a tree cannot be built, the lock is not
    the file's, or something cannot be had.
    """
    specification = read(file)
    target = Target(specification.python, specification.platform, specification.without)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="orlop-compose-") as scratch:
        wheels = _collect(specification, file, target, Path(scratch), tell, relock=relock)
        paths = [wheel.path for wheel in wheels.values()]
        if wrong := left_out.faults(specification.leave_out, paths):
            raise ConfigError([f"{file}: leave_out: {fault}" for fault in wrong])
        own = _own_wheel(specification, wheels, Path(scratch, "own"))
        wheels = dict(sorted({**wheels, own.name: own}.items()))
        made = []
        for form in specification.outputs:
            suffix, write = _FORMS[form]
            path = output / f"{specification.name}-{specification.version}{suffix}"
            tell(f"packing {len(wheels)} distributions into {path.name}")
            path.unlink(missing_ok=True)
            write(path.absolute(), specification, target, wheels)
            materials = path.with_name(f"{path.name}.cdx.json")
            materials.write_text(bill(path, specification, wheels, target))
            made += [path, materials]
    return made


def _collect(
    specification: Specification,
    file: Path,
    target: Target,
    scratch: Path,
    tell: Callable[[str], object],
    *,
    relock: bool,
) -> dict[str, Wheel]:
    """All wheels of the build but its own."""
    folder = file.absolute().parent
    paths = specification.paths(folder)
    for part in ("own", "others"):
        (scratch / part).mkdir()
    sources = Sources(paths, scratch / "own")
    by_path = [Requirement(sources.name_of(path)) for path in specification.wanted_paths(folder)]
    wanted = [*_requirements(file, specification.names()), *by_path]
    constraints = folder / specification.constraints if specification.constraints else None
    resolver = Resolver(target, file.with_suffix(".lock"), scratch / "others", constraints=constraints, relock=relock)
    tell("collecting distributions")
    return resolver.complete(wanted, sources)


def _requirements(file: Path, names: list[str]) -> list[Requirement]:
    faults, found = [], []
    for name in names:
        try:
            found.append(Requirement(name))
        except InvalidRequirement as error:
            faults.append(f'{file}: distributions: "{name}": {error}')
    if faults:
        raise ConfigError(faults)
    return found


def _own_wheel(specification: Specification, wheels: Mapping[str, Wheel], folder: Path) -> Wheel:
    """The wheel that stands for the build: its default config, its lock, and what starts its commands."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch, specification.name)
        package = tree / PACKAGE
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f'"""The build {specification.name} {specification.version}."""\n')
        shutil.copyfile(str(files("orlop_compose").joinpath("launch.py")), package / "launch.py")
        (package / "config.toml").write_text(tomlkit.dumps(_config(specification)))
        if specification.trust == "locked":
            (package / "plugins.lock").write_text(lock_of_wheels(wheel.path for wheel in wheels.values()))
        (tree / "pyproject.toml").write_text(tomlkit.dumps(_project(specification, wheels)))
        return build_wheel(tree, folder)


def _config(specification: Specification) -> dict[str, Any]:
    config: dict[str, Any] = {"version": 4, **specification.config}
    if specification.leave_out:
        config["disabled_plugins"] = [*config.get("disabled_plugins", ()), *specification.leave_out]
    if specification.trust == "locked":
        config |= {"plugin_trust": "locked", "plugin_lock": "plugins.lock"}
    tables = {key: config.pop(key) for key in list(config) if isinstance(config[key], dict)}
    return config | tables


def _project(specification: Specification, wheels: Mapping[str, Wheel]) -> dict[str, Any]:
    return {
        "build-system": {"requires": ["hatchling>=1.25"], "build-backend": "hatchling.build"},
        "project": {
            "name": specification.name,
            "version": specification.version,
            "requires-python": f"=={specification.python}.*",
            "dependencies": [f"{wheel.name}=={wheel.version}" for wheel in wheels.values()],
        },
        "tool": {"hatch": {"build": {"targets": {"wheel": {"packages": [PACKAGE]}}}}},
    }
