# SPDX-License-Identifier: Apache-2.0
"""A TOML file as data, and for each key the file and line that it was written in.

tomli parses; the scan here only finds where keys stand, in text that tomli has accepted already.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import tomli

Key = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a key was written. ``key`` is its spelling there, which migrations may have changed since."""

    file: str
    line: int = 0
    key: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class SyntaxFault(ValueError):
    """The file is not TOML. The text says where and what."""


@dataclass
class Document:
    """Nested tables and the origin of every key, through merges and moves."""

    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, Origin] = field(default_factory=dict)

    @classmethod
    def parse(cls, path: Path) -> Document:
        """Read a file. Raises `SyntaxFault` for bad TOML and bad UTF-8, `OSError` when it cannot be read."""
        raw = path.read_bytes()
        try:
            text = raw.decode()
            data = tomli.loads(text)
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            raise SyntaxFault(f"{path}:{line}: not UTF-8; save the file as UTF-8") from error
        except tomli.TOMLDecodeError as error:
            reason = re.sub(r" \(at .*\)$", "", str(error))
            line = getattr(error, "lineno", 0)
            raise SyntaxFault(f"{path}:{line}: not valid TOML: {reason}") from error
        name = str(path)
        origins = {key: Origin(name, line, spell(key)) for key, line in _Scanner(text.replace("\r\n", "\n")).keys()}
        return cls(data, origins)

    def origin(self, key: Key) -> Origin:
        """Where a key, or else the nearest table around it, was written."""
        while key and key not in self.origins:
            key = key[:-1]
        return self.origins.get(key, Origin("default"))

    def get(self, key: Key, default: Any = None) -> Any:
        """The value of a key, or *default*."""
        value: Any = self.data
        for part in key:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return default
        return value

    def set(self, key: Key, value: Any, origin: Origin) -> None:
        """Give a key a value, making the tables around it."""
        table = self.data
        for part in key[:-1]:
            table = table.setdefault(str(part), {})
        table[str(key[-1])] = value
        self.origins[key] = origin

    def move(self, source: Key, target: Key) -> None:
        """Rename a key with all below it. What the target has already stays; tables merge."""
        value = self._pop(source)
        if value is None:
            return
        moved = {key: origin for key, origin in self.origins.items() if key[: len(source)] == source}
        for key, origin in moved.items():
            del self.origins[key]
            self.origins.setdefault(target + key[len(source) :], origin)
        present = self.get(target)
        if present is None:
            self.set(target, value, self.origin(target))
        elif isinstance(present, dict) and isinstance(value, dict):
            _fill(present, value)

    def _pop(self, key: Key) -> Any:
        table = self.get(key[:-1])
        return table.pop(key[-1], None) if isinstance(table, dict) else None

    def forget(self, key: Key) -> None:
        """Drop a key with all below it, and their origins."""
        self._pop(key)
        for old in [old for old in self.origins if old[: len(key)] == key]:
            del self.origins[old]


def spell(key: Key) -> str:
    """A key as one writes it in TOML: ``plugins."io.containerd.gc.v1.scheduler".pause_threshold``."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"')
    return text


def _fill(present: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(present.get(key), dict):
            _fill(present[key], value)
        else:
            present.setdefault(key, value)


_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_BLANK: Final = re.compile(r"[ \t\n]*(?:#[^\n]*[ \t\n]*)*")
_STRING: Final = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\])*"|\'[^\']*\'', re.DOTALL)
_COMMENT: Final = re.compile(r"#[^\n]*")


class _Scanner:
    """Walks through valid TOML and tells at which line each key stands."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0

    def keys(self) -> Iterator[tuple[Key, int]]:
        table: Key = ()
        arrays: dict[Key, int] = {}
        while self._skip_blank():
            line = self._line_number()
            if self._text[self._at] == "[":
                is_array = self._text.startswith("[[", self._at)
                self._at += 2 if is_array else 1
                table = self._resolve(self._key(), arrays)
                self._at = self._text.index("]", self._at) + (2 if is_array else 1)
                if is_array:
                    arrays[table] = arrays.get(table, -1) + 1
                    table = (*table, arrays[table])
                yield table, line
            else:
                key = self._key()
                for length in range(1, len(key) + 1):
                    yield table + key[:length], line
                self._at = self._text.index("=", self._at) + 1
                self._skip_value()

    def _resolve(self, key: Key, arrays: dict[Key, int]) -> Key:
        """A header below an array of tables is about the array's last table."""
        resolved: Key = ()
        for part in key[:-1]:
            resolved = (*resolved, part)
            if resolved in arrays:
                resolved = (*resolved, arrays[resolved])
        return (*resolved, key[-1])

    def _skip_blank(self) -> bool:
        match = _BLANK.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._at < len(self._text)

    def _line_number(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _key(self) -> Key:
        parts: list[str] = []
        while True:
            self._at += len(self._text[self._at :]) - len(self._text[self._at :].lstrip(" \t"))
            match = _BARE.match(self._text, self._at) or _STRING.match(self._text, self._at)
            assert match is not None  # tomli accepted the text
            piece = match[0]
            parts.append(next(iter(tomli.loads(f"{piece} = 0"))))
            self._at = match.end()
            following = re.compile(r"[ \t]*\.").match(self._text, self._at)
            if following is None:
                return tuple(parts)
            self._at = following.end()

    def _skip_value(self) -> None:
        depth = 0
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "\n" and depth == 0:
                return
            if character in "\"'":
                match = _STRING.match(self._text, self._at)
            elif character == "#":
                match = _COMMENT.match(self._text, self._at)
            else:
                match = None
                depth += (character in "[{") - (character in "]}")
            self._at = match.end() if match else self._at + 1
