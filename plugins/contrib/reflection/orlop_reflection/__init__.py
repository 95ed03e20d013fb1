# SPDX-License-Identifier: Apache-2.0
"""gRPC server reflection: what the daemon serves, told to clients that have no descriptions of it."""

from __future__ import annotations

from collections.abc import Iterable

from orlop import InitContext, PluginConfig
from orlop.interfaces.rpc import GRPC_SERVICE, RpcService


@GRPC_SERVICE.plugin("reflection")
async def reflection(ctx: InitContext[PluginConfig]) -> RpcService:
    """Describes the services of all plugins, as they come and go."""
    from orlop_reflection.service import Reflection

    def services() -> Iterable[RpcService]:
        # It must not require its own type, so it looks at the running plugins instead.
        for status in ctx.plugins.statuses():
            if status.type == GRPC_SERVICE.name and isinstance(found := ctx.plugins.instance(status.uri), RpcService):
                yield found

    return Reflection(services)
