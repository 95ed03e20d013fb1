# SPDX-License-Identifier: Apache-2.0
"""The journal's native protocol: entries in datagrams, or in a sealed memory file where one is too large for that.

https://systemd.io/JOURNAL_NATIVE_PROTOCOL describes it, with one entry in each datagram. In fact journald has always
taken several with an empty line between them (`server_process_native_message` in its source, from 2011 on, now
`manager_process_native_message`), and takes more than twice as many entries a second that way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections import deque
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

from orlop_sdk.logs.relay import SLICE, Outlet

# What systemd's own clients ask for; without it the kernel's default of about 200 KiB holds.
_SEND_BUFFER: Final = 8 << 20
_SO_SNDBUFFORCE: Final = 32
# Bytes and entries of a datagram; more of them hardly make it cheaper.
_DATAGRAM: Final = 64 << 10
_ENTRIES: Final = 32
_TOO_LARGE: Final = (errno.EMSGSIZE, errno.ENOBUFS)
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def field(name: str, value: bytes) -> bytes:
    """One field of an entry. A value with newlines comes with its length before it."""
    if b"\n" in value:
        return b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
    return b"%s=%s\n" % (name.encode(), value)


class Journal:
    """A connection to the journal. Raises OSError when there is none. See `orlop_sdk.logs.relay.Outlet`."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(SLICE)
        try:
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
            self._socket.connect(str(path))
        except BaseException:
            self._socket.close()
            raise

    def send(self, messages: deque[bytes]) -> None:
        while messages:
            count, datagram = _first(messages)
            try:
                self._socket.send(datagram)
            except OSError as error:
                if error.errno not in _TOO_LARGE:
                    raise
                self._send_as_file(datagram)
            for _ in range(count):
                messages.popleft()

    def close(self) -> None:
        self._socket.close()

    def _send_as_file(self, entry: bytes) -> None:
        # The journal takes such a file from anybody only if nobody can change it any more.
        fd = os.memfd_create("orlop-journald", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            view = memoryview(entry)
            while view:
                view = view[os.write(fd, view) :]
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            socket.send_fds(self._socket, [], [fd])
        finally:
            os.close(fd)


def _first(messages: deque[bytes]) -> tuple[int, bytes]:
    """As many of the first messages as go in one datagram, and that."""
    size, count = 0, 0
    for message in messages:
        size += len(message) + 1
        if count and size > _DATAGRAM:
            break
        count += 1
        if count == _ENTRIES:
            break
    return count, b"\n".join(islice(messages, count))


_: type[Outlet] = Journal
