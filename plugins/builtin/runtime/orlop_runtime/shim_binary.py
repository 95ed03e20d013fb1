# SPDX-License-Identifier: Apache-2.0
"""Which binary is the shim of a runtime, and where it lies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from orlop.errors import InvalidArgument, NotFound


def binary_name(runtime: str) -> str:
    """The name of a runtime's shim: ``io.containerd.runc.v2`` gives ``containerd-shim-runc-v2``.

    An absolute path is its own name. Raises `InvalidArgument` for what is neither.
    """
    if os.path.isabs(runtime):
        return runtime
    name, _, version = runtime.rpartition(".")
    name = name.rpartition(".")[2]
    if not name or not version or "/" in runtime:
        raise InvalidArgument(
            f'runtime "{runtime}": not a runtime name; give one like io.containerd.runc.v2, '
            "or the absolute path of a shim binary"
        )
    return f"containerd-shim-{name}-{version}"


class BinarySearch:
    """Finds shims on ``PATH``, then in the folders given. What was found once is not searched again."""

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self._folders = folders
        self._found: dict[str, str] = {}

    def find(self, runtime: str) -> str:
        """The absolute path of a runtime's shim. Raises `NotFound`, and as `binary_name`."""
        path = self._found.get(runtime)
        if path is None:
            path = self._found[runtime] = self._search(runtime)
        return path

    def _search(self, runtime: str) -> str:
        name = binary_name(runtime)
        folders = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, self._folders)])
        path = shutil.which(name, path=folders)
        if path is None:
            where = "is no executable file" if os.path.isabs(name) else f"has no {name} in {folders}"
            raise NotFound(f'runtime "{runtime}": {where}; install the shim, or name its absolute path')
        return os.path.abspath(path)
