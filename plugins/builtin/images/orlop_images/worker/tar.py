# SPDX-License-Identifier: Apache-2.0
"""Reads tar archives: v7, ustar, GNU and PAX, with everything image layers are seen to use.

Written for hostile input and for speed: one pass, no seeking, no copy of file contents, every length checked before it
is believed. Names are bytes, as file systems want them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from orlop_images.worker.fault import damaged, invalid, printable
from orlop_images.worker.stream import ByteStream

BLOCK: Final = 512
#: Most bytes of a long name or of the extended headers of one entry.
MOST_EXTENDED: Final = 1 << 20
MOST_SIZE: Final = (1 << 63) - 1
_MOST_EXTENSIONS: Final = 16
_ZEROS: Final = bytes(BLOCK)

# name, mode, uid, gid, size, mtime, checksum, type, link, magic and version, owner and group (not used), device, prefix
_HEADER: Final = Struct("100s8s8s8s12s12s8sc100s8s64x8s8s155s12x")
_CHECKSUM: Final = slice(148, 156)
_GNU: Final = b"ustar  \0"
_XATTR: Final = b"SCHILY.xattr."
_SECOND: Final = 1_000_000_000

FILE, DIRECTORY, SYMLINK, HARD_LINK, CHARACTER, BLOCK_DEVICE, FIFO = b"0", b"5", b"2", b"1", b"3", b"4", b"6"
_CONTIGUOUS, _GNU_SPARSE = b"7", b"S"
_GLOBAL, _EXTENDED, _LONG_NAME, _LONG_LINK = b"g", b"x", b"L", b"K"
_WITHOUT_DATA: Final = frozenset((DIRECTORY, SYMLINK, HARD_LINK, CHARACTER, BLOCK_DEVICE, FIFO))

Records = dict[bytes, bytes]


@dataclass(slots=True)
class Entry:
    """One member of an archive. Times are in nanoseconds since 1970."""

    kind: bytes
    name: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    size: int
    """Bytes of the file once unpacked."""
    stored: int
    """Bytes in the archive, less than that for sparse files."""
    mtime: int
    atime: int
    major: int = 0
    minor: int = 0
    xattrs: dict[str, bytes] | None = None
    sparse: list[tuple[int, int]] | None = None
    """Offsets and lengths of the parts that are stored, where there are holes."""


@dataclass(slots=True)
class _Pending:
    """What extension headers said of the entry that comes next."""

    records: Records = field(default_factory=dict)
    sparse_pairs: list[bytes] = field(default_factory=list)
    name: bytes | None = None
    link: bytes | None = None
    used: int = 0
    seen: int = 0


class TarReader:
    """Iterates over the entries of a stream. Take an entry's `stored` bytes from `stream`, or none, before the next."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._skip = 0

    def skip_data(self) -> None:
        """Pass over the current entry's data, if nothing of it was taken yet."""
        self.stream.skip(self._skip)
        self._skip = 0

    def next(self) -> Entry | None:
        """The next entry, or None at the end of the archive.

        The caller has consumed exactly the data of the one before; its padding is passed over here.
        """
        pending: _Pending | None = None
        while True:
            self.stream.skip(self._skip)
            self._skip = 0
            block = self.stream.take(BLOCK)
            if not block or block == _ZEROS:
                self._end(block, pending)
                return None
            fields = _HEADER.unpack(block)
            _verify(block, fields[6])
            kind = fields[7]
            if kind in b"gxLK":
                pending = self._extend(pending or _Pending(), kind, fields[4])
            else:
                entry = self._entry(block, fields, pending)
                self._skip = -entry.stored % BLOCK
                return entry

    def _end(self, block: bytes, pending: _Pending | None) -> None:
        if pending:
            raise damaged("layer: ends after an extension header")
        if block:
            second = self.stream.take(BLOCK)
            if second and second != _ZEROS:
                raise damaged("layer: tar header expected, found zeros and then something else")

    def _extend(self, pending: _Pending, kind: bytes, raw_size: bytes) -> _Pending:
        size = _number(raw_size, "size of an extension header")
        pending.used += size
        pending.seen += 1
        if pending.used > MOST_EXTENDED or pending.seen > _MOST_EXTENSIONS:
            raise invalid(f"layer: extension headers of more than {MOST_EXTENDED} bytes for one entry")
        data = self.stream.take(size)
        if len(data) < size:
            raise damaged("layer: ends in the middle of an extension header")
        self._skip = -size % BLOCK
        if kind == _LONG_NAME:
            pending.name = data.partition(b"\0")[0]
        elif kind == _LONG_LINK:
            pending.link = data.partition(b"\0")[0]
        elif kind == _EXTENDED:
            _read_records(data, pending)
        # A global header is about the archive itself (a commit id, say); as everywhere in layers it changes no entry.
        return pending

    def _entry(self, block: bytes, fields: tuple[bytes, ...], pending: _Pending | None) -> Entry:
        name, mode, uid, gid, size, mtime, _, kind, link, magic, major, minor, prefix = fields
        name = name.partition(b"\0")[0]
        if magic[:6] == b"ustar\0" and prefix[0]:
            name = prefix.partition(b"\0")[0] + b"/" + name
        if kind == b"\0":
            # Before ustar a directory was a file whose name ends in a slash.
            kind = DIRECTORY if name[-1:] == b"/" else FILE
        elif kind == _CONTIGUOUS:
            kind = FILE
        length = 0 if kind in _WITHOUT_DATA else _number(size, "size")
        seconds = _number(mtime, "time", negative=True) * _SECOND
        entry = Entry(
            kind,
            name,
            link.partition(b"\0")[0],
            _number(mode, "mode") & 0o7777,
            _number(uid, "owner"),
            _number(gid, "group"),
            length,
            length,
            seconds,
            seconds,
        )
        if kind in (CHARACTER, BLOCK_DEVICE):
            entry.major, entry.minor = _number(major, "device number"), _number(minor, "device number")
        if magic == _GNU and block[345]:
            entry.atime = max(seconds, _number(block[345:357], "time", negative=True) * _SECOND)
        if pending:
            _amend(entry, pending)
            self._sparse_records(entry, pending)
        if kind == _GNU_SPARSE:
            self._gnu_sparse(entry, block)
        if entry.sparse is not None:
            _check_sparse(entry)
        return entry

    def _gnu_sparse(self, entry: Entry, block: bytes) -> None:
        """The map of GNU's own sparse format: four parts in the header, 21 in each block that follows it."""
        entry.kind = FILE
        entry.size = _number(block[483:495], "size")
        parts: list[tuple[int, int]] = []
        area, count, more = block[386:482], 4, block[482]
        while True:
            for at in range(0, count * 24, 24):
                if area[at] == 0 and area[at : at + 24].strip(b"\0") == b"":
                    break
                parts.append((_number(area[at : at + 12], "offset"), _number(area[at + 12 : at + 24], "length")))
            if not more:
                break
            if len(parts) * 24 > MOST_EXTENDED:
                raise invalid(f'layer: "{printable(entry.name)}": too many parts in a sparse file')
            following = self.stream.take(BLOCK)
            if not following:
                raise damaged("layer: ends in the middle of a sparse file's map")
            area, count, more = following[:504], 21, following[504]
        entry.sparse = parts

    def _sparse_records(self, entry: Entry, pending: _Pending) -> None:
        """The maps of the three sparse formats within PAX headers."""
        records = pending.records
        if entry.kind != FILE or not any(key.startswith(b"GNU.sparse.") for key in records):
            return
        numbers: list[bytes]
        if records.get(b"GNU.sparse.major") == b"1" and records.get(b"GNU.sparse.minor", b"0") == b"0":
            numbers = self._stored_map(entry)
        elif b"GNU.sparse.map" in records:
            numbers = records[b"GNU.sparse.map"].split(b",") if records[b"GNU.sparse.map"] else []
        elif pending.sparse_pairs or b"GNU.sparse.numblocks" in records:
            numbers = pending.sparse_pairs
        else:
            return
        values = [_decimal(number, "map of a sparse file") for number in numbers]
        if len(values) % 2:
            raise damaged(f'layer: "{printable(entry.name)}": odd map of a sparse file')
        entry.sparse = list(zip(values[::2], values[1::2], strict=True))
        size = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
        if size is not None:
            entry.size = _decimal(size, "size")
        entry.name = records.get(b"GNU.sparse.name", entry.name)

    def _stored_map(self, entry: Entry) -> list[bytes]:
        """The map that leads the data, in lines of decimal numbers: their count, then offsets and lengths."""
        text = b""
        wanted = 1
        while True:
            lines = text.split(b"\n")
            if len(lines) > 1 and wanted == 1:
                wanted = 1 + 2 * _decimal(lines[0], "map of a sparse file")
            if len(lines) > wanted:
                return lines[1:wanted]
            if len(text) >= min(MOST_EXTENDED, entry.stored):
                raise damaged(f'layer: "{printable(entry.name)}": map of a sparse file does not end')
            block = self.stream.take(BLOCK)
            if not block:
                raise damaged("layer: ends in the middle of a sparse file's map")
            text += block
            entry.stored -= BLOCK


def _verify(block: bytes, stored: bytes) -> None:
    """Compare the checksum: the sum of all bytes with its own field as spaces. Old ones summed signed bytes."""
    wanted = _number(stored, "checksum")
    total = sum(block) - sum(block[_CHECKSUM]) + 256
    if total != wanted:
        others = block[:148] + block[156:]
        if sum(byte - 256 if byte > 127 else byte for byte in others) + 256 != wanted:
            raise damaged("layer: tar header has a wrong checksum")


def _number(raw: bytes, what: str, negative: bool = False) -> int:
    """A header's number: octal digits, or binary where the first bit is set (GNU)."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big", signed=False) & ((1 << (8 * len(raw) - 1)) - 1)
        if raw[0] & 0x40:
            value -= 1 << (8 * len(raw) - 1)
    else:
        text = raw.strip(b" \0")
        if not text:
            return 0
        if not text.isdigit():
            text = text.partition(b"\0")[0].strip()
        try:
            value = int(text, 8) if text.isdigit() else -1
        except ValueError:
            value = -1
        if value < 0:
            raise damaged(f"layer: tar header has a {what} that is no number")
    if value > MOST_SIZE or (value < 0 and not negative):
        raise damaged(f"layer: tar header has a {what} out of range")
    return value


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) > MOST_SIZE:
        raise damaged(f"layer: extended header has a {what} that is no number")
    return int(text)


def _read_records(data: bytes, pending: _Pending) -> None:
    """Lines of ``length key=value``, where the length counts itself. An empty value takes a record back."""
    at, records = 0, pending.records
    while at < len(data):
        if data[at] == 0 and not data[at:].strip(b"\0"):
            return  # some writers pad
        space = data.find(b" ", at, at + 20)
        digits = data[at:space]
        if space < 0 or not digits.isdigit():
            raise damaged("layer: extended header is malformed")
        end = at + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space + 1 or data[end - 1] != 10 or not equals or not key:
            raise damaged("layer: extended header is malformed")
        at = end
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            pending.sparse_pairs.append(value)
        records[key] = value


def _amend(entry: Entry, pending: _Pending) -> None:
    """Let extension headers replace what the plain one said."""
    if pending.name is not None:
        entry.name = pending.name
    if pending.link is not None:
        entry.link = pending.link
    records = pending.records
    if not records:
        return
    for key, value in records.items():
        if key.startswith(_XATTR):
            if entry.xattrs is None:
                entry.xattrs = {}
            entry.xattrs[key[len(_XATTR) :].decode(errors="surrogateescape")] = value
    entry.name = records.get(b"path") or entry.name
    entry.link = records.get(b"linkpath") or entry.link
    if b"\0" in entry.name or b"\0" in entry.link:
        raise invalid("layer: name with a zero byte")
    _amend_numbers(entry, records)


def _amend_numbers(entry: Entry, records: Records) -> None:
    if uid := records.get(b"uid"):
        entry.uid = _decimal(uid, "owner")
    if gid := records.get(b"gid"):
        entry.gid = _decimal(gid, "group")
    if (size := records.get(b"size")) and entry.kind not in _WITHOUT_DATA:
        entry.size = entry.stored = _decimal(size, "size")
    if mtime := records.get(b"mtime"):
        entry.mtime = entry.atime = _time(mtime)
    if atime := records.get(b"atime"):
        entry.atime = max(entry.mtime, _time(atime))


def _time(text: bytes) -> int:
    """Nanoseconds from decimal seconds with a fraction."""
    whole, _, fraction = text.partition(b".")
    digits = whole.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 18 or (fraction and not fraction.isdigit()):
        raise damaged("layer: extended header has a time that is no number")
    value = int(digits) * _SECOND + int(fraction[:9].ljust(9, b"0") or 0)
    return -value if whole.startswith(b"-") else value


def _check_sparse(entry: Entry) -> None:
    """The parts ascend, lie within the file, and are together what is stored."""
    end = total = 0
    for offset, length in entry.sparse or ():
        if offset < end or offset + length > entry.size:
            raise damaged(f'layer: "{printable(entry.name)}": map of a sparse file is out of order')
        end = offset + length
        total += length
    if total != entry.stored:
        raise damaged(f'layer: "{printable(entry.name)}": map of a sparse file does not fit its data')
