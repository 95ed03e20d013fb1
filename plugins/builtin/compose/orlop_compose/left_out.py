# SPDX-License-Identifier: Apache-2.0
"""Makes sure that what a build file leaves out is there to be left out."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from orlop.discovery import discover

_SCRIPTS: Final = ("console_scripts", "gui_scripts")


def faults(patterns: Sequence[str], wheels: Iterable[Path]) -> list[str]:
    """Patterns that no plugin in these wheels has the URI of, each with the nearest one.

    A mistake there would ship what somebody chose not to ship, and nobody would hear of it.
    """
    types = {type.group: name for name, type in discover().types.items()}
    points = [point for wheel in wheels for found in distributions(path=[str(wheel)]) for point in found.entry_points]
    uris = sorted({f"{types[point.group]}.{point.name}" for point in points if point.group in types})
    # The types of other people's plugins are not known here: their ids are what can be compared.
    strangers = {point.name for point in points if point.group not in (*types, *_SCRIPTS)}
    return [
        f'"{pattern}": no plugin of the build has this URI{_hint(pattern, uris)}'
        for pattern in patterns
        if not fnmatch.filter(uris, pattern) and not any(pattern.endswith(f".{name}") for name in strangers)
    ]


def _hint(pattern: str, uris: Sequence[str]) -> str:
    near = [uri for uri in uris if uri.endswith(f".{pattern}")] or difflib.get_close_matches(pattern, uris, 1)
    return f"; write {' or '.join(near)}" if near else ""
