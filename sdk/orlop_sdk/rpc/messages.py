# SPDX-License-Identifier: Apache-2.0
"""Turn the bytes of requests into what a handler takes: one message, or an async iterator of them."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError

from orlop.errors import InvalidArgument
from orlop.interfaces.rpc import RpcMethod


def decode(method: RpcMethod, data: bytes) -> Any:
    """The request in *data*. Raises `InvalidArgument` when it is malformed."""
    try:
        return method.request.FromString(data)
    except DecodeError as error:
        raise InvalidArgument(f"request of {len(data)} bytes: not a {method.request.__name__}") from error


async def decoded(method: RpcMethod, messages: AsyncIterable[bytes]) -> AsyncIterator[Any]:
    """The requests in *messages*, as they come. Raises `InvalidArgument` at the first malformed one."""
    async for data in messages:
        yield decode(method, data)
