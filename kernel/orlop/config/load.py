# SPDX-License-Identifier: Apache-2.0
"""Reads the one global config: the file, what it imports, migrations, merging, and every plugin's table.

Order of work: parse every file, migrate each to the newest version, merge (later files win), validate the top level,
then, once the enabled plugins are known, each plugin's table. All faults are collected; `Config.raise_faults` raises
them together.
"""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, cast

from orlop.config import migrate
from orlop.config.check import Findings, nearest, validate
from orlop.config.document import Document, Key, Origin, SyntaxFault
from orlop.config.duration import seconds
from orlop.config.settings import DEFAULT_DROP_INS, DEFAULT_FILE, VENDOR_PACKAGE, Settings
from orlop.discovery import AnyRegistration
from orlop.errors import ConfigError
from orlop.plugin import PluginConfig

#: Keys of old versions that have no meaning any more.
_OBSOLETE: Final = ("plugin_dir",)
#: Top-level tables whose entries are replaced as a whole by a later file.
_WHOLE_ENTRIES: Final = ("proxy_plugins", "stream_processors", "timeouts")
_LISTS: Final = ("imports", "disabled_plugins", "required_plugins", "plugin_dirs")


class Config:
    """The effective config. Made by `load`, `from_data`; what was wrong is in ``findings``. *reread* makes it again."""

    def __init__(
        self, document: Document, findings: Findings, reread: Callable[[], Config], files: Iterable[Path] = ()
    ) -> None:
        self.document: Final = document
        self.reread: Final = reread
        self.findings: Final = findings
        self.files: Final = tuple(files)
        strict = document.get(("strict",)) is True
        settings = validate(document, (), Settings, findings, strict=strict)
        self.settings: Final = settings if settings is not None else Settings()
        off = list(enumerate(self.settings.disabled_plugins))
        # By name, and by pattern: a list of a thousand names must not be searched for each of a thousand plugins.
        self._off: Final = {name: index for index, name in reversed(off)}
        self._off_globs: Final = [(index, pattern) for index, pattern in off if set(pattern) & set("*?[")]
        self.timeouts: Final = {name: seconds(text) for name, text in self.settings.timeouts.items()}
        if self.settings.root == self.settings.state:
            where = document.origin(("state",))
            findings.faults.append(f"{where}: state: must differ from root; write another directory")

    def origin(self, *key: str | int) -> Origin:
        """Where a key was written."""
        return self.document.origin(key)

    def section(self, uri: str) -> Mapping[str, Any]:
        """A plugin's table as it was written; empty when there is none."""
        table = self.document.get(("plugins", uri), {})
        return table if isinstance(table, dict) else {}

    def disabled(self, uri: str) -> Origin | None:
        """The config line that switches a plugin off, or None."""
        found = [index for index, pattern in self._off_globs if fnmatch.fnmatchcase(uri, pattern)]
        index = min([*found, *([self._off[uri]] if uri in self._off else [])], default=None)
        origins, where = self.document.origins, self.origin("disabled_plugins")
        return None if index is None else origins.get(("disabled_plugins", index), where)

    def validate(self, registrations: Iterable[AnyRegistration], known: Iterable[str]) -> dict[str, PluginConfig]:
        """The typed config of each registration that has a table; faults and warnings go to ``findings``.

        A table for a plugin that is not in *known* is a warning.
        """
        models = {registration.uri: registration.config for registration in registrations}
        typed: dict[str, PluginConfig] = {}
        for uri, model in models.items():
            config = validate(self.document, ("plugins", uri), model, self.findings, strict=self.settings.strict)
            if config is not None:
                typed[uri] = config
        names = list(known)
        for uri in self.settings.plugins:
            if uri not in names:
                self.findings.warnings.append(self._foreign(uri, names))
        return typed

    def typed(self, registration: AnyRegistration) -> PluginConfig:
        """The typed config of one plugin more. Raises `ConfigError` with the faults of its table."""
        findings, model = Findings(), cast(type[PluginConfig], registration.config)
        config = validate(self.document, ("plugins", registration.uri), model, findings, strict=self.settings.strict)
        if config is None or findings.faults:
            raise ConfigError(findings.faults)
        return config

    def _foreign(self, uri: str, names: list[str]) -> str:
        guess = nearest(uri, names)
        remedy = f'did you mean "{guess}"?' if guess else "install the distribution that has it, or drop the table"
        return f'{self.origin("plugins", uri)}: plugins."{uri}": no such plugin is installed; {remedy}'

    def raise_faults(self) -> None:
        """Raise `ConfigError` with all faults found so far, if there are any."""
        if self.findings.faults:
            raise ConfigError(sorted(set(self.findings.faults), key=_by_line))


def load(path: Path | None = None, overrides: Mapping[Key, Any] | None = None) -> Config:
    """Read the config at *path*, or the default file if there is one, over the defaults of the composed build.

    *overrides* (keys of the newest version) come from the command line and win over all files. A missing file at an
    explicit *path* is a fault.
    """
    findings = Findings()
    document = Document()
    main = path or Path(DEFAULT_FILE)
    # What comes first yields to what comes later, but a program that is told one file gets the operator's.
    build = find_spec(VENDOR_PACKAGE)
    vendor = [Path(build.origin).with_name("config.toml")] if build and build.origin else []
    drop_ins = [] if path else sorted(map(Path, glob.glob(DEFAULT_DROP_INS)))
    read: list[Path] = []
    for name in [*vendor, *([main] if path or main.exists() else []), *drop_ins]:
        more, seen = _read_all(name, findings, skip=read)
        _merge(document, more)
        read.extend(seen)
    for key, value in (overrides or {}).items():
        document.set(key, value, Origin("command line"))
    return Config(document, findings, lambda: load(path, overrides), sorted(read, key=lambda file: file in vendor))


def from_data(data: Mapping[str, Any], where: str = "program") -> Config:
    """A config from plain data in the newest version: for programs that embed the kernel."""
    document = Document(dict(data), {(): Origin(where)})
    return Config(document, Findings(), lambda: from_data(data, where))


def _read_all(main: Path, findings: Findings, skip: Iterable[Path] = ()) -> tuple[Document, list[Path]]:
    """The file and its imports, breadth first, merged. Each file is read once."""
    merged = Document()
    seen = [*skip]
    queue = [main]
    newest: int | None = None
    while queue:
        path = queue.pop(0).absolute()
        if path in seen:
            continue
        seen.append(path)
        document = _read(path, findings, newest)
        if document is None:
            continue
        if newest is None:
            newest = document.get(("version",), 1)
        queue.extend(_imports(path, document, findings))
        _bring_up(document, document.get(("version",), 1))
        if isinstance(lock := document.get(("plugin_lock",)), str) and lock:
            document.data["plugin_lock"] = str(path.parent / lock)  # other processes get it without this file's name
        _merge(merged, document)
    return merged, [path for path in seen if path not in skip]


def _read(path: Path, findings: Findings, newest: int | None) -> Document | None:
    try:
        document = Document.parse(path)
    except SyntaxFault as fault:
        findings.faults.append(str(fault))
        return None
    except OSError as error:
        findings.faults.append(f"{path}: cannot be read: {error.strerror}; check the path and its permissions")
        return None
    version = document.get(("version",), 1)
    most = migrate.NEWEST if newest is None else newest
    if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= migrate.NEWEST:
        where = document.origin(("version",))
        findings.faults.append(f"{where}: version = {version!r}: not a known format; write version = {migrate.NEWEST}")
        document.data["version"] = migrate.NEWEST
    elif version > most:
        where = document.origin(("version",))
        findings.faults.append(f"{where}: version = {version}: newer than the file that imports it; write {most}")
    return document


def _imports(path: Path, document: Document, findings: Findings) -> list[Path]:
    names = document.get(("imports",), [])
    found: list[Path] = []
    for index, name in enumerate(names if isinstance(names, list) else []):
        if not isinstance(name, str):
            continue
        full = path.parent / name
        if "*" in name:
            found.extend(Path(match) for match in sorted(glob.glob(str(full))))
        elif full.exists():
            found.append(full)
        else:
            where = document.origin(("imports", index))
            findings.faults.append(f"{where}: imports: {full} does not exist; correct the path or drop it")
    return found


def _bring_up(document: Document, version: int) -> None:
    migrate.migrate(document, version)
    document.data["version"] = migrate.NEWEST
    for key in _OBSOLETE:
        document.forget((key,))


def _merge(into: Document, new: Document) -> None:
    """Merge by containerd's rules: scalars that are set win, lists at the top unite, plugin tables merge deeply."""
    for key, value in new.data.items():
        if key in _LISTS and isinstance(value, list):
            present = into.data.setdefault(key, [])
            for index, item in enumerate(value):
                if item not in present:
                    into.origins[key, len(present)] = new.origins.get((key, index), new.origin((key,)))
                    present.append(item)
        elif key in _WHOLE_ENTRIES and isinstance(value, dict):
            into.data.setdefault(key, {}).update(value)
        elif isinstance(value, dict) and isinstance(into.data.get(key), dict):
            _merge_tables(into.data[key], value)
        elif value or key not in into.data:
            into.data[key] = value
        else:
            continue
    for place, origin in new.origins.items():
        if not (len(place) > 1 and place[0] in _LISTS) and new.get(place) == into.get(place):
            into.origins[place] = origin


def _merge_tables(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge_tables(into[key], value)
        else:
            into[key] = value


def _by_line(fault: str) -> tuple[str, int]:
    file, _, rest = fault.partition(":")
    number = rest.split(":", 1)[0]
    return file, int(number) if number.isdigit() else 0
