# SPDX-License-Identifier: Apache-2.0
"""Writes a layer as a PAX archive, hashed and compressed on the way."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tarfile
from typing import Any, Final

_TYPES: Final = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}
_XATTR: Final = "SCHILY.xattr."
_FLUSH: Final = 1 << 18


class TarWriter:
    """Takes headers and data in the order of the archive, and sends the compressed stream to a descriptor.

    Names and attributes are bytes of any kind; where they are not UTF-8 the archive says so (``hdrcharset=BINARY``).
    """

    def __init__(self, fd: int, compression: str) -> None:
        self._fd = fd
        self._compressor = compressor(compression)
        self._hash = hashlib.sha256()
        self._pending: list[bytes] = []
        self._held = 0
        self.size = 0

    def header(
        self,
        name: bytes,
        status: os.stat_result,
        mtime: int,
        *,
        target: bytes = b"",
        hard: bool = False,
        xattrs: dict[str, bytes] | None = None,
    ) -> None:
        """Begin an entry. Owners are numbers only: names would be the host's."""
        info = tarfile.TarInfo(os.fsdecode(name))
        kind = stat.S_IFMT(status.st_mode)
        info.type = tarfile.LNKTYPE if hard else _TYPES[kind]
        info.mode, info.uid, info.gid, info.mtime = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, mtime
        info.linkname = os.fsdecode(target)
        if kind == stat.S_IFREG and not hard:
            info.size = status.st_size
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        info.pax_headers = {
            f"{_XATTR}{key}": value.decode(errors="surrogateescape") for key, value in (xattrs or {}).items()
        }
        self.data(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def whiteout(self, name: bytes) -> None:
        """Say that a name is gone; always at the time 0."""
        info = tarfile.TarInfo(os.fsdecode(name))
        info.mode = 0
        self.data(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def data(self, data: bytes) -> None:
        """Bytes of the archive."""
        self._pending.append(data)
        self._held += len(data)
        if self._held >= _FLUSH:
            self._flush()

    def pad(self, size: int) -> None:
        """End a file's data of that size."""
        self.data(bytes(-size % tarfile.BLOCKSIZE))

    def finish(self) -> str:
        """End the archive. Returns the digest of its uncompressed form."""
        self.data(bytes(2 * tarfile.BLOCKSIZE))
        self._flush()
        if self._compressor is not None:
            self._send(self._compressor.flush())
        return f"sha256:{self._hash.hexdigest()}"

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._pending.clear()
        self._held = 0
        self._hash.update(data)
        self.size += len(data)
        self._send(data if self._compressor is None else self._compressor.compress(data))

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


def compressor(kind: str) -> Any:
    """An object with ``compress`` and ``flush``, or None for no compression."""
    if kind == "gzip":
        try:
            from isal import isal_zlib
        except ImportError:
            import zlib

            return zlib.compressobj(6, zlib.DEFLATED, 31)
        return isal_zlib.compressobj(isal_zlib.ISAL_BEST_COMPRESSION, isal_zlib.DEFLATED, 31)
    if kind == "zstd":
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        return zstd.ZstdCompressor()
    return None
