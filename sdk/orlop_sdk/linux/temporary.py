# SPDX-License-Identifier: Apache-2.0
"""Where temporary mounts are made, and what a process that was killed left there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_place: Path | None = None


def set_place(directory: Path | None) -> None:
    """Have the temporary mounts of this process made in a directory of its own, so that they can be found again.

    The directory for temporary files when None, as at first. For a process to call before it does anything else.
    """
    global _place  # noqa: PLW0603  # like TMPDIR: a fact of the process, set once, where it starts
    _place = directory


def make_directory(prefix: str, parent: str | os.PathLike[str] | None = None) -> Path:
    """Make a directory to mount at, in *parent* where that is given."""
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_place if parent is None else parent))


def clear(directory: Path) -> list[str]:
    """Unmount and remove what is left in a directory of temporary mounts; returns what could not be, and why. Blocks.

    Only empty directories are removed: what is in one may be the content of a mount, and somebody's.
    """
    from orlop_sdk.linux.mount import mount_points, unmount_all

    failed = []
    for entry in sorted(os.scandir(directory), key=lambda each: each.name):
        if not entry.is_dir(follow_symlinks=False):
            continue
        try:
            unmount_all(entry.path, detach=True)
            if mount_points(entry.path):
                raise OSError(f'"{entry.path}" is mounted again')
            for folder, _, _ in os.walk(entry.path, topdown=False):
                os.rmdir(folder)
        except OSError as error:
            failed.append(str(error))
    return failed
