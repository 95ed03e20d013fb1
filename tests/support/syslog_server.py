# SPDX-License-Identifier: Apache-2.0
"""Syslog servers that keep what they get: datagrams, and streams with the length before each message, or TLS."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import NamedTuple, Self

from tests.support.ctr import eventually

PATIENCE = 30.0
_MESSAGE = re.compile(rb"<(\d+)>1 (\S+) (\S+) (\S+) (\d+|-) (\S+) - (.*)", re.DOTALL)
_SLICE = 0.1


class Message(NamedTuple):
    """A message in the form of RFC 5424."""

    facility: int
    severity: int
    time: str
    host: str
    application: str
    kind: str
    text: bytes


def parse(data: bytes) -> Message:
    """Take a message apart; raises ValueError for one of another form."""
    match = _MESSAGE.fullmatch(data)
    if match is None:
        raise ValueError(f"no message of RFC 5424: {data[:200]!r}")
    facility, severity = divmod(int(match[1]), 8)
    time, host, application, _, kind = (match[number].decode("ascii") for number in range(2, 7))
    return Message(facility, severity, time, host, application, kind, match[7])


def unframe(data: bytes) -> list[bytes]:
    """The messages of a stream, by RFC 6587, section 3.4.1; raises ValueError for an incomplete one."""
    found = []
    at = 0
    while at < len(data):
        blank = data.index(b" ", at)
        end = blank + 1 + int(data[at:blank])
        if end > len(data):
            raise ValueError(f"a message of {data[at:blank]!r} bytes is incomplete")
        found.append(data[blank + 1 : end])
        at = end
    return found


class _Server:
    """A thread that serves until it is closed."""

    def __init__(self, listener: socket.socket) -> None:
        self._socket = listener
        self._socket.settimeout(_SLICE)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="syslog-server")

    def start(self) -> Self:
        """Begin to take what comes; until then it stays in the kernel's buffers."""
        self._thread.start()
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._serve()
            except TimeoutError:
                continue

    def _serve(self) -> None:
        raise NotImplementedError


class DatagramServer(_Server):
    """By unix socket, or by UDP. *pause* is how many seconds it takes for each message."""

    def __init__(self, path: Path | None = None, pause: float = 0) -> None:
        listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(str(path) if path else ("127.0.0.1", 0))
        super().__init__(listener)
        self._path = path
        self._pause = pause
        self._where = listener.getsockname()
        self.received: list[bytes] = []

    @property
    def address(self) -> str:
        """As the driver takes it."""
        return f"unixgram://{self._path}" if self._path else f"udp://127.0.0.1:{self._where[1]}"

    def all(self) -> list[bytes]:
        """What was sent up to now; for unix sockets, which keep the order of all senders and lose nothing."""
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as last:
            last.connect(self._where)
            last.send(b"")
        eventually(lambda: b"" in self.received, "the server does not get to the end", PATIENCE)
        self.received.remove(b"")
        return list(self.received)

    def _serve(self) -> None:
        self.received.append(self._socket.recv(1 << 17))
        self._closing.wait(self._pause)


class StreamServer(_Server):
    """By TCP, with TLS if there is a context. One connection after the other."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(socket.create_server(("127.0.0.1", 0)))
        self._tls = tls
        self.port = self._socket.getsockname()[1]
        self.address = f"{'tcp%2Btls' if tls else 'tcp'}://127.0.0.1:{self.port}"
        #: What the connections brought that have ended.
        self.streams: list[bytes] = []
        self.taken = 0
        self.hang_up = threading.Event()

    def all(self) -> list[bytes]:
        """The messages of all connections, once there was one and the last has ended."""
        eventually(lambda: bool(self.streams), "nobody connected and ended", PATIENCE)
        return [message for stream in self.streams for message in unframe(stream)]

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        connection.settimeout(PATIENCE)
        data = bytearray()
        with connection:
            try:
                if self._tls is not None:
                    with self._tls.wrap_socket(connection, server_side=True) as encrypted:
                        self._read(encrypted, data)
                else:
                    self._read(connection, data)
            except ssl.SSLError:
                return  # a client that does not trust us, or that we do not trust
        self.hang_up.clear()
        self.streams.append(bytes(data))

    def _read(self, connection: socket.socket, data: bytearray) -> None:
        connection.settimeout(_SLICE)
        while not self._closing.is_set() and not self.hang_up.is_set():
            try:
                got = connection.recv(1 << 16)
            except TimeoutError:
                continue
            if not got:
                break
            data += got
            self.taken += len(got)


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is signed by itself, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subject = ("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
    algorithm = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    subprocess.run(
        ["openssl", "req", "-x509", *algorithm, "-keyout", str(key), "-out", str(certificate), *subject],
        check=True,
        capture_output=True,
    )
    return certificate, key


def server_context(folder: Path, name: str = "server") -> ssl.SSLContext:
    """What a TLS server needs, with a new certificate ``NAME.pem`` in the folder."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_certificate(folder, name))
    return context
