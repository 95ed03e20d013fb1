# SPDX-License-Identifier: Apache-2.0
"""gRPC servers over a live table: a unix socket for local clients, a TCP port for what may be reached from afar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from orlop.blocking import run_blocking
from orlop.errors import InvalidArgument, Unavailable
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.rpc.grpc_server import TableHandler
from orlop_sdk.serving.socketfile import SocketFile
from orlop_services.servers.config import GrpcConfig, TcpConfig

#: Seconds that calls in progress get when a server closes. Streams of events never end by themselves, so this is spent.
_GRACE = 0.5


class UnixServer:
    """Listens on a unix socket."""

    def __init__(self, config: GrpcConfig, methods: Mapping[str, RpcMethod]) -> None:
        self._config = config
        self._methods = methods
        self._file = SocketFile(config.address, config.uid, config.gid)
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"unix://{self._file.path}" if self._server is not None else ""

    async def start(self) -> None:
        server = _server(self._config, self._methods)
        path = await run_blocking(self._file.prepare)
        try:
            _bind(server, f"unix:{path}", self._config.address, None)
            await server.start()
            await run_blocking(self._file.publish)
        except BaseException:
            await server.stop(0)
            await run_blocking(self._file.remove)
            raise
        self._server = server

    async def close(self) -> None:
        # The file goes first: a client that comes now shall find no socket rather than one nobody answers.
        await run_blocking(self._file.remove)
        server, self._server = self._server, None
        if server is not None:
            await server.stop(_GRACE)


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
            port = _bind(server, self._config.address, self._config.address, credentials)
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


def _server(config: GrpcConfig | TcpConfig, methods: Mapping[str, RpcMethod]) -> grpc.aio.Server:
    options = [
        ("grpc.max_receive_message_length", config.max_recv_message_size),
        ("grpc.max_send_message_length", config.max_send_message_size),
        # Two daemons on one port would share its connections between them instead of one of them failing.
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((TableHandler(methods), _Unknown(methods)))
    return server


class _Unknown(grpc.GenericRpcHandler):
    """Answers what no service does, in the words that Go's servers use and some clients look for."""

    def __init__(self, methods: Mapping[str, RpcMethod]) -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        service, _, method = str(handler_call_details.method).removeprefix("/").rpartition("/")
        known = any(path.startswith(f"/{service}/") for path in self._methods)
        text = f"unknown method {method} for service {service}" if known else f"unknown service {service}"

        async def refuse(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)

        return grpc.stream_stream_rpc_method_handler(refuse)


def _bind(server: grpc.aio.Server, target: str, address: str, credentials: grpc.ServerCredentials | None) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(target)
        return server.add_secure_port(target, credentials)
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
