# SPDX-License-Identifier: Apache-2.0
"""The ttrpc server for shims, over a live table."""

from __future__ import annotations

from collections.abc import Mapping

from orlop.blocking import run_blocking
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.serving.socketfile import SocketFile
from orlop_sdk.ttrpc.server import Server
from orlop_services.servers.config import TtrpcConfig


class TtrpcServer:
    """Listens on a unix socket, for processes of the daemon's own user only."""

    def __init__(self, config: TtrpcConfig, methods: Mapping[str, RpcMethod]) -> None:
        self._file = SocketFile(config.address, config.uid, config.gid)
        self._server = Server(methods, same_user=True)
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
        await run_blocking(self._file.remove)
        await self._server.close()
