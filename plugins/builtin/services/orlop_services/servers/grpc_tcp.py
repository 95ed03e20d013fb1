# SPDX-License-Identifier: Apache-2.0
"""The gRPC server on a TCP port, for what may be reached from afar. TLS is grpc's, and so is the server.

Imported only where an address is configured, for grpc takes memory and time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from orlop.blocking import run_blocking
from orlop.errors import InvalidArgument, Unavailable
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.http2.connection import MAX_STREAMS
from orlop_sdk.rpc.grpc_server import TableHandler
from orlop_services.servers.config import TcpConfig

#: Seconds that calls in progress get when the server closes.
_GRACE: Final = 0.5


class TcpServer:
    """Listens on a TCP port, with TLS where there is a certificate."""

    def __init__(self, config: TcpConfig, methods: Mapping[str, RpcMethod]) -> None:
        self._config = config
        self._methods = methods
        self._server: grpc.aio.Server | None = None
        self._address = ""

    @property
    def address(self) -> str:
        return self._address

    async def start(self) -> None:
        server = _server(self._config, self._methods)
        credentials = await run_blocking(_credentials, self._config)
        try:
            port = _bind(server, self._config.address, credentials)
            await server.start()
        except BaseException:
            await server.stop(0)
            raise
        self._address = f"tcp://{self._config.address.rpartition(':')[0]}:{port}"
        self._server = server

    async def close(self) -> None:
        server, self._server = self._server, None
        self._address = ""
        if server is not None:
            await server.stop(_GRACE)


def _server(config: TcpConfig, methods: Mapping[str, RpcMethod]) -> grpc.aio.Server:
    options = [
        ("grpc.max_receive_message_length", config.max_recv_message_size),
        ("grpc.max_send_message_length", config.max_send_message_size),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        # Two daemons on one port would share its connections between them instead of one of them failing.
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((TableHandler(methods),))
    return server


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise Unavailable(f'address "{address}": cannot listen there: {error}') from error


def _credentials(config: TcpConfig) -> grpc.ServerCredentials | None:
    if not config.tls_cert:
        return None
    key, certificate = _read(config.tls_key), _read(config.tls_cert)
    authority = _read(config.tls_ca) if config.tls_ca else None
    return grpc.ssl_server_credentials([(key, certificate)], authority, authority is not None)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgument(f'file "{path}": {error.strerror}; correct the path in the config') from error
