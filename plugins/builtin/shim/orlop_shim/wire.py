# SPDX-License-Identifier: Apache-2.0
"""A small protobuf codec, driven by tables: messages are dictionaries, and a `Schema` knows their fields.

::

    POINT = Schema(x=(1, UINT), name=(2, TEXT), tags=(3, many(TEXT)))
    POINT.decode(POINT.encode(x=3))  # {"x": 3, "name": "", "tags": []}

Decoding gives every field of the schema its value or its default and skips fields that the schema lacks; absent
messages are None. Encoding leaves defaults out, as proto3 does. Packed and unpacked numbers are both understood.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from orlop_sdk.hints import Any, Final

Values = dict[str, Any]

_VARINT: Final = 0
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_MASK64: Final = (1 << 64) - 1
_DOUBLE: Final = struct.Struct("<d")


class WireError(ValueError):
    """The bytes are no message of that schema."""


class Kind:
    """How values of a field travel."""

    __slots__ = ("default", "load", "packable", "repeated", "save", "wire")

    def __init__(
        self,
        wire: int,
        default: Any,
        load: Callable[[Any], Any],
        save: Callable[[Any], bytes],
        repeated: bool = False,
        packable: bool = False,
    ) -> None:
        self.wire = wire
        self.default = default
        self.load = load
        self.save = save
        self.repeated = repeated
        self.packable = packable


def varint(value: int) -> bytes:
    """The bytes of a number; negative ones take ten."""
    value &= _MASK64
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at an offset, and the offset behind it. Raises `WireError` where it does not end."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise WireError("a number does not end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK64, at
        shift += 7


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise WireError("a text is not UTF-8") from error


def _signed(bits: int) -> Callable[[int], int]:
    def load(value: int) -> int:
        value &= (1 << bits) - 1
        return value - (1 << bits) if value >> (bits - 1) else value

    return load


UINT: Final = Kind(_VARINT, 0, int, varint, packable=True)
UINT32: Final = Kind(_VARINT, 0, lambda value: value & 0xFFFFFFFF, varint, packable=True)
INT: Final = Kind(_VARINT, 0, _signed(64), varint, packable=True)
INT32: Final = Kind(_VARINT, 0, _signed(32), varint, packable=True)
BOOL: Final = Kind(_VARINT, False, bool, varint)
DOUBLE: Final = Kind(_FIXED64, 0.0, lambda data: _DOUBLE.unpack(data)[0], _DOUBLE.pack)
TEXT: Final = Kind(_BYTES, "", _text, lambda text: _sized(text.encode()))
BYTES: Final = Kind(_BYTES, b"", bytes, _sized)


def many(kind: Kind) -> Kind:
    """A repeated field."""
    return Kind(kind.wire, None, kind.load, kind.save, repeated=True, packable=kind.packable)


def message(schema: Schema) -> Kind:
    """A field that holds a message: None when absent."""
    return Kind(_BYTES, None, schema.decode, lambda values: _sized(schema.encode(**values)))


class Schema:
    """The fields of a message: ``name=(number, kind)``."""

    __slots__ = ("_by_number", "_fields")

    def __init__(self, **fields: tuple[int, Kind]) -> None:
        self._fields = fields
        self._by_number = {number: (name, kind) for name, (number, kind) in fields.items()}

    def encode(self, **values: Any) -> bytes:
        """The bytes of a message. Raises KeyError for a field that the schema lacks."""
        out = []
        for name, value in values.items():
            number, kind = self._fields[name]
            if kind.repeated:
                out.append(_repeated(number, kind, value))
            elif value is not None and value != kind.default:
                out.append(varint(number << 3 | kind.wire) + kind.save(value))
        return b"".join(out)

    def decode(self, data: bytes) -> Values:
        """The values in a message. Raises `WireError` for what is none."""
        values: Values = {name: [] if kind.repeated else kind.default for name, (_, kind) in self._fields.items()}
        at = 0
        while at < len(data):
            tag, at = read_varint(data, at)
            raw, at = _read(data, at, tag & 7)
            if not 0 < tag >> 3 < 1 << 29:
                raise WireError(f"no field has the number {tag >> 3}")
            found = self._by_number.get(tag >> 3)
            if found is None:
                continue
            name, kind = found
            if tag & 7 != kind.wire:
                if kind.repeated and kind.packable and tag & 7 == _BYTES:
                    values[name] += _unpack(kind, raw)
                continue
            if kind.repeated:
                values[name].append(kind.load(raw))
            else:
                values[name] = kind.load(raw)
        return values


def _repeated(number: int, kind: Kind, items: Any) -> bytes:
    if kind.packable and items:
        return varint(number << 3 | _BYTES) + _sized(b"".join(map(kind.save, items)))
    tag = varint(number << 3 | kind.wire)
    return b"".join(tag + kind.save(item) for item in items)


def _unpack(kind: Kind, raw: bytes) -> list[Any]:
    items = []
    at = 0
    while at < len(raw):
        value, at = read_varint(raw, at)
        items.append(kind.load(value))
    return items


def _read(data: bytes, at: int, wire: int) -> tuple[Any, int]:
    if wire == _VARINT:
        return read_varint(data, at)
    if wire == _BYTES:
        size, at = read_varint(data, at)
    elif wire in (_FIXED64, _FIXED32):
        size = 8 if wire == _FIXED64 else 4
    else:
        raise WireError(f"there is no wire type {wire}")
    if at + size > len(data):
        raise WireError("the message is cut off")
    return data[at : at + size], at + size


def text_map() -> Kind:
    """A ``map<string, string>``, as a list of `ENTRY` messages."""
    return many(message(ENTRY))


ENTRY: Final = Schema(key=(1, TEXT), value=(2, TEXT))


def to_entries(pairs: Mapping[str, str]) -> list[Values]:
    """A dictionary as `text_map` holds it."""
    return [{"key": key, "value": value} for key, value in pairs.items()]


def from_entries(entries: list[Values]) -> dict[str, str]:
    """What `to_entries` took."""
    return {entry["key"]: entry["value"] for entry in entries}
