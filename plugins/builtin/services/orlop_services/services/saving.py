# SPDX-License-Identifier: Apache-2.0
"""Writes changes of plugins into the config: into a drop-in that the main file imports, which itself is never touched.

Only what nothing else says is written there. What another file says against it cannot be overruled by a drop-in (lists
of several files unite), so that is refused with the place to edit.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import tomlkit
import tomlkit.exceptions

from orlop.config import Config, load
from orlop.config.settings import DEFAULT_DROP_INS, DEFAULT_FILE
from orlop.errors import FailedPrecondition, Unavailable

#: The drop-in's name: late in the alphabet, so that it wins over others in the same directory.
NAME: Final = "zz-orlop-plugins.toml"
_HEAD: Final = " Changes that were saved while the daemon ran (orlop plugins ... --save). Yours to edit."

Edit = Callable[[tomlkit.TOMLDocument], None]


class Saving:
    """Where changes of one daemon's plugins are saved. Its methods block.

    Raises `FailedPrecondition` with what to write into the main file when that imports no place for a drop-in.
    """

    def __init__(self, main: str) -> None:
        self._main = Path(main or DEFAULT_FILE)
        self._config: Config = load(Path(main) if main else None)
        self.file: Final = self._place(implicit=not main or main == DEFAULT_FILE)

    def disable(self, uri: str) -> None:
        """Add a plugin to ``disabled_plugins``."""

        def edit(document: tomlkit.TOMLDocument) -> None:
            names = document.setdefault("disabled_plugins", tomlkit.array())
            if uri not in names:
                names.append(uri)

        self._write(edit)

    def enable(self, uri: str) -> None:
        """Take a plugin off ``disabled_plugins``; see `check_enable` first."""

        def edit(document: tomlkit.TOMLDocument) -> None:
            names = document.get("disabled_plugins", [])
            if uri in names:
                names.remove(uri)

        self._write(edit)

    def check_enable(self, uri: str) -> None:
        """Raise `FailedPrecondition` when another file keeps a plugin disabled."""
        where = self._config.disabled(uri)
        if where is not None and Path(where.file) != self.file:
            raise FailedPrecondition(f'plugin "{uri}": is disabled in {where}, which is not changed; take it out there')

    def table(self, *key: str, table: Mapping[str, Any]) -> None:
        """Replace one table, such as ``plugins."<uri>"``."""

        def edit(document: tomlkit.TOMLDocument) -> None:
            parent: Any = document
            for part in key[:-1]:
                parent = parent.setdefault(part, tomlkit.table(is_super_table=True))
            parent[key[-1]] = tomlkit.item(dict(table))

        self._write(edit)

    def module(self, uri: str, target: str) -> None:
        """Set an entry of ``[plugin_modules]``."""
        self._write(lambda document: document.setdefault("plugin_modules", tomlkit.table()).update({uri: target}))

    def check_remove(self, uri: str) -> None:
        """Raise `FailedPrecondition` when another file declares a plugin."""
        for key in self._declarations(uri):
            where = self._config.document.origins.get(key)
            if where is not None and Path(where.file) != self.file:
                raise FailedPrecondition(f'plugin "{uri}": is declared in {where}, which is not changed; edit it there')

    def remove(self, uri: str) -> None:
        """Drop all that declares a plugin, its config included; see `check_remove` first."""

        def edit(document: tomlkit.TOMLDocument) -> None:
            for table, name in (*self._declarations(uri), ("plugins", uri)):
                document.get(table, {}).pop(name, None)

        self._write(edit)

    def _declarations(self, uri: str) -> tuple[tuple[str, str], ...]:
        id = uri.partition(".v")[2].partition(".")[2]
        return ("plugin_modules", uri), ("proxy_plugins", id), ("stream_processors", id)

    def _place(self, implicit: bool) -> Path:
        for name in self._config.settings.imports:
            pattern = str(self._main.parent / name)
            place = Path(pattern).parent / NAME
            if fnmatch.fnmatchcase(str(place), pattern):
                return place
        if implicit:
            return Path(DEFAULT_DROP_INS).parent / NAME
        raise FailedPrecondition(
            f'config "{self._main}": imports no directory that a saved change could go to; '
            f'write imports = ["conf.d/*.toml"] at its top'
        )

    def _write(self, edit: Edit) -> None:
        try:
            try:
                document = tomlkit.parse(self.file.read_text())
            except FileNotFoundError:
                document = tomlkit.document()
                document.add(tomlkit.comment(_HEAD.strip()))
                document["version"] = self._version()
            edit(document)
            self.file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            fresh = self.file.with_name(f".{NAME}.{os.getpid()}")
            with fresh.open("w") as file:
                file.write(tomlkit.dumps(document))
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(self.file)
        except (OSError, tomlkit.exceptions.TOMLKitError) as error:
            raise Unavailable(f'config "{self.file}": cannot be changed: {error}') from error

    def _version(self) -> int:
        """The main file's version as it is written there: a drop-in must not be newer."""
        try:
            return int(tomlkit.parse(self._main.read_text()).get("version", 1))
        except FileNotFoundError:
            return self._config.settings.version
