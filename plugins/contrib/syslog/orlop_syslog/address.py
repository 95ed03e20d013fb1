# SPDX-License-Identifier: Apache-2.0
"""Addresses of syslog servers, as Docker writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

# The well-known ports: RFC 3164 and 6587 use 514, RFC 5425 has 6514.
_PORTS: Final = {"udp": 514, "tcp": 514, "tcp+tls": 6514}
_UNIX: Final = ("unix", "unixgram")
_LONGEST_PATH: Final = 107


@dataclass(frozen=True, slots=True)
class Address:
    """Where messages go."""

    transport: str
    """``unixgram``, ``udp``, ``tcp`` or ``tcp+tls``."""
    path: str = ""
    """The socket of ``unixgram``."""
    host: str = ""
    """Name or number of the host, for all others."""
    port: int = 0
    """Its port."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one. Raises ValueError, for use in models."""
        # A + in the query of a URI is a blank.
        text = text.replace("tcp tls://", "tcp+tls://", 1)
        parts = urlsplit(text)
        if parts.scheme in _UNIX:
            if parts.netloc or not parts.path.startswith("/") or len(parts.path.encode()) > _LONGEST_PATH:
                raise ValueError(f'"{text}" needs the absolute path of a socket; write unixgram:///dev/log')
            return cls("unixgram", path=parts.path)
        if parts.scheme not in _PORTS:
            raise ValueError(f'"{text}" must begin with unixgram://, udp://, tcp:// or tcp+tls://')
        if not parts.hostname or parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
            raise ValueError(f'"{text}" needs a host and no path; write {parts.scheme}://host:port')
        # These raise ValueError for what is no name, and no port.
        parts.hostname.encode("idna")
        port = parts.port or _PORTS[parts.scheme]
        return cls(parts.scheme, host=parts.hostname, port=port)

    def __str__(self) -> str:
        if self.transport == "unixgram":
            return f"unixgram://{self.path}"
        return f"{self.transport}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"
