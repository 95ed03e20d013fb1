# SPDX-License-Identifier: Apache-2.0
"""Where the benchmark of logs sends output to, a sink a scheme. Each tells when the last of the output has arrived."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Final, Protocol

from tests.support.journal import Journal, usable

from orlop.interfaces.log import LogStreams
from orlop_journald.driver import Entries
from orlop_sdk.logs.lines import Pieces

#: The last line of the output.
LAST: Final = b"this is the end of the output\n"
_CHUNK: Final = 1 << 20
# A logger by containerd's protocol, or a reader of a named pipe, that is as quick as can be.
_TAKE: Final = "dd of=/dev/null bs=64k iflag=fullblock,count_bytes status=none"
# Keeps the journal's files from filling the disk.
_SMALL: Final = "RuntimeMaxUse=256M\n"


class Sink(Protocol):
    """One container's output goes there. *size* bytes are to come."""

    pause: float
    """Seconds between two looks whether it is complete."""

    def __init__(self, folder: Path, size: int) -> None: ...

    @property
    def uri(self) -> str:
        """What the task's stdout shall be."""

    def complete(self) -> bool:
        """Whether everything has arrived."""

    def close(self) -> None:
        """End it."""


class Fifo:
    """A named pipe with a reader, and one more with a 2 at the end for stderr."""

    pause = 0.005

    def __init__(self, folder: Path, size: int) -> None:
        self.uri = str(folder / "fifo")
        for path in (self.uri, f"{self.uri}2"):
            os.mkfifo(path)
        self._errors = os.open(f"{self.uri}2", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        command = [*_TAKE.split(), f"if={self.uri}", f"count={size}"]
        self._reader = subprocess.Popen(command)

    def complete(self) -> bool:
        return self._reader.poll() is not None

    def close(self) -> None:
        self._reader.kill()
        self._reader.wait()
        os.close(self._errors)


class File:
    """A file, to which the shim copies."""

    pause = 0.005

    def __init__(self, folder: Path, size: int) -> None:
        self._path = folder / "log"
        self._size = size
        self.uri = f"file://{self._path}"

    def complete(self) -> bool:
        return self._path.exists() and self._path.stat().st_size == self._size

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


class Binary:
    """A program."""

    pause = 0.005

    def __init__(self, folder: Path, size: int) -> None:
        self._done = folder / "done"
        program = folder / "logger"
        program.write_text(f'#!/bin/sh\ntrap "" TERM\nexec 5>&-\n{_TAKE} count={size} <&3\n>"{self._done}"\ncat <&3\n')
        program.chmod(0o755)
        self.uri = f"binary://{program}"

    def complete(self) -> bool:
        return self._done.exists()

    def close(self) -> None:
        self._done.unlink(missing_ok=True)


class JsonFile:
    """A file of JSON lines."""

    pause = 0.005

    def __init__(self, folder: Path, size: int) -> None:
        self._path = folder / "log.json"
        self._last = LAST.strip()
        self.uri = f"json-file://{self._path}"

    def complete(self) -> bool:
        with suppress(OSError), self._path.open("rb") as file:
            file.seek(-min(200, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return self._last in file.read()
        return False

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


class Syslog:
    """A server by TCP, a process of its own that looks at nothing but the end."""

    pause = 0.005

    def __init__(self, folder: Path, size: int) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with listener:
            command = [sys.executable, "-m", __name__, str(listener.fileno())]
            self._server = subprocess.Popen(command, pass_fds=(listener.fileno(),))
        self.uri = f"syslog:///?syslog-address=tcp://127.0.0.1:{port}&mode=blocking"

    def complete(self) -> bool:
        return self._server.poll() is not None

    def close(self) -> None:
        self._server.kill()
        self._server.wait()


class Journald:
    """The real journal, with files of its own."""

    # A look costs as much as many entries.
    pause = 1.0

    def __init__(self, folder: Path, size: int) -> None:
        self._stack = ExitStack()
        self._journal = self._stack.enter_context(Journal(folder, _SMALL))
        self.socket = self._journal.socket
        self.uri = f"journald:///?socket={self.socket}&tag=bench&mode=blocking"

    def complete(self) -> bool:
        return self._journal.has(MESSAGE=LAST.strip().decode())

    def close(self) -> None:
        self._stack.close()


SINKS: Final[dict[str, type[Sink]]] = {
    "fifo": Fifo,
    "file": File,
    "binary": Binary,
    "json-file": JsonFile,
    "syslog": Syslog,
    **({} if usable() else {"journald": Journald}),
}


def floor(text: bytes, together: int) -> float:
    """MiB a second of lines that the journal takes from a bare loop, with so many entries in a datagram."""
    made = Entries("bench", LogStreams(-1, -1, "bench", "default", lambda: None))
    entries = made.make("stdout", Pieces([*text.splitlines(), LAST.strip()]))
    datagrams = [b"\n".join(entries[at : at + together]) for at in range(0, len(entries), together)]
    with (
        tempfile.TemporaryDirectory(prefix="obl", dir="/tmp") as folder,
        closing(Journald(Path(folder), len(text))) as sink,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        sender.connect(str(sink.socket))
        began = time.perf_counter()
        for datagram in datagrams:
            sender.send(datagram)
        while not sink.complete():
            time.sleep(0.1)
        return len(text) / (1 << 20) / (time.perf_counter() - began)


def _serve(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    tail = b""
    while LAST.strip() not in tail:
        got = connection.recv(_CHUNK)
        if not got:
            return
        tail = (tail + got)[-200:] if len(got) < 200 else got[-200:]


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
