# SPDX-License-Identifier: Apache-2.0
"""Descriptors that come over a socket."""

from __future__ import annotations

import os
import socket

import pytest

from orlop_sdk.linux.descriptors import receive


def test_they_arrive_and_no_program_inherits_them() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        pipes = [os.pipe() for _ in range(3)]
        socket.send_fds(theirs, [b"word"], [read for read, _ in pipes])
        data, fds = receive(ours, 16, 4)
        assert data == b"word"
        assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(read).st_ino for read, _ in pipes]
        assert not any(map(os.get_inheritable, fds))
        for fd in (*fds, *(end for pipe in pipes for end in pipe)):
            os.close(fd)


def test_flags_count() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        with pytest.raises(BlockingIOError):
            receive(ours, 16, 1, socket.MSG_DONTWAIT)
        theirs.send(b"word")
        assert receive(ours, 16, 1, socket.MSG_DONTWAIT) == (b"word", [])
