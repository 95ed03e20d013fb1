# SPDX-License-Identifier: Apache-2.0
"""Open descriptors that come over a unix socket (unix(7), ``SCM_RIGHTS``)."""

from __future__ import annotations

import socket
import struct
from typing import Final

_SIZE: Final = struct.calcsize("i")
# Plain numbers: members of enumerations would have processes that share their memory touch, and so copy, much of it.
_LEVEL: Final = int(socket.SOL_SOCKET)
_RIGHTS: Final = int(socket.SCM_RIGHTS)
_CLOSE_ON_EXEC: Final = int(socket.MSG_CMSG_CLOEXEC)


def receive(sock: socket.SocketType, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """A message of up to *size* bytes, and up to *most* descriptors that came along. Raises OSError.

    No program that is started inherits them: `socket.recv_fds` leaves out its flags, so that one could not ask for it.
    """
    data, extra, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(most * _SIZE), flags | _CLOSE_ON_EXEC)
    fds: list[int] = []
    for level, kind, piece in extra:
        if level == _LEVEL and kind == _RIGHTS:
            fds += memoryview(piece[: len(piece) // _SIZE * _SIZE]).cast("i")
    return data, fds
