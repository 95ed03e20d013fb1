# SPDX-License-Identifier: Apache-2.0
"""Clients made from descriptors: one attribute for each method of a service, over any channel.

::

    version = Stub(channel, "containerd.services.version.v1.Version")
    with orlop.context.scope(namespace="default"):
        answer = await version.Version(Empty(), timeout=5)

A method with many responses returns a `Responses` to iterate over; ``async with`` ends it early. A method that takes
many requests takes them from an async iterable.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any, Self

import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from orlop.errors import OrlopError, from_code
from orlop_sdk.rpc import descriptors
from orlop_sdk.rpc.channel import Channel, Metadata, outgoing


class Stub:
    """The methods of a service as attributes.

    Each takes the request and the keywords ``timeout`` (seconds, None for none) and ``metadata``; namespace and lease
    of `orlop.context` are added. Failures are errors of `orlop.errors`, whatever the channel.
    """

    def __init__(self, channel: Channel | grpc.aio.Channel, service: str | ServiceDescriptor) -> None:
        self._channel = channel
        self._service = descriptors.service(service) if isinstance(service, str) else service

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = None if name.startswith("_") else self._service.methods_by_name.get(name)
        if method is None:
            raise AttributeError(f'service "{self._service.full_name}": no method "{name}"')
        call = _bind(self._channel, method)
        # The next access finds it without coming here.
        self.__dict__[name] = call
        return call

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._service.methods_by_name]


class Responses(AsyncIterator[Any]):
    """The responses of one call, which is under way. Leave early by ``async with`` or `aclose`."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._messages = aiter(call)

    async def __anext__(self) -> Any:
        try:
            return await anext(self._messages)
        except grpc.aio.AioRpcError as error:
            raise from_grpc(error) from error

    async def aclose(self) -> None:
        """Cancel what is left of the call."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def from_grpc(error: grpc.aio.AioRpcError) -> OrlopError:
    """Our error for one of grpc's."""
    return from_code(error.code().value[0], error.details() or "")


def _bind(channel: Channel | grpc.aio.Channel, method: MethodDescriptor) -> Callable[..., Any]:
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    request, response = (descriptors.message_class(each) for each in (method.input_type, method.output_type))
    make = getattr(channel, kind)
    start = make(descriptors.path(method), request.SerializeToString, response.FromString)
    return functools.partial(_many if method.server_streaming else _one, start)


async def _one(
    start: Callable[..., Any],
    request: Any | AsyncIterable[Any],
    /,
    *,
    timeout: float | None = None,
    metadata: Metadata = (),
) -> Any:
    try:
        return await start(request, timeout=timeout, metadata=outgoing(metadata))
    except grpc.aio.AioRpcError as error:
        raise from_grpc(error) from error


def _many(
    start: Callable[..., Any],
    request: Any | AsyncIterable[Any],
    /,
    *,
    timeout: float | None = None,
    metadata: Metadata = (),
) -> Responses:
    return Responses(start(request, timeout=timeout, metadata=outgoing(metadata)))
