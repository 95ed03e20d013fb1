# SPDX-License-Identifier: Apache-2.0
"""The program of the OCI runtime: where it is, and how to spare it a second start.

A runtime must not let a container get at its binary (CVE-2019-5736). crun therefore mounts its binary read-only on a
temporary file, opens that, unmounts it, and executes itself anew from there: at each start, in the mount namespace of
the host. That takes longer than all that a start or a deletion does besides. A shim holds such a read-only binary from
the first start on, one that was never mounted anywhere, and says so in the way that crun does to itself.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from orlop_sdk.hints import Final
from orlop_sdk.linux import syscalls as sc

# The name of the only runtime that is known to take our word for it.
_TAKES_CLONES: Final = "crun"
_IS_CLONED: Final = "_LIBCONTAINER_CLONED_BINARY"
_ELF: Final = b"\x7fELF"
_environment: Final = {**os.environ, _IS_CLONED: "1"}
_held: Final[dict[str, Held]] = {}


class Held:
    """A binary that nobody can write to by way of *descriptor*, for as long as *path* is that binary."""

    def __init__(self, path: str) -> None:
        """Raises OSError where that cannot be, as for scripts, which their interpreter would not find."""
        self._path: Final = path
        self.descriptor: Final = _read_only(path)
        try:
            self._identity: Final = _identity(os.stat(self.descriptor))
        except OSError:
            self.close()
            raise

    @property
    def current(self) -> bool:
        """Whether the file is still the same, and not a newer one that was put in its place."""
        return _identity(os.stat(self._path)) == self._identity

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)


def find(binary: str) -> str:
    """Where a program is: searched once, so that starting it does not try every directory of ``PATH`` each time."""
    if "/" not in binary:
        for folder in os.get_exec_path():
            path = os.path.join(folder, binary)
            if os.access(path, os.X_OK) and not os.path.isdir(path):
                return path
    return binary


def get_ready() -> None:
    """Hold the binary now, for this process and those that it forks, if it is where programs are."""
    with suppress(OSError):
        prepared(find(_TAKES_CLONES))


def prepared(path: str) -> tuple[str, dict[str, str] | None]:
    """What to execute for a program, and its environment; None for the shim's own.

    Raises OSError when there is no such program.
    """
    held = _held.get(path)
    if held is not None and not held.current:
        _held.pop(path).close()
        held = None
    if held is None:
        if os.path.basename(os.path.realpath(path)) != _TAKES_CLONES:
            return path, None
        try:
            held = _held[path] = Held(path)
        except OSError:
            # It looks after itself then.
            return path, None
    return f"/proc/self/fd/{held.descriptor}", _environment


def _read_only(path: str) -> int:
    """A descriptor of a file in a mount of its own: read-only, nowhere in the file system, and so for ever."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.read(file, len(_ELF)) != _ELF:
            raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC), path)
    finally:
        os.close(file)
    tree = sc.open_tree(path)
    try:
        sc.mount_setattr(tree, sc.MOUNT_ATTR_RDONLY)
        # A mount can be made writable through the descriptor that it came with, by whoever gets hold of that; not when
        # that is closed, which takes the mount out of every namespace.
        return os.open(f"/proc/self/fd/{tree}", os.O_PATH | os.O_CLOEXEC)
    finally:
        os.close(tree)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
