# SPDX-License-Identifier: Apache-2.0
"""From a source to its uncompressed bytes: inflating, hashing and consuming overlap in threads.

All three let go of the interpreter's lock for their real work (isal, zlib, zstd, hashlib, system calls), so threads
use as many cores as processes would, without copying a layer between them.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import Queue
from typing import BinaryIO, Final, Protocol

from orlop_images.worker.fault import FULL, Fault, damaged

#: Bytes per step. Larger ones fall out of the processor's cache between inflating, hashing and writing.
CHUNK: Final = 1 << 18
_AHEAD: Final = 16


class Readable(Protocol):
    """All that is asked of a codec's result."""

    def read(self, size: int, /) -> bytes:
        """At most *size* bytes; empty at the end."""
        ...


def load_codecs(names: Sequence[str]) -> list[Callable[[BinaryIO], BinaryIO]]:
    """Import ``module:function`` names."""
    functions = []
    for name in names:
        module, _, attribute = name.partition(":")
        functions.append(getattr(importlib.import_module(module), attribute))
    return functions


def decode(fd: int, codecs: Sequence[Callable[[BinaryIO], BinaryIO]]) -> Readable:
    """The uncompressed form of what *fd* reads."""
    reader: BinaryIO = io.FileIO(fd, closefd=False)
    for codec in codecs:
        reader = codec(reader)
    return reader


class Pipeline:
    """Reads ahead in one thread and hashes in another, while the owner consumes with `next_chunk`."""

    def __init__(self, source: Readable, limit: int = 0) -> None:
        self._source = source
        self._limit = limit
        self._hash = hashlib.sha256()
        self._chunks: Queue[bytes | BaseException] = Queue(_AHEAD)
        self._hashed: Queue[bytes] = Queue(_AHEAD)
        self.size = 0
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._digest, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def next_chunk(self) -> bytes:
        """The next bytes; empty at the end. Raises what reading raised."""
        chunk = self._chunks.get()
        if isinstance(chunk, bytes):
            return chunk
        raise chunk

    def drain(self) -> None:
        """Read what is left, which counts and is hashed like the rest."""
        while self.next_chunk():
            continue

    def digest(self) -> str:
        """Of everything, once `next_chunk` has returned empty."""
        for thread in self._threads:
            thread.join()
        return f"sha256:{self._hash.hexdigest()}"

    def _read(self) -> None:
        read, chunks, hashed = self._source.read, self._chunks.put, self._hashed.put
        try:
            while chunk := read(CHUNK):
                self.size += len(chunk)
                if self._limit and self.size > self._limit:
                    raise Fault(FULL, f"layer: more than {self._limit} bytes uncompressed; raise max_layer_size")
                hashed(chunk)
                chunks(chunk)
            hashed(b"")
            chunks(b"")
        except BaseException as error:  # noqa: BLE001  # the consumer raises it
            chunks(error)

    def _digest(self) -> None:
        update = self._hash.update
        while chunk := self._hashed.get():
            update(chunk)


class ByteStream:
    """Chunks as one stream that is read in exact amounts."""

    def __init__(self, next_chunk: Callable[[], bytes]) -> None:
        self._next_chunk = next_chunk
        self._chunk = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """Exactly *size* bytes, or none at the very end. Raises a fault when it ends in between."""
        end = self._at + size
        if end <= len(self._chunk):
            data = self._chunk[self._at : end]
            self._at = end
            return data
        parts = [bytes(piece) for piece in self._pieces(size)]
        data = b"".join(parts)
        if data and len(data) < size:
            raise damaged("layer: ends in the middle of an entry")
        return data

    def pieces(self, size: int) -> Iterator[memoryview]:
        """Exactly *size* bytes in pieces. Raises a fault when there are fewer."""
        left = size
        for piece in self._pieces(size):
            left -= len(piece)
            yield piece
        if left:
            raise damaged("layer: ends in the middle of a file")

    def skip(self, size: int) -> None:
        """Pass over exactly *size* bytes."""
        end = self._at + size
        if end <= len(self._chunk):
            self._at = end
            return
        for _ in self.pieces(size):
            continue

    def _pieces(self, size: int) -> Iterator[memoryview]:
        while size:
            left = len(self._chunk) - self._at
            if not left:
                self._chunk, self._at = self._next_chunk(), 0
                left = len(self._chunk)
                if not left:
                    return
            step = min(left, size)
            start = self._at
            self._at += step
            size -= step
            yield memoryview(self._chunk)[start : start + step]
