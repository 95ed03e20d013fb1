# SPDX-License-Identifier: Apache-2.0
"""Durations as Go writes them (``1h30m``, ``100ms``): the spelling of every containerd config."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_WHOLE: Final = re.compile(rf"([+-]?)((?:{_PART.pattern})+)")


def seconds(text: str) -> float:
    """Seconds in a Go duration string; ``0`` and the empty string are 0. Raises `ValueError` that shows the form."""
    if text in ("", "0", "+0", "-0"):
        return 0.0
    match = _WHOLE.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is no duration; write for example "10s", "1m30s" or "100ms"')
    total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(match[2]))
    return -total if match[1] == "-" else total


def _valid(value: object) -> object:
    if isinstance(value, str):
        seconds(value)
    return value


GoDuration = Annotated[str, BeforeValidator(_valid)]
"""A config field that holds a duration as text; `seconds` gives its value."""
