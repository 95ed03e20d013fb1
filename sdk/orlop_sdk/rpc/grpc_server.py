# SPDX-License-Identifier: Apache-2.0
"""Serve tables of methods with grpc.aio, while they change: services come and go without a restart.

::

    server = grpc.aio.server(options=message_limits())
    server.add_generic_rpc_handlers((TableHandler(methods),))
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from orlop.errors import OrlopError
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.rpc.channel import Metadata, closing, incoming
from orlop_sdk.rpc.edge import MAX_MESSAGE, argument, status_text, unserved
from orlop_sdk.rpc.status import failure

_STATUS_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

Context = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Context], Awaitable[bytes | None]]


def message_limits(limit: int = MAX_MESSAGE) -> list[tuple[str, int]]:
    """Options for a server or a channel that bound messages in both directions to *limit* bytes."""
    return [("grpc.max_receive_message_length", limit), ("grpc.max_send_message_length", limit)]


class TableHandler(grpc.GenericRpcHandler):
    """Answers every method that is in a table at the time of the call.

    ``methods`` maps full paths to methods. Handlers run in the namespace and lease that the call's metadata name. An
    error of `orlop.errors` becomes its status code with its text; any other exception is logged, and the client gets
    the text without a traceback.
    """

    def __init__(self, methods: Mapping[str, RpcMethod]) -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler for a call."""
        path = str(handler_call_details.method)
        method = self._methods.get(path)
        if method is None:
            return grpc.stream_stream_rpc_method_handler(_refusing(unserved(path, self._methods)))
        metadata = tuple(handler_call_details.invocation_metadata or ())
        behaviour = _guarded(path, metadata, _many(method) if method.server_streaming else _one(method))
        return _MAKERS[method.client_streaming, method.server_streaming](behaviour)


# Messages pass as bytes and are decoded here, so that a malformed one gets a proper status.
_MAKERS: Final[dict[tuple[bool, bool], Callable[[Any], grpc.RpcMethodHandler[Any, Any]]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _guarded(path: str, metadata: Metadata, behaviour: Behaviour) -> Behaviour:
    async def run(received: Any, context: Context) -> bytes | None:
        try:
            with incoming(metadata):
                return await behaviour(received, context)
        # The edge: whatever a handler raises, the client gets a status; `failure` logs what is a bug.
        except Exception as error:  # noqa: BLE001
            told = failure(error, path)
        await _abort(context, told)

    return run


def _refusing(error: OrlopError) -> Behaviour:
    async def refuse(_received: Any, context: Context) -> None:
        await _abort(context, error)

    return refuse


async def _abort(context: Context, error: OrlopError) -> NoReturn:
    await context.abort(_STATUS_CODES[error.code], status_text(error))


def _one(method: RpcMethod) -> Behaviour:
    async def behaviour(received: Any, _context: Context) -> bytes:
        response = await method.handler(argument(method, received))
        return bytes(response.SerializeToString())

    return behaviour


def _many(method: RpcMethod) -> Behaviour:
    # A coroutine that writes, not a generator: its scope and clean-up then belong to the call's own task.
    async def behaviour(received: Any, context: Context) -> None:
        async with closing(method.handler(argument(method, received))) as responses:
            async for response in responses:
                await context.write(response.SerializeToString())

    return behaviour
