# SPDX-License-Identifier: Apache-2.0
"""Change trees step by step, and compare them.

A step takes the directory it works in. The same steps, done to the layers of a snapshotter and to a plain directory,
must give the same tree::

    layer = [write("etc/hostname", "box"), mkdir("var", 0o750), remove("tmp")]
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

Step = Callable[[Path], None]


def mkdir(path: str, mode: int = 0o755) -> Step:
    """Make a directory and what is missing above it."""

    def step(root: Path) -> None:
        (root / path).mkdir(parents=True, exist_ok=True)
        (root / path).chmod(mode)

    return step


def write(path: str, text: str, mode: int = 0o644, *, mtime: int | None = None) -> Step:
    """Write a whole file, which may be there already; *mtime* in seconds."""

    def step(root: Path) -> None:
        file = root / path
        file.write_text(text)
        file.chmod(mode)
        if mtime is not None:
            os.utime(file, (mtime, mtime))

    return step


def append(path: str, text: str) -> Step:
    """Add to the end of a file."""

    def step(root: Path) -> None:
        with (root / path).open("a") as file:
            file.write(text)

    return step


def chmod(path: str, mode: int) -> Step:
    """Change a mode."""
    return lambda root: (root / path).chmod(mode)


def chown(path: str, uid: int, gid: int) -> Step:
    """Change an owner."""
    return lambda root: os.chown(root / path, uid, gid, follow_symlinks=False)


def symlink(path: str, target: str) -> Step:
    """Make a symbolic link."""
    return lambda root: (root / path).symlink_to(target)


def hardlink(path: str, existing: str) -> Step:
    """Give a file a second name."""
    return lambda root: (root / path).hardlink_to(root / existing)


def setxattr(path: str, name: str, value: bytes) -> Step:
    """Set an extended attribute."""
    return lambda root: os.setxattr(root / path, name, value)


def device(path: str, major: int, minor: int) -> Step:
    """Make a character device."""
    return lambda root: os.mknod(root / path, stat.S_IFCHR | 0o666, os.makedev(major, minor))


def rename(path: str, new: str) -> Step:
    """Rename within the tree."""

    def step(root: Path) -> None:
        (root / path).rename(root / new)

    return step


def remove(path: str) -> Step:
    """Remove a file, or a directory with all it holds."""

    def step(root: Path) -> None:
        found = root / path
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink()

    return step


def run(steps: Iterable[Step], root: Path) -> None:
    """Take steps in their order."""
    for step in steps:
        step(root)


@dataclass(frozen=True)
class Entry:
    """What one name of a tree looks like. Times are not part of it, since copies up touch them."""

    kind: str
    mode: str
    owner: tuple[int, int]
    content: bytes | str | int = b""
    """A file's data, a link's target, a device's number."""
    attributes: tuple[tuple[str, bytes], ...] = ()


def manifest(root: Path) -> dict[str, Entry]:
    """All names in a tree, ``.`` included, with what they are."""
    found = {".": _entry(root)}
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory, name)
            found[str(path.relative_to(root))] = _entry(path)
    return found


def _entry(path: Path) -> Entry:
    status = path.lstat()
    content: bytes | str | int = b""
    if stat.S_ISREG(status.st_mode):
        content = path.read_bytes()
    elif stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif not stat.S_ISDIR(status.st_mode):
        content = status.st_rdev
    attributes = tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in sorted(os.listxattr(path, follow_symlinks=False))
        if name.startswith("user.")
    )
    text = stat.filemode(status.st_mode)
    return Entry(text[0], text[1:], (status.st_uid, status.st_gid), content, attributes)
