# SPDX-License-Identifier: Apache-2.0
"""What a build is made of: the file that an integrator writes."""

from __future__ import annotations

import glob
import os
import platform
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from orlop.errors import ConfigError

_NAME: Final = r"[a-z0-9]+(-[a-z0-9]+)*"
#: The C library that most distributions in use have at least.
_GLIBC: Final = "2_28"


class Specification(BaseModel):
    """A build file. Paths in it are relative to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
    """Name of the build, and of the distribution that stands for it."""
    version: str
    """Version of the build."""
    distributions: list[str] = Field(min_length=1)
    """What is in it: requirements such as ``orlop-core>=0.1``, or paths of source trees and wheels (with a ``/``)."""
    sources: list[str] = Field(default_factory=list)
    """Source trees and wheels, globs allowed, that are taken instead of what an index has under the same name."""
    without: list[str] = Field(default_factory=list)
    """Distributions that stay out although others ask for them; what imports them fails, and says so."""
    leave_out: list[str] = Field(default_factory=list)
    """URIs of plugins, globs allowed, that are in the distributions but stay off: the config's ``disabled_plugins``."""
    python: Annotated[str, StringConstraints(pattern=r"^3\.[0-9]+$")] = "3.11"
    """The Python that the build runs with."""
    platform: str = f"manylinux_{_GLIBC}_{platform.machine()}"
    """The platform that it runs on, as wheels name it."""
    outputs: list[Literal["executable", "wheelhouse"]] = Field(["executable", "wheelhouse"], min_length=1)
    """What to make."""
    trust: Literal["open", "locked"] = "locked"
    """``plugin_trust`` of the config; with locked, a lock over the build's distributions comes along."""
    unpack: str = "/var/lib/orlop"
    """Where the executable unpacks itself at its first start. The environment variable PEX_ROOT wins over it."""
    constraints: str = ""
    """A file of pinned requirements to resolve under, with hashes if it has them."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Default config of the daemon, in the newest format; an operator's file wins over it, key by key."""

    def paths(self, folder: Path) -> list[Path]:
        """The source trees and wheels that the build names, below or beside *folder*. Raises `ConfigError`."""
        found = {item: _find(item, folder) for item in [*self.sources, *filter(is_path, self.distributions)]}
        missing = [item for item, paths in found.items() if not paths]
        if missing:
            raise ConfigError([f'"{item}": no source tree or wheel is there, seen from {folder}' for item in missing])
        return list(dict.fromkeys(path for paths in found.values() for path in paths))

    def wanted_paths(self, folder: Path) -> list[Path]:
        """Those of `paths` that are part of the build even if nothing needs them."""
        return [path for item in filter(is_path, self.distributions) for path in _find(item, folder)]

    def names(self) -> list[str]:
        """The requirements among the distributions."""
        return [item for item in self.distributions if not is_path(item)]


def is_path(item: str) -> bool:
    """Whether an entry is a path and no requirement."""
    return "/" in item.partition("@")[0] or item.startswith(".")


def _find(item: str, folder: Path) -> list[Path]:
    found = [Path(os.path.normpath(path)) for path in sorted(glob.glob(str(folder / item)))]
    return [path for path in found if path.suffix == ".whl" or (path / "pyproject.toml").is_file()]


def read(path: Path) -> Specification:
    """Read a build file. Raises `ConfigError` with all its faults."""
    try:
        return Specification.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}; check the path and its permissions"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: not valid TOML: {error}"]) from error
    except ValidationError as error:
        raise ConfigError([_worded(path, detail) for detail in error.errors(include_url=False)]) from error


def _worded(path: Path, detail: Any) -> str:
    key = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return f"{path}: {key}: unknown key; valid: {', '.join(Specification.model_fields)}"
    return f"{path}: {key}: {detail['msg']}"
