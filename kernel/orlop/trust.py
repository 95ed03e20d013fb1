# SPDX-License-Identifier: Apache-2.0
"""Which distributions may give the daemon code: in locked mode those in a lock file, as they were when it was written.

The lock guards against what is installed or changed behind the integrator's back, not against somebody who can write
the interpreter's own files: those could change this module as well. ``orlop compose lock`` writes one::

    version = 1

    [distributions.orlop-core]
    version = "0.1.0"

    [distributions.orlop-core.files]
    "orlop_core/__init__.py" = "sha256:..."

It covers what can be imported and the metadata, entry points among them; neither scripts, which differ from machine to
machine, nor bytecode caches.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any, Final, cast

import tomli

from orlop.errors import LoadError

VERSION: Final = 1
#: What says how and when something was installed, not what.
_HOW: Final = re.compile(r"(^|/)__pycache__/|\.dist-info/(RECORD|INSTALLER|REQUESTED|direct_url\.json)$|\.pex-info/")


class Lock:
    """A lock file. Raises `LoadError` when it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._verdicts: Final[dict[Distribution, str]] = {}
        try:
            data = tomli.loads(path.read_text())
            if data.get("version") != VERSION:
                raise ValueError(f"is no lock of version {VERSION}")
        except (OSError, ValueError) as error:
            raise LoadError(f'plugin_lock = "{path}": {error}; write one with: orlop compose lock -o FILE') from error
        self._locked: Final[dict[str, Any]] = data.get("distributions", {})

    def fault(self, point: EntryPoint, uri: str) -> LoadError | None:
        """Why the plugin *uri* may not load, unless its distribution is as the lock says. Imports nothing."""
        distribution = cast(Distribution, point.dist)  # only entry points of distributions are looked at
        if distribution not in self._verdicts:
            self._verdicts[distribution] = self._verdict(distribution)
        origin = f"{distribution.name} {distribution.version}, entry point {point.name} = {point.value}"
        return LoadError(reason, plugin=uri, origin=origin) if (reason := self._verdicts[distribution]) else None

    def _verdict(self, distribution: Distribution) -> str:
        who = f"distribution {distribution.name} {distribution.version}"
        entry = self._locked.get(normalised(distribution.name))
        if entry is None:
            return f"{who} is not in the lock {self.path}; uninstall it, or write the lock anew if it shall be trusted"
        locked, found = entry.get("files", {}), fingerprint(distribution)
        for name in sorted(locked.keys() | found.keys()):
            if locked.get(name) != found.get(name):
                how = "is not in" if name not in locked else "differs from" if name in found else "is missing against"
                return f"{name} of {who} {how} the lock {self.path}; reinstall it, or write the lock anew"
        return ""


def fingerprint(distribution: Distribution) -> dict[str, str]:
    """The digests of all files that a lock covers, by name; names in the tree of an editable one are absolute."""
    import hashlib
    import json
    from urllib.parse import unquote, urlsplit

    base = Path(str(distribution.locate_file("")))
    found = {Path(str(file)) for file in distribution.files or () if ".." not in Path(str(file)).parts}
    # A file that was added beside the recorded ones may come before them when Python imports.
    for package in {path.parts[0] for path in found if path.parts[1:] == ("__init__.py",)}:
        found.update(path.relative_to(base) for path in _tree(base / package))
    source = json.loads(distribution.read_text("direct_url.json") or "{}")
    if source.get("dir_info", {}).get("editable"):
        found.update(_tree(Path(unquote(urlsplit(source["url"]).path))))
    names = sorted(str(path) for path in found if not _HOW.search(str(path)) and (base / path).is_file())
    contents = {name: (base / name).read_bytes() for name in names}
    # Those that count, wherever the list of files says they are.
    contents["entry_points.txt"] = (distribution.read_text("entry_points.txt") or "").encode()
    return {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in contents.items()}


def normalised(name: str) -> str:
    """A distribution's name as it is compared."""
    return re.sub(r"[-_.]+", "-", str(name)).lower()


def _tree(top: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(top, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        yield from (Path(folder, name) for name in files)
