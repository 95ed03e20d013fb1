# SPDX-License-Identifier: Apache-2.0
"""The gRPC server on a unix socket, over which nearly all calls come: `orlop_sdk.http2` over a live table."""

from __future__ import annotations

from collections.abc import Mapping

from orlop.blocking import run_blocking
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.http2.calls import Limits
from orlop_sdk.http2.server import Server
from orlop_sdk.serving.socketfile import SocketFile
from orlop_services.servers.config import GrpcConfig

#: Seconds that calls in progress get when a server closes. Streams of events never end by themselves, so this is spent.
_GRACE = 0.5


class UnixServer:
    """Listens on a unix socket."""

    def __init__(self, config: GrpcConfig, methods: Mapping[str, RpcMethod]) -> None:
        self._file = SocketFile(config.address, config.uid, config.gid)
        limits = Limits(config.max_recv_message_size, config.max_send_message_size)
        self._server = Server(methods, limits, connections=config.max_connections)
        self._address = ""

    @property
    def address(self) -> str:
        return self._address

    async def start(self) -> None:
        try:
            await self._server.serve(await run_blocking(self._file.listen))
            await run_blocking(self._file.publish)
        except BaseException:
            await self.close()
            raise
        self._address = f"unix://{self._file.path}"

    async def close(self) -> None:
        self._address = ""
        # The file goes first: a client that comes now shall find no socket rather than one nobody answers.
        await run_blocking(self._file.remove)
        await self._server.close(_GRACE)
