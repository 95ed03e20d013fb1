# SPDX-License-Identifier: Apache-2.0
"""Config of the servers; keys and defaults are containerd's."""

from __future__ import annotations

import os
from typing import Final, Self

from pydantic import Field, model_validator

from orlop.plugin import PluginConfig

DEFAULT_ADDRESS: Final = "/run/containerd/containerd.sock"
#: 16 MiB; grpc's own 4 MiB are too few for a list of some thousand containers.
_MESSAGE: Final = 16 << 20


class GrpcConfig(PluginConfig):
    """The unix socket for clients."""

    address: str = DEFAULT_ADDRESS
    """Path of the socket; 104 bytes at most."""
    uid: int = Field(default_factory=os.geteuid)
    """User who owns the socket."""
    gid: int = Field(default_factory=os.getegid)
    """Group of the socket; its members may use the daemon, which makes them as good as root."""
    max_recv_message_size: int = _MESSAGE
    """Most bytes in a message from a client."""
    max_send_message_size: int = _MESSAGE
    """Most bytes in a message to a client."""
    max_connections: int = Field(default=0, ge=0)
    """Most clients at a time. 0: as many as the limit of open files allows, less an eighth, or 256, for other work."""


class TtrpcConfig(PluginConfig):
    """The unix socket for shims."""

    address: str = f"{DEFAULT_ADDRESS}.ttrpc"
    """Path of the socket; 104 bytes at most."""
    uid: int = Field(default_factory=os.geteuid)
    """User who owns the socket. Only processes of the daemon's own user are answered."""
    gid: int = Field(default_factory=os.getegid)
    """Group of the socket."""


class TcpConfig(PluginConfig):
    """The TCP port for clients. Only services that say they may be reached over TCP are there."""

    address: str = ""
    """host:port to listen on; no server when empty."""
    tls_ca: str = ""
    """File with the CA that clients' certificates must be signed by; no certificate is asked for when empty."""
    tls_cert: str = ""
    """File with the server's certificate; the connection is not encrypted when empty."""
    tls_key: str = ""
    """File with the certificate's private key."""
    tls_common_name: str = ""
    """Name that the server's certificate is for; only containerd on Windows uses it."""
    max_recv_message_size: int = _MESSAGE
    """Most bytes in a message from a client."""
    max_send_message_size: int = _MESSAGE
    """Most bytes in a message to a client."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key belong together; give both or none")
        if self.tls_ca and not self.tls_cert:
            raise ValueError("tls_ca asks clients for certificates, which needs tls_cert and tls_key too")
        return self
