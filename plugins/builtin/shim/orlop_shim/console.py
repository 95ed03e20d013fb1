# SPDX-License-Identifier: Apache-2.0
"""Receives the terminal of a process from the OCI runtime, which sends it over a socket that it is told the path of."""

from __future__ import annotations

import os
from contextlib import suppress

from orlop.errors import Unavailable
from orlop_sdk.hints import Final
from orlop_sdk.linux.descriptors import receive
from orlop_shim import plain_socket as socket
from orlop_shim.loop import READ, Loop, Promise

# Seconds for the runtime to send the terminal after it said that all is well.
_PATIENCE: Final = 30.0


class ConsoleSocket:
    """A socket that takes one terminal. Its path is short, whatever the bundle's is: addresses end at 107 bytes."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._folder = _new_folder()
        #: What the runtime gets as ``--console-socket``.
        self.path = os.path.join(self._folder, "pty.sock")
        self._received = Promise()
        self._connection: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._listener.bind(self.path)
            self._listener.listen(1)
        except OSError:
            self.close()
            raise
        loop.watch(self._listener.fileno(), READ, lambda _: self._accept())

    async def master(self) -> int:
        """The terminal's own side, to be closed by the caller. Raises `Unavailable` when none comes."""
        if not await self._loop.within(_PATIENCE, self._received):
            raise Unavailable(f"terminal: the OCI runtime sent none within {_PATIENCE:g} seconds")
        fd: int = self._received.result()
        if fd < 0:
            raise Unavailable("terminal: the OCI runtime sent none")
        self._received = Promise()
        return fd

    def close(self) -> None:
        """Remove the socket. May be called twice."""
        for sock in (self._listener, self._connection):
            if sock is not None and sock.fileno() >= 0:
                self._loop.unwatch(sock.fileno())
                sock.close()
        if self._received.done and self._received.result() >= 0:
            os.close(self._received.result())
        self._received = Promise()
        with suppress(FileNotFoundError):
            os.unlink(self.path)
        with suppress(FileNotFoundError):
            os.rmdir(self._folder)

    def _accept(self) -> None:
        if self._connection is not None:
            return
        with suppress(BlockingIOError):
            self._connection, _ = self._listener.accept()
            self._connection.setblocking(False)
            self._loop.watch(self._connection.fileno(), READ, lambda _: self._receive())

    def _receive(self) -> None:
        assert self._connection is not None
        self._loop.unwatch(self._connection.fileno())
        _, fds = receive(self._connection, 4096, 4)
        for surplus in fds[1:]:
            os.close(surplus)
        self._received.set(fds[0] if fds else -1)


def _new_folder() -> str:
    name = f"orlop-pty-{os.urandom(6).hex()}"
    for place in (os.environ.get("XDG_RUNTIME_DIR") or "/run", "/tmp"):  # noqa: S108 - a folder of our own, 0700
        path = os.path.join(place, name)
        with suppress(OSError):
            os.mkdir(path, 0o700)
            return path
    raise Unavailable("terminal: neither /run nor /tmp takes a folder for its socket; make room there")
