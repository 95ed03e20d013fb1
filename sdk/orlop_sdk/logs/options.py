# SPDX-License-Identifier: Apache-2.0
"""Options of log URIs, under the names and in the spelling of Docker's log drivers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeVar

from pydantic import ValidationError

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


def short(id: str) -> str:
    """An id as Docker shows it: its first characters if it is one of Docker's, else the whole name that it is."""
    return id[:_SHORT] if _HASH.fullmatch(id) else id
