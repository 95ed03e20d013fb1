# SPDX-License-Identifier: Apache-2.0
"""The file of a unix socket: made without a moment in which the wrong people may connect.

A socket gets its mode from the umask at ``bind``, which a daemon with threads must not touch. So it is bound in a
private directory beside its place, gets owner and mode there, and is renamed to its place. The path to bind goes
through an open directory, as a socket's path may be no longer than 107 bytes.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
from pathlib import Path
from typing import Final

from orlop.errors import FailedPrecondition, InvalidArgument, OrlopError, Unavailable

#: containerd's limit, for names derived from a socket's path must fit too.
MAX_PATH: Final = 104
_MODE: Final = 0o660
_NAME: Final = "s"


class SocketFile:
    """A socket's place: `listen` (or `prepare`, and bind to what it returned), `publish`, and `remove` at the end.

    All methods block.
    """

    def __init__(self, address: str, uid: int, gid: int) -> None:
        self.path: Final = Path(address.removeprefix("unix://"))
        self._uid, self._gid = uid, gid
        self._private: Path | None = None
        self._directory = -1
        self._published: tuple[int, int] | None = None

    def prepare(self) -> str:
        """Check the place, make its directory, and return the path to bind to.

        Raises `InvalidArgument` for a path that can be none, `FailedPrecondition` for a file that is no socket,
        `Unavailable` when another process listens there or the directory cannot be made.
        """
        try:
            self._check()
            self._make_parent()
            self._private = Path(tempfile.mkdtemp(prefix=".orlop-", dir=self.path.parent))
            self._directory = os.open(self._private, os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            raise self.failed(error) from error
        return f"/proc/self/fd/{self._directory}/{_NAME}"

    def listen(self) -> socket.socket:
        """`prepare`, and a socket bound there, for a server of asyncio. Raises as that does."""
        path = self.prepare()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(path)
        except OSError as error:
            listener.close()
            raise self.failed(error) from error
        return listener

    def publish(self) -> None:
        """Give the bound socket its owner and mode and move it to its place, over a stale one."""
        assert self._private is not None
        bound = self._private / _NAME
        try:
            os.chown(bound, self._uid, self._gid)
            os.chmod(bound, _MODE)
            found = os.lstat(bound)
            os.rename(bound, self.path)
        except OSError as error:
            raise self.failed(error) from error
        self._published = found.st_dev, found.st_ino
        self._drop_private()

    def remove(self) -> None:
        """Remove what is still ours. May be called twice, and at any stage."""
        self._drop_private()
        if self._published is None:
            return
        try:
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._published:
                self.path.unlink()
        except FileNotFoundError:
            # Someone tidied up before us, which is all that was wanted.
            return
        finally:
            self._published = None

    def failed(self, error: OSError) -> OrlopError:
        """What to raise when the address cannot be used."""
        return Unavailable(f'address "{self.path}": {error.strerror or error}')

    def _check(self) -> None:
        size = len(os.fsencode(self.path))
        if not self.path.is_absolute():
            raise InvalidArgument(f'address "{self.path}": not an absolute path')
        if size > MAX_PATH:
            raise InvalidArgument(f'address "{self.path}": {size} bytes long, the most is {MAX_PATH}; choose a shorter')
        try:
            mode = os.lstat(self.path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise FailedPrecondition(f'address "{self.path}": there is a file that is no socket; move it away')
        if _answers(self.path):
            raise Unavailable(
                f'address "{self.path}": another process listens there; stop it, or choose another address'
            )

    def _make_parent(self) -> None:
        parent = self.path.parent
        if parent.is_dir():
            return
        parent.mkdir(mode=0o770, parents=True)
        # The umask took its share of the mode.
        os.chmod(parent, 0o770)  # noqa: S103  # as containerd has it: the group may use the socket
        os.chown(parent, self._uid, self._gid)

    def _drop_private(self) -> None:
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1
        if self._private is not None:
            (self._private / _NAME).unlink(missing_ok=True)
            self._private.rmdir()
            self._private = None


def _answers(path: Path) -> bool:
    """Whether a process listens on the socket; a full queue of connections is one that does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
                return False
            if error.errno not in (errno.EAGAIN, errno.EINPROGRESS):
                raise
        return True
