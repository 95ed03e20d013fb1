# SPDX-License-Identifier: Apache-2.0
"""Making renames durable, with one fsync for all that wait."""

from __future__ import annotations

import os
import threading
from pathlib import Path


class DirectorySync:
    """Syncs one directory for many threads.

    A call returns after an fsync that *started* after the call did, so whatever the caller renamed before is on disk.
    Callers that arrive while one fsync runs share the next.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._started = 0
        self._finished = 0
        self._failure: dict[int, OSError] = {}

    def sync(self) -> None:
        """Return once the directory's entries of this moment are durable. Raises `OSError`."""
        with self._changed:
            needed = self._started + 1
            while self._started > self._finished and self._finished < needed:
                self._changed.wait()
            if self._finished >= needed:
                self._raise(needed)
                return
            self._started += 1
            turn = self._started
        failure: OSError | None = None
        try:
            fsync_directory(self._path)
        except OSError as error:
            failure = error
        with self._changed:
            self._finished = turn
            # Late sleepers may still ask about the turn before this one, nobody about older ones.
            self._failure = {number: kept for number, kept in self._failure.items() if number >= turn - 1}
            if failure is not None:
                self._failure[turn] = failure
            self._changed.notify_all()
        if failure is not None:
            raise failure

    def _raise(self, needed: int) -> None:
        for number in range(needed, self._finished + 1):
            if number in self._failure:
                raise self._failure[number]


def fsync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
