# SPDX-License-Identifier: Apache-2.0
"""Options of log URIs, under the names and in the spelling of Docker's log drivers."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal, TypeVar

from pydantic import AfterValidator, ValidationError, field_validator

from orlop.errors import InvalidArgument
from orlop.interfaces.log import LogStreams
from orlop.plugin import PluginConfig

_Model = TypeVar("_Model", bound=PluginConfig)

_SIZE: Final = re.compile(r"(\d+)\s*([kmg]?)i?b?", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_MARK: Final = re.compile(r"\{\{\s*(.*?)\s*\}\}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
# As many characters of a long id as Docker shows.
_SHORT: Final = 12
_MARKS: Final = (".FullID", ".ID", ".ImageName", ".Name", ".Namespace")


def given(defaults: _Model, uri: str, options: Mapping[str, str]) -> _Model:
    """The options of a URI, and the plugin's own settings for those that it does not have.

    An option is a field of the model, with ``-`` for ``_``. Raises `InvalidArgument`, which names the URI.
    """
    fields = type(defaults).model_fields
    known = {name.replace("_", "-"): name for name in fields}
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise InvalidArgument(f'log URI "{uri}": no option "{unknown[0]}"; there are {", ".join(sorted(known))}')
    values = {name: getattr(defaults, name) for name in fields}
    values |= {known[option]: text for option, text in options.items()}
    try:
        return type(defaults).model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-") if first["loc"] else ""
        words = first["msg"].removeprefix("Value error, ")
        raise InvalidArgument(f'log URI "{uri}": {f"{option}: " if option else ""}{words}') from error


#: The least and the most that may wait for a receiver, and the shortest limit of a line, in bytes.
_BUFFER: Final = (64 << 10, 1 << 30)
_LINE: Final = 1 << 10


def size(text: str, least: int, most: int) -> int:
    """Bytes of a size such as ``10m``. Raises ValueError, for use in models."""
    match = _SIZE.fullmatch(text.strip())
    number = int(match[1]) * _UNITS[match[2].lower()] if match else -1
    if not least <= number <= most:
        raise ValueError(f'"{text}" must be a size from {least} to {most} bytes, such as 64k or 1m')
    return number


def checked_tag(text: str) -> str:
    """The template of a tag. Raises ValueError, for use in models."""
    unknown = [mark for mark in _MARK.findall(text) if mark not in _MARKS]
    if unknown:
        marks = ", ".join(f"{{{{{mark}}}}}" for mark in _MARKS)
        raise ValueError(f'there is no "{{{{{unknown[0]}}}}}" in "{text}"; there are {marks}')
    return text


class RelayConfig(PluginConfig):
    """What drivers that send to a receiver (`orlop_sdk.logs.relay`) have in common; a subclass adds where to.

    It holds for URIs that say nothing themselves. Their options have the same names, with ``-`` for ``_``.
    """

    longest_line: ClassVar[int] = 64 << 20
    """The most that `max_line_size` may be, in bytes: what the receiver takes."""

    tag: Annotated[str, AfterValidator(checked_tag)] = "{{.ID}}"
    """Name of the container for the receiver."""
    mode: Literal["non-blocking", "blocking"] = "non-blocking"
    """What happens when the buffer is full: drop, or wait for a receiver that takes something."""
    max_buffer_size: str = "4m"
    """How much may wait for the receiver; k, m and g are powers of 1024."""
    max_line_size: str = "16k"
    """Longer lines become several messages."""

    @field_validator("max_buffer_size")
    @classmethod
    def _buffer(cls, text: str) -> str:
        size(text, *_BUFFER)
        return text

    @field_validator("max_line_size")
    @classmethod
    def _line(cls, text: str) -> str:
        size(text, _LINE, cls.longest_line)
        return text

    @property
    def buffer(self) -> int:
        """Bytes that may wait."""
        return size(self.max_buffer_size, *_BUFFER)

    @property
    def longest(self) -> int:
        """Bytes of a line that go in one message."""
        return size(self.max_line_size, _LINE, self.longest_line)


def expand(tag: str, streams: LogStreams) -> str:
    """A tag with the container's own values in it."""
    values = {
        ".FullID": streams.container,
        ".ID": short(streams.container),
        ".ImageName": streams.image,
        ".Name": streams.container,
        ".Namespace": streams.namespace,
    }
    return _MARK.sub(lambda match: values[match[1]], tag)


def timestamp(nanoseconds: int) -> str:
    """A time since the epoch as Docker's drivers write it: RFC 3339 in UTC, with nanoseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def short(id: str) -> str:
    """An id as Docker shows it: its first characters if it is one of Docker's, else the whole name that it is."""
    return id[:_SHORT] if _HASH.fullmatch(id) else id
