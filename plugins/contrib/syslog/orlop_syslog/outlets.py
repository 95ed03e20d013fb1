# SPDX-License-Identifier: Apache-2.0
"""Connections to syslog servers: datagrams, and streams with the length before each message (RFC 6587, RFC 5425)."""

from __future__ import annotations

import select
import socket
import ssl
from collections import deque
from contextlib import suppress
from typing import Final

from orlop_sdk.logs.relay import SLICE, Outlet
from orlop_syslog import SyslogConfig
from orlop_syslog.address import Address

# Seconds to reach a server, and for it to take the last of a stream.
_REACH: Final = 5.0
_LINGER: Final = 2.0
_GONE: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR


def dial(address: Address, options: SyslogConfig) -> Outlet:
    """Connect. Raises OSError."""
    if address.transport == "unixgram":
        return Datagrams(socket.AF_UNIX, address.path)
    if address.transport == "udp":
        family, _, _, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM)[0]
        return Datagrams(family, where)
    connection = socket.create_connection((address.host, address.port), timeout=_REACH)
    try:
        if address.transport == "tcp+tls":
            connection = tls(options).wrap_socket(connection, server_hostname=address.host)
        connection.settimeout(SLICE)
    except BaseException:
        connection.close()
        raise
    return Stream(connection)


def tls(options: SyslogConfig) -> ssl.SSLContext:
    """What is asked of a TLS server, and shown to it. Raises OSError for files that are missing or no good."""
    context = ssl.create_default_context(cafile=options.syslog_tls_ca_cert)
    if options.syslog_tls_cert is not None:
        context.load_cert_chain(options.syslog_tls_cert, options.syslog_tls_key)
    if options.syslog_tls_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class Datagrams:
    """A message a datagram. See `orlop_sdk.logs.relay.Outlet`."""

    def __init__(self, family: int, where: object) -> None:
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.settimeout(SLICE)
        try:
            self._socket.connect(where)  # type: ignore[arg-type]  # an address of that family
        except BaseException:
            self._socket.close()
            raise

    def send(self, messages: deque[bytes]) -> None:
        while messages:
            self._socket.send(messages[0])
            messages.popleft()

    def close(self) -> None:
        self._socket.close()


class Stream:
    """Messages one after the other, each with its length before it. See `orlop_sdk.logs.relay.Outlet`."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = memoryview(b"")
        self._poll = select.poll()
        self._poll.register(connection, _GONE)

    def send(self, messages: deque[bytes]) -> None:
        if not self._rest:
            # What goes into a connection that the server has closed is lost without an error.
            if self._poll.poll(0):
                raise ConnectionResetError("the server closed the connection")
            self._rest = memoryview(b"".join(b"%d %s" % (len(message), message) for message in messages))
        self._rest = self._rest[self._socket.send(self._rest) :]
        if not self._rest:
            messages.clear()

    def close(self) -> None:
        connection = self._socket
        connection.settimeout(_LINGER)
        try:
            with suppress(OSError):
                if isinstance(connection, ssl.SSLSocket):
                    connection = connection.unwrap()
            with suppress(OSError):
                # A close with something unread (a session ticket of TLS) would take back what the server has not read.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 12):
                    pass
        finally:
            connection.close()
            self._socket.close()


_datagrams: type[Outlet] = Datagrams
_stream: type[Outlet] = Stream
