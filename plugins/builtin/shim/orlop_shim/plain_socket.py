# SPDX-License-Identifier: Apache-2.0
"""Sockets as the interpreter has them, with the few methods that a shim needs besides, under the names of `socket`.

That module turns hundreds of constants into enumerations, which every process that loads it has to keep in memory.
"""

from __future__ import annotations

import _socket

# Their names are those of `socket`, so that a reader finds them there.
from _socket import (
    AF_UNIX,
    MSG_DONTWAIT,
    MSG_PEEK,
    SCM_RIGHTS,
    SO_PEERCRED,
    SOCK_NONBLOCK,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SOL_SOCKET,
    socketpair,
)

from orlop_sdk.hints import Any

__all__ = [
    "AF_UNIX",
    "MSG_DONTWAIT",
    "MSG_PEEK",
    "SCM_RIGHTS",
    "SOCK_NONBLOCK",
    "SOCK_SEQPACKET",
    "SOCK_STREAM",
    "SOL_SOCKET",
    "SO_PEERCRED",
    "SocketType",
    "socket",
    "socketpair",
]

#: What any socket is, those of `socket` and of `socketpair` included.
SocketType = _socket.socket


class socket(_socket.socket):
    """A socket. See `socket.socket`."""

    __slots__ = ()

    def accept(self) -> tuple[socket, Any]:
        """A new connection that blocks, and its address. Raises OSError."""
        fd, address = self._accept()  # type: ignore[attr-defined]  # it is there, in all versions
        return socket(self.family, self.type, self.proto, fd), address

    def __enter__(self) -> socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
