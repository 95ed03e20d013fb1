# SPDX-License-Identifier: Apache-2.0
"""Whole small files, by system calls alone.

Python's own file objects are made of many parts, and using them for the first time copies some hundred kilobytes of
memory that a shim otherwise shares with all others.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

_CHUNK: Final = 16 << 10
_INT_SIZE: Final = struct.calcsize("i")
# Plain numbers, since Python's enumerations are made of much that would have to be copied.
_LEVEL: Final = int(socket.SOL_SOCKET)
_RIGHTS: Final = int(socket.SCM_RIGHTS)
_CLOSE_ON_EXEC: Final = int(socket.MSG_CMSG_CLOEXEC)


def read(path: str) -> bytes:
    """All that is in a file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_from(fd)
    finally:
        os.close(fd)


def read_from(fd: int) -> bytes:
    """All that is in an open file, from where it is. Raises OSError."""
    data = os.read(fd, _CHUNK)
    # Files of /proc and of control groups have no size to ask for, and give less than they could.
    while piece := os.read(fd, _CHUNK):
        data += piece
    return data


def read_or_nothing(path: str) -> bytes:
    """All that is in a file; nothing if it cannot be read."""
    try:
        return read(path)
    except OSError:
        return b""


def write(path: str, data: bytes, mode: int = 0o600) -> None:
    """Make a file, or replace what is in it. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data)
    except OSError as error:
        # Of a descriptor the kernel does not say which file it is.
        error.filename = path
        raise
    finally:
        os.close(fd)


def order(path: str, data: bytes) -> None:
    """Write to a file that takes orders, such as one of a control group. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write everything to a descriptor that blocks. Raises OSError."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, data[done:])


def receive(sock: socket.SocketType, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """A message of up to *size* bytes, and up to *most* descriptors that came along. Raises OSError.

    Python's own `socket.recv_fds` leaves out the flags, and so hands descriptors on to every program that is started.
    """
    data, extra, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(most * _INT_SIZE), flags | _CLOSE_ON_EXEC)
    fds: list[int] = []
    for level, kind, piece in extra:
        if level == _LEVEL and kind == _RIGHTS:
            fds += memoryview(piece).cast("i")
    return data, fds
