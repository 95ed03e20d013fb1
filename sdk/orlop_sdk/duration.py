# SPDX-License-Identifier: Apache-2.0
"""Durations as containerd's configuration and labels spell them: ``100ms``, ``1h30m``, ``0s``."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer

from orlop.errors import InvalidArgument

_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5
    "μs": 1_000,  # U+03BC # both are in use
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


def parse(text: str) -> float:
    """Seconds in a duration: a sign, then numbers with the units ns, us, ms, s, m, h; ``0`` needs none.

    Raises `InvalidArgument`.
    """
    sign = -1 if text.startswith("-") else 1
    rest = text.removeprefix("-") if sign < 0 else text.removeprefix("+")
    if rest == "0":
        return 0.0
    total, position = Decimal(0), 0
    while match := _PART.match(rest, position):
        total += Decimal(match[1]) * _NANOSECONDS[match[2]]
        position = match.end()
    if not rest or position != len(rest):
        raise InvalidArgument(
            f'duration "{text}": must read like "1h30m" or "100ms", with the units ns, us, ms, s, m, h'
        )
    return float(sign * total / 1_000_000_000)


def render(seconds: float) -> str:
    """The duration in the shortest usual spelling: ``100ms``, ``1m30s``, ``0s``."""
    nanoseconds = round(abs(seconds) * 1_000_000_000)
    sign = "-" if seconds < 0 and nanoseconds else ""
    if nanoseconds < 1_000_000_000:
        unit = "ms" if nanoseconds >= 1_000_000 else "us" if nanoseconds >= 1_000 else "ns"
        return f"{sign}{_decimal(nanoseconds, _NANOSECONDS[unit])}{unit}" if nanoseconds else "0s"
    hours, nanoseconds = divmod(nanoseconds, _NANOSECONDS["h"])
    minutes, nanoseconds = divmod(nanoseconds, _NANOSECONDS["m"])
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else ""]
    parts.append(f"{_decimal(nanoseconds, _NANOSECONDS['s'])}s" if nanoseconds else "")
    return sign + "".join(parts)


def _decimal(number: int, unit: int) -> str:
    return f"{Decimal(number) / unit:f}"


def _validate(value: object) -> object:
    if not isinstance(value, str):
        return value  # pydantic checks numbers
    try:
        return parse(value)
    except InvalidArgument as error:
        raise ValueError(str(error)) from error


GoDuration = Annotated[float, BeforeValidator(_validate, json_schema_input_type=str), PlainSerializer(render)]
"""A field of a config model: a duration string in the file, seconds in the program. A bare number counts as seconds."""
