# SPDX-License-Identifier: Apache-2.0
"""What the daemon sets up on its host before plugins start: directories, a lock on them, its OOM score and cgroup.

Nothing else runs in the process yet, so this is the one place that may change what the whole process shares.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import Final

from orlop.config import Config
from orlop.errors import FailedPrecondition, Unavailable
from orlop_sdk.linux import temporary

_log = logging.getLogger("orlop.daemon")

#: Below root, and cleared at start, as containerd's.
TEMPORARY_MOUNTS: Final = "tmpmounts"
_CGROUP: Final = Path("/sys/fs/cgroup")
_ROOT_MODE: Final = 0o700
_STATE_MODE: Final = 0o711


def prepare(config: Config) -> list[int]:
    """Set up what the config asks for. Returns descriptors to keep open while the daemon runs: its locks.

    Raises errors of `orlop.errors` that name the key to change.
    """
    settings = config.settings
    root, state = Path(settings.root), Path(settings.state)
    make_directory(root, _ROOT_MODE, "root")
    make_directory(state, _STATE_MODE, "state")
    if settings.temp:
        make_directory(Path(settings.temp), _ROOT_MODE, "temp")
        os.environ["TMPDIR"] = settings.temp
    if settings.oom_score:
        set_oom_score(settings.oom_score)
    if settings.cgroup.path:
        join_cgroup(settings.cgroup.path)
    locks = [lock(root, "root"), lock(state, "state")]
    # Locked, so whatever is there is of a daemon that is gone.
    clear_temporary_mounts(root / TEMPORARY_MOUNTS)
    return locks


def clear_temporary_mounts(place: Path) -> None:
    """Undo what a daemon that was killed had mounted for a moment, and have this one's temporary mounts made there."""
    make_directory(place, _ROOT_MODE, "root")
    for text in temporary.clear(place):
        _log.warning("temporary mounts of an earlier daemon: %s; unmount and remove them", text)
    temporary.set_place(place)


def make_directory(path: Path, mode: int, key: str) -> None:
    """Make a directory of the daemon's, or correct the mode of one that is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
    except OSError as error:
        raise Unavailable(f'{key} = "{path}": {error.strerror}; choose a directory that can be written') from error


def lock(path: Path, key: str) -> int:
    """Take the lock that keeps a second daemon off a directory; it ends with the process."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise FailedPrecondition(f'{key} = "{path}": another daemon uses it; stop that, or choose another') from error
    return descriptor


def set_oom_score(score: int) -> None:
    """Write the process's own ``oom_score_adj``."""
    try:
        Path("/proc/self/oom_score_adj").write_text(str(score))
    except OSError as error:
        raise Unavailable(
            f"oom_score = {score}: {error.strerror}; lowering it needs CAP_SYS_RESOURCE, or leave it to the unit file"
        ) from error


def join_cgroup(path: str) -> None:
    """Move the process into a cgroup: of every hierarchy on version 1, of the only one on version 2."""
    hierarchies = [_CGROUP] if (_CGROUP / "cgroup.procs").exists() else _hierarchies()
    for hierarchy in hierarchies:
        cgroup = hierarchy / path.lstrip("/")
        try:
            cgroup.mkdir(parents=True, exist_ok=True)
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            raise Unavailable(f'cgroup.path = "{path}": {cgroup}: {error.strerror}') from error


def _hierarchies() -> list[Path]:
    """The version 1 hierarchies, a directory each; several names may be links to one."""
    found = {entry.resolve() for entry in _CGROUP.iterdir() if (entry / "tasks").exists()}
    # A new cpuset takes no process before somebody gave it processors and memory, which is not ours to decide.
    return sorted(path for path in found if not (path / "cpuset.cpus").exists())


def notify(state: str) -> None:
    """Tell the service manager, if one listens, a state such as ``READY=1`` (sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    name = f"\0{address[1:]}" if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
        try:
            client.sendto(state.encode(), name)
        except OSError as error:
            raise Unavailable(f'NOTIFY_SOCKET "{address}": {error.strerror}') from error
