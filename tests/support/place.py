# SPDX-License-Identifier: Apache-2.0
"""Directories for daemons: short enough for their sockets, and gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import make_short_directory, remove_tree


@contextmanager
def short_directory() -> Iterator[Path]:
    """What the fixture ``short_tmp`` gives, for fixtures of a wider scope."""
    path = make_short_directory()
    try:
        yield path
    finally:
        left = remove_tree(path)
    assert not left, f"mounts left below {path}: {', '.join(left)}"
