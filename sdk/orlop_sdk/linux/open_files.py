# SPDX-License-Identifier: Apache-2.0
"""How many files this process may have open (RLIMIT_NOFILE), and the programs that it starts.

The soft limit, often 1024, is for programs that call select(2), which knows no higher descriptors. A program that does
not may raise it to the hard one. What it starts has to find the limit as it was: see systemd.exec(5), LimitNOFILE.
"""

from __future__ import annotations

import resource
import shutil
from collections.abc import Sequence
from typing import Final

# What stands before a program's command line to give it the limit that this process was started with.
_former: Final[list[str]] = []


def raise_limit() -> None:
    """Raise the soft limit to the hard one, for good."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if prlimit := shutil.which("prlimit"):
        _former[:] = [prlimit, f"--nofile={soft}:", "--"]


def at_former_limit(command: Sequence[str]) -> list[str]:
    """The command line by which a program gets the soft limit that this process had before `raise_limit`.

    A program cannot be given another limit than its parent's without running code in between. That is prlimit(1) of
    util-linux; where there is none, the program gets this process's limit.
    """
    return [*_former, *command]
