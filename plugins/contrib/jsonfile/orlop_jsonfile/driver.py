# SPDX-License-Identifier: Apache-2.0
"""The driver: two pipes in, one rotating file of JSON lines out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from orlop.errors import InvalidArgument
from orlop.interfaces.log import LogDriver, LogStreams
from orlop_sdk.logs.lines import Piece, copy
from orlop_sdk.logs.options import size, timestamp

# A longer line becomes several entries, of which only the last ends with a newline: readers join them by that.
_LONGEST: Final = 16 << 10
# The largest file that there can be.
_MOST: Final = (1 << 63) - 1
_quoted: Final = json.JSONEncoder(ensure_ascii=False).encode


class JsonFileDriver:
    """See `orlop.interfaces.log.LogDriver`. The arguments hold for URIs without such options."""

    def __init__(self, max_size: str = "-1", max_file: int = 1) -> None:
        self._defaults = {"max-size": max_size, "max-file": str(max_file)}

    @property
    def schemes(self) -> tuple[str, ...]:
        return ("json-file",)

    def shim_uri(self, uri: str) -> str | None:
        parts = urlsplit(uri)
        self._open_args(uri, dict(parse_qsl(parts.query, keep_blank_values=True)))
        return None

    def run(self, uri: str, options: Mapping[str, str], streams: LogStreams) -> None:
        file = RotatingFile(*self._open_args(uri, options))
        try:
            streams.ready()
            copy(streams, _LONGEST, partial(_put, file))
        finally:
            file.close()

    def _open_args(self, uri: str, options: Mapping[str, str]) -> tuple[Path, int, int]:
        parts = urlsplit(uri)
        if parts.netloc or not parts.path.startswith("/") or parts.path.endswith("/"):
            raise InvalidArgument(f'log URI "{uri}": needs the absolute path of a file; write json-file:///path')
        unknown = sorted(options.keys() - self._defaults.keys())
        if unknown:
            raise InvalidArgument(f'log URI "{uri}": no option "{unknown[0]}"; there are max-size and max-file')
        chosen = {**self._defaults, **options}
        most = parse_size(chosen["max-size"])
        if not chosen["max-file"].isdecimal() or int(chosen["max-file"]) < 1:
            raise InvalidArgument(f'log URI "{uri}": max-file "{chosen["max-file"]}" must be a number of at least 1')
        return Path(parts.path), most, int(chosen["max-file"])


class RotatingFile:
    """A file that is appended to, and renamed to ``.1`` before it grows past *most* bytes (0: never)."""

    def __init__(self, path: Path, most: int, files: int) -> None:
        self._path = path
        self._most = most
        self._files = files
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size

    def write(self, entries: Sequence[bytes]) -> None:
        """Append entries, each whole, in the current file or a new one."""
        length = sum(map(len, entries))
        if not self._most or self._size + length <= self._most:
            self._append(b"".join(entries), length)
            return
        for entry in entries:
            if self._size and self._size + len(entry) > self._most:
                self._rotate()
            self._append(entry, len(entry))

    def close(self) -> None:
        """Close the file. May be called once."""
        os.close(self._fd)

    def _append(self, text: bytes, length: int) -> None:
        view = memoryview(text)
        while view:
            view = view[os.write(self._fd, view) :]
        self._size += length

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def _rotate(self) -> None:
        self._size = 0
        if self._files == 1:
            os.ftruncate(self._fd, 0)
            return
        os.close(self._fd)
        for number in range(self._files - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
            if newer.exists():
                newer.replace(older)
        self._fd = self._open()


def entries_of(stream: str, pieces: Sequence[Piece], nanoseconds: int) -> list[bytes]:
    """The entries of pieces of lines that were read at a time since the epoch."""
    rest = f',"stream":"{stream}","time":"{timestamp(nanoseconds)}"}}\n'
    entries = []
    for text, ended in pieces:
        words = text.decode(errors="replace")
        entries.append(f'{{"log":{_quoted(words + chr(10) if ended else words)}{rest}'.encode())
    return entries


def parse_size(text: str) -> int:
    """Bytes of a size such as ``10m``; 0, which means no limit, for ``-1``. Raises `InvalidArgument`."""
    if text.strip() == "-1":
        return 0
    try:
        return size(text, 1, _MOST)
    except ValueError as error:
        raise InvalidArgument(f'max-size "{text}": write a size such as 500k, 10m or 1g, or -1 for none') from error


def _put(file: RotatingFile, stream: str, pieces: Sequence[Piece]) -> None:
    file.write(entries_of(stream, pieces, time.time_ns()))


_: type[LogDriver] = JsonFileDriver
