# SPDX-License-Identifier: Apache-2.0
"""Read a tar archive piece by piece from anywhere, decompressing it on the way, without ever blocking the loop.

::

    async with ArchiveReader(Path("image.tar.gz")) as archive:
        async for entry in archive:
            print(entry.name, entry.size)
            async for chunk in entry.chunks(): ...

Nothing is extracted: names and links are only looked at, so that none of them can lead anywhere.
"""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast

from orlop.blocking import Pool
from orlop.errors import DataLoss, InvalidArgument, ResourceExhausted, Unimplemented

#: The most entries an archive may have.
ENTRY_LIMIT: Final = 200_000
_CHUNK: Final = 1 << 20
_SNIFFED: Final = 8

#: Where an archive comes from: a path, something with a blocking ``read``, or a stream of bytes.
ArchiveSource = Path | str | BinaryIO | AsyncIterable[bytes]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. ``name`` and ``link`` are normalised: no ``.``, no ``..``, no slash in front."""

    name: str
    size: int
    link: str
    """The entry that this one is a link to; empty for none."""
    is_file: bool
    _reader: ArchiveReader
    _member: tarfile.TarInfo

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Its bytes; only until the next entry is asked for."""
        file = self._reader.extract(self._member)
        remaining = self.size
        while remaining:
            data = await self._reader.run(file.read, min(_CHUNK, remaining))
            if not data:
                raise DataLoss(f'archive entry "{self.name}": ends early, {remaining} bytes are missing')
            remaining -= len(data)
            yield data

    async def read(self, limit: int) -> bytes:
        """All of it. Raises `ResourceExhausted` when that is more than *limit* bytes."""
        if self.size > limit:
            raise ResourceExhausted(f'archive entry "{self.name}": {self.size} bytes, the most is {limit}')
        return b"".join([data async for data in self.chunks()])


class ArchiveReader:
    """Iterates once over the entries of an archive. Use it in ``async with``."""

    def __init__(self, source: ArchiveSource) -> None:
        self._source = source
        # One thread: a tar stream has one position.
        self._pool = Pool("archive", 1)
        self._file: BinaryIO | None = None
        self._tar: tarfile.TarFile | None = None

    async def __aenter__(self) -> Self:
        try:
            source = self._source
            if isinstance(source, Path | str):
                self._file = await self._pool.run(Path(source).open, "rb")
                raw: Any = self._file
            elif isinstance(source, AsyncIterable):
                raw = _Bridge(aiter(source), asyncio.get_running_loop())
            else:
                raw = source
            self._tar = await self.run(_open_tar, raw)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._file is not None:
                await self._pool.run(self._file.close)
        finally:
            self._pool.close()

    async def __aiter__(self) -> AsyncIterator[Entry]:
        assert self._tar is not None  # entered
        count = 0
        while (member := await self.run(self._tar.next)) is not None:
            count += 1
            if count > ENTRY_LIMIT:
                raise ResourceExhausted(f"archive: more than {ENTRY_LIMIT} entries")
            # tarfile keeps all entries it has seen, which a stream has no use for.
            self._tar.members = []  # type: ignore[attr-defined]  # typeshed lacks it
            yield self._entry(member)

    def _entry(self, member: tarfile.TarInfo) -> Entry:
        name = normal_name(member.name)
        link = ""
        if member.issym():
            base = name.rpartition("/")[0]
            link = normal_name(member.linkname if member.linkname.startswith("/") else f"{base}/{member.linkname}")
        elif member.islnk():
            link = normal_name(member.linkname)
        return Entry(name, member.size if member.isreg() else 0, link, member.isreg(), self, member)

    def extract(self, member: tarfile.TarInfo) -> BinaryIO:
        """A file object for the bytes of an entry."""
        assert self._tar is not None  # entered
        file = self._tar.extractfile(member)
        if file is None:
            raise InvalidArgument(f'archive entry "{member.name}": not a file')
        return cast("BinaryIO", file)

    async def run(self, function: Any, *args: Any) -> Any:
        """Call something blocking on the archive's thread; what is wrong with the archive is `DataLoss`."""
        try:
            return await self._pool.run(function, *args)
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, lzma.LZMAError, _codec_error()) as error:
            raise DataLoss(f"archive: damaged: {error}") from error
        except UnicodeError as error:
            raise InvalidArgument(f"archive: a name in it is no text: {error}") from error


def normal_name(name: str) -> str:
    """A name without ``.`` and ``//``. Raises `InvalidArgument` for one that climbs above the archive's top."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if not parts:
                raise InvalidArgument(f'archive entry "{name[:200]}": leads out of the archive; refused')
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def _open_tar(raw: Any) -> tarfile.TarFile:
    buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(_Raw(raw), _CHUNK)
    plain = _decompressed(buffered, buffered.peek(_SNIFFED)[:_SNIFFED])
    return tarfile.open(fileobj=plain, mode="r|", bufsize=_CHUNK, errorlevel=2)


def _decompressed(file: io.BufferedReader, head: bytes) -> Any:
    if head.startswith(b"\x1f\x8b\x08"):
        return _gzip(file)
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return _zstd(file)
    if head.startswith(b"BZh"):
        return bz2.open(file)
    if head.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(file)
    return file


def _gzip(file: io.BufferedReader) -> Any:
    try:
        from isal import igzip
    except ImportError:
        return gzip.open(file)
    return igzip.IGzipFile(fileobj=file)  # type: ignore[no-untyped-call]  # ships no types


def _zstd(file: io.BufferedReader) -> Any:
    try:
        from backports import zstd
    except ImportError:
        raise Unimplemented("archive: compressed with zstd; install backports.zstd to read it") from None
    return zstd.open(file)


def _codec_error() -> type[Exception]:
    """What the decompressors that happen to be installed raise."""
    try:
        from backports import zstd
    except ImportError:
        return EOFError
    return zstd.ZstdError


class _Raw(io.RawIOBase):
    """A raw stream over anything with a ``read``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Bridge(io.RawIOBase):
    """A blocking stream over an async one, for a thread that is not the loop's."""

    def __init__(self, source: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._loop = loop
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Some bytes, *size* at most; empty at the end."""
        while not self._rest:
            data = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
            if data is None:
                return b""
            self._rest = memoryview(data)
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)

    async def _next(self) -> bytes | None:
        return await anext(self._source, None)
