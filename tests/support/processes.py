# SPDX-License-Identifier: Apache-2.0
"""Processes of this host, as the kernel shows them. They come and go: one that has ended has no name and no memory."""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")


def parents() -> dict[int, int]:
    """The parent of every process, by pid."""
    found = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            try:
                # The name may hold anything, but what follows its bracket is plain.
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
            except OSError:
                continue  # gone meanwhile
    return found


def arguments(pid: int) -> list[bytes]:
    """The command line of a process; empty words for one that has ended."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return [b""]


def memory(pid: int, *kinds: str) -> int:
    """KiB of memory of these kinds (``Pss``, ``Private_Dirty``, see proc(5) on smaps) that a process has."""
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.partition(":")[0] in kinds)
