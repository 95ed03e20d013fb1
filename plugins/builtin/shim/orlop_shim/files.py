# SPDX-License-Identifier: Apache-2.0
"""Whole small files, by system calls alone.

Python's own file objects are made of many parts, and using them for the first time copies some hundred kilobytes of
memory that a shim otherwise shares with all others.
"""

from __future__ import annotations

import os

from orlop_sdk.hints import Final

_CHUNK: Final = 16 << 10


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
