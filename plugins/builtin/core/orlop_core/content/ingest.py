# SPDX-License-Identifier: Apache-2.0
"""One ingest on disk: the directory of a blob that is being written.

**On disk**: ``ingest/<sha256 of the ref>/`` with ``ref``, ``data``, ``startedat``, ``updatedat`` and, where it is
known, ``total``: containerd's own layout, so that either daemon resumes what the other began. Every function blocks.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from orlop.errors import FailedPrecondition, ResourceExhausted, Unknown
from orlop.values import EPOCH, IngestStatus, now
from orlop_sdk import digest as digests

_CHUNK: Final = 1 << 20
_REMEDIES: Final = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space",
    errno.EMFILE: "end calls that hold files, or raise the daemon's limit of them (LimitNOFILE)",
    errno.ENFILE: "raise the host's limit of open files (fs.file-max)",
}


Chunk = bytes | bytearray | memoryview


def update(hashed: hashlib._Hash, chunks: Sequence[Chunk]) -> None:
    """Hash chunks, in order."""
    for chunk in chunks:
        hashed.update(chunk)


def directory_name(ref: str) -> str:
    """Name of the directory for a ref."""
    return hashlib.sha256(ref.encode()).hexdigest()


def read_status(path: Path) -> IngestStatus | None:
    """The ingest in a directory as it lies there, or None if it is none (a crash left it without its ref)."""
    try:
        ref = (path / "ref").read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not ref or path.name != directory_name(ref):
        return None
    try:
        stat = (path / "data").stat()
        offset, written = stat.st_size, datetime.fromtimestamp(stat.st_mtime, EPOCH.tzinfo)
    except FileNotFoundError:
        offset, written = 0, EPOCH
    started = _read_time(path / "startedat") or written
    return IngestStatus(
        ref=ref,
        offset=offset,
        total=_read_total(path / "total"),
        started_at=started,
        updated_at=_read_time(path / "updatedat") or written,
    )


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn what the file system refuses into an error of ours."""
    try:
        yield
    except OSError as error:
        if (remedy := _REMEDIES.get(error.errno or 0)) is not None:
            raise ResourceExhausted(f"{what}: {error.strerror}; {remedy}") from error
        raise Unknown(f"{what}: {error}") from error


class Ingest:
    """An open ingest: its data file and the hash of what is in it."""

    def __init__(self, path: Path, ref: str, *, total: int, algorithm: str) -> None:
        self.path: Final = path
        self.ref: Final = ref
        self.algorithm: Final = algorithm
        self.total = total
        self.offset = 0
        self.started_at = self.updated_at = now()
        self.hash = hashlib.new(algorithm)
        self._lock = threading.Lock()
        self._fd = -1

    def open(self) -> Ingest:
        """Make the directory, or take up what is there: its data is hashed again."""
        found = read_status(self.path)
        if found is not None and self.total and found.total and self.total != found.total:
            found = None  # not what was begun here, as containerd sees it
        if found is None:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(mode=0o755)
            self._write_time("startedat", self.started_at)
            # The ref comes last, at once and whole: without it the directory does not count as an ingest.
            temporary = self.path / ".ref"
            temporary.write_text(self.ref)
            temporary.replace(self.path / "ref")
            if self.total > 0:
                (self.path / "total").write_text(str(self.total))
        else:
            self.started_at, self.updated_at, self.total = found.started_at, found.updated_at, found.total
        self._fd = os.open(self.path / "data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if found is not None:
            self.hash, self.offset = self._rehash(self.algorithm)
        return self

    def append(self, chunks: Sequence[Chunk]) -> None:
        """Write and hash chunks, in order."""
        self.write(chunks)
        update(self.hash, chunks)

    def write(self, chunks: Sequence[Chunk]) -> None:
        """Write chunks, in order, and leave it to the caller to hash them. What fails half-way does not count."""
        with self._lock:
            self._check()
            offset = self.offset
            for chunk in chunks:
                view = memoryview(chunk).cast("B")
                done = 0
                while done < len(view):
                    done += os.pwrite(self._fd, view[done:], offset + done)
                offset += len(view)
            self.offset = offset
            self.updated_at = now()

    def clear(self) -> None:
        """Start over."""
        with self._lock:
            self._check()
            os.ftruncate(self._fd, 0)
            self.offset = 0
            self.hash = hashlib.new(self.algorithm)
            self.updated_at = now()

    def finish(self, size: int, expected: str) -> str:
        """Check the data, make it durable and close the file. Returns the digest; raises `FailedPrecondition`."""
        with self._lock:
            self._check()
            try:
                if size and size != self.offset:
                    raise FailedPrecondition(
                        f'ingest "{self.ref}": size is {self.offset} bytes, not the {size} expected'
                    )
                algorithm = digests.parse(expected)[0] if expected else self.algorithm
                hashed = self.hash if algorithm == self.algorithm else self._rehash(algorithm, self.offset)[0]
                digest = f"{algorithm}:{hashed.hexdigest()}"
                if expected and digest != expected:
                    raise FailedPrecondition(f'ingest "{self.ref}": digest is {digest}, not the {expected} expected')
                if os.fstat(self._fd).st_size != self.offset:
                    os.ftruncate(self._fd, self.offset)  # the rest of a write that failed
                os.fchmod(self._fd, 0o444)
                os.fsync(self._fd)
            except BaseException:
                self._close()
                raise
            fd, self._fd = self._fd, -1
            os.close(fd)
        return digest

    def close(self) -> None:
        """Keep what is written for another time."""
        with self._lock:
            if self._fd >= 0:
                self._close()

    def remove(self) -> None:
        """Drop the directory with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        try:
            self._write_time("updatedat", self.updated_at)
        except FileNotFoundError:
            pass  # the ingest was aborted while it was open
        finally:
            os.close(fd)

    def _check(self) -> None:
        if self._fd < 0:
            raise FailedPrecondition(f'ingest "{self.ref}": writer is closed; open the ref again')

    def _rehash(self, algorithm: str, size: int | None = None) -> tuple[hashlib._Hash, int]:
        hashed, offset = hashlib.new(algorithm), 0
        while chunk := os.pread(self._fd, _CHUNK if size is None else min(_CHUNK, size - offset), offset):
            hashed.update(chunk)
            offset += len(chunk)
        return hashed, offset

    def _write_time(self, name: str, time: datetime) -> None:
        (self.path / name).write_text(time.isoformat().replace("+00:00", "Z"))


def _read_time(path: Path) -> datetime | None:
    try:
        return datetime.fromisoformat(path.read_text().strip())
    except (FileNotFoundError, ValueError):
        return None  # a crash may leave it missing or empty; the data's own time stands in


def _read_total(path: Path) -> int:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0
