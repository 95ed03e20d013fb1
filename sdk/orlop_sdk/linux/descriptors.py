# SPDX-License-Identifier: Apache-2.0
"""Open descriptors that come over a unix socket (unix(7), ``SCM_RIGHTS``)."""

from __future__ import annotations

# Not ``socket``, which would take memory in small processes, and has flags that are not plain numbers.
import _socket as socket
import struct

from orlop_sdk.hints import Final

_SIZE: Final = struct.calcsize("i")


def receive(sock: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """A message of up to *size* bytes, and up to *most* descriptors that came along. Raises OSError.

    No program that is started inherits them; one cannot ask ``socket.recv_fds`` for that, which leaves out its flags.
    """
    data, extra, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(most * _SIZE), flags | socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, piece in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += memoryview(piece[: len(piece) // _SIZE * _SIZE]).cast("i")
    return data, fds
