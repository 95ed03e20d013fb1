# SPDX-License-Identifier: Apache-2.0
"""The driver: two pipes in, one rotating file of JSON lines out."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from orlop.errors import InvalidArgument
from orlop.interfaces.log import LogDriver, LogStreams
from orlop_sdk.logs.lines import Pieces, copy
from orlop_sdk.logs.losses import Losses
from orlop_sdk.logs.options import size, timestamp

# A longer line becomes several entries, of which only the last ends with a newline: readers join them by that.
_LONGEST: Final = 16 << 10
# The largest file that there can be.
_MOST: Final = (1 << 63) - 1
_quoted: Final = json.JSONEncoder(ensure_ascii=False).encode
# What cannot stand in a string of JSON, but for the newlines, which are replaced anyway.
_TO_QUOTE: Final = bytes(code for code in range(0x20) if code != 0x0A) + b'"\\'
# Where a piece of a line ends, with a newline and without, while many are quoted at once: code points that no decoded
# text has, and that quoting leaves alone. With them every character takes two bytes, so a DEL stands in for the first
# where the text has none.
_ENDED: Final = "\ud800"
_CUT: Final = "\ud801"
_DELETE: Final = "\x7f"


class JsonFileDriver:
    """See `orlop.interfaces.log.LogDriver`. The arguments hold for URIs without such options."""

    def __init__(self, max_size: str = "-1", max_file: int = 1, log: logging.Logger | None = None) -> None:
        self._defaults = {"max-size": max_size, "max-file": str(max_file)}
        self._log = log or logging.getLogger(__name__)

    @property
    def schemes(self) -> tuple[str, ...]:
        return ("json-file",)

    def shim_uri(self, uri: str) -> str | None:
        parts = urlsplit(uri)
        self._open_args(uri, dict(parse_qsl(parts.query, keep_blank_values=True)))
        return None

    def run(self, uri: str, options: Mapping[str, str], streams: LogStreams) -> None:
        file = RotatingFile(*self._open_args(uri, options), self._log)
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
    """A file that is appended to, and renamed to ``.1`` before it grows past *most* bytes (0: never).

    What there is no room for is dropped, and *log* is told how much that was.
    """

    def __init__(self, path: Path, most: int, files: int, log: logging.Logger) -> None:
        self._path = path
        self._most = most
        self._files = files
        self._losses = Losses(path, log, "entries")
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size
        self._appended = 0

    def write(self, entries: bytes) -> None:
        """Append entries, a line each, all of them or each whole in the current file or a new one."""
        before = self._appended
        try:
            if not self._most or self._size + len(entries) <= self._most:
                self._append(entries)
            else:
                for entry in entries.splitlines(keepends=True):
                    if self._size and self._size + len(entry) > self._most:
                        self._rotate()
                    self._append(entry)
        except OSError as error:
            lost = entries[self._appended - before :]
            self._losses.add(lost.count(b"\n"), len(lost), error.strerror or str(error))
        else:
            self._losses.tell()

    def close(self) -> None:
        """Close the file. May be called once."""
        self._losses.tell(now=True)
        os.close(self._fd)

    def _append(self, text: bytes) -> None:
        at = 0
        try:
            while at < len(text):
                at += os.write(self._fd, memoryview(text)[at:])
        except OSError:
            # Readers get whole entries, or none.
            part = at - (text.rfind(b"\n", 0, at) + 1)
            if part:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - part)
                at -= part
            raise
        finally:
            self._size += at
            self._appended += at

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def _rotate(self) -> None:
        if self._files == 1:
            os.ftruncate(self._fd, 0)
        else:
            # Not there: this was done before, and there was no room for a new one.
            if self._path.exists():
                self._shift()
            full, self._fd = self._fd, self._open()
            os.close(full)
        self._size = 0

    def _shift(self) -> None:
        for number in range(self._files - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
            if newer.exists():
                newer.replace(older)


def entries_of(stream: str, pieces: Pieces, nanoseconds: int) -> bytes:
    """The entries, a line each, of pieces of lines that were read at a time since the epoch."""
    # All at once, and not an entry at a time: there are a million of them in a second.
    raw = b"\n".join([*pieces.texts, b""])
    words = raw.decode(errors="replace")
    ended = _ENDED if pieces.unended or _DELETE in words else _DELETE
    if pieces.unended:
        texts = words.split("\n")[:-1]
        words = "".join(f"{text}{_CUT if index in pieces.unended else ended}" for index, text in enumerate(texts))
    else:
        words = words.replace("\n", ended)
    if len(raw.translate(None, _TO_QUOTE)) != len(raw):
        words = _quoted(words)[1:-1]
    begin = '{"log":"'
    rest = f'","stream":"{stream}","time":"{timestamp(nanoseconds)}"}}\n'
    words = words.replace(ended, f"\\n{rest}{begin}")
    if pieces.unended:
        words = words.replace(_CUT, f"{rest}{begin}")
    return f"{begin}{words}".removesuffix(begin).encode()


def parse_size(text: str) -> int:
    """Bytes of a size such as ``10m``; 0, which means no limit, for ``-1``. Raises `InvalidArgument`."""
    if text.strip() == "-1":
        return 0
    try:
        return size(text, 1, _MOST)
    except ValueError as error:
        raise InvalidArgument(f'max-size "{text}": write a size such as 500k, 10m or 1g, or -1 for none') from error


def _put(file: RotatingFile, stream: str, pieces: Pieces) -> None:
    file.write(entries_of(stream, pieces, time.time_ns()))


_: type[LogDriver] = JsonFileDriver
