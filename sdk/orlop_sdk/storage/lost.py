# SPDX-License-Identifier: Apache-2.0
"""Where a repair puts what it takes away but must not destroy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

LOST: Final = "lost+found"
"""The directory, below a plugin's own; what is in it is the operator's to look at and to delete."""


def put_away(path: Path, root: Path, name: str = "") -> Path:
    """Move a file or directory to ``lost+found`` below *root*, under its own or that name, and say where it is now.

    A name that is taken there gets a number. Blocks; raises `OSError`.
    """
    lost = root / LOST
    lost.mkdir(mode=0o700, exist_ok=True)
    wanted = (name or path.name).replace("/", "_")[:200]
    target, number = lost / wanted, 1
    while os.path.lexists(target):
        number += 1
        target = lost / f"{wanted}.{number}"
    path.rename(target)
    return target
