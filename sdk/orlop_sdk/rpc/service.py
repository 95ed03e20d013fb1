# SPDX-License-Identifier: Apache-2.0
"""A protobuf service as a class: methods named as in the ``.proto`` become the table that servers mount.

::

    class VersionService(Service):
        service = "containerd.services.version.v1.Version"

        async def Version(self, request: Empty) -> VersionResponse:
            return VersionResponse(version="1.2.3")

The class is checked when it is made: a method the service does not have, or one of the wrong kind (a coroutine where
responses are streamed, say), is a TypeError.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Final

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from orlop.errors import Unimplemented
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.rpc import descriptors

#: Seconds that calls in progress get when a service is taken away. A wait for a container may be among them.
_PATIENCE: Final = 2.0


class Service:
    """Base of service implementations; an `orlop.interfaces.rpc.RpcService`.

    A method that the subclass lacks answers `orlop.errors.Unimplemented`. Names that begin with a capital are remote
    methods; everything else in the subclass is its own.
    """

    service: ClassVar[str | ServiceDescriptor]
    """The service this class implements: its full name or its descriptor."""
    _running = 0
    _idle: asyncio.Event | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "service"):
            return
        known = {method.name: method for method in _descriptor(cls).methods}
        for name in dir(cls):
            if not name[0].isupper():
                continue
            if name not in known:
                raise TypeError(f"{cls.__name__}.{name}: service {_descriptor(cls).full_name} has no such method")
            _check_kind(cls, known[name])

    def methods(self) -> Mapping[str, RpcMethod]:
        """All methods of the service by full path, the unimplemented ones included."""
        return {descriptors.path(method): self._method(method) for method in _descriptor(type(self)).methods}

    async def close(self) -> None:
        """Give calls in progress that have one response a moment to end, before what they use is closed.

        Those that take longer go on. Streams are not waited for: they may well never end. May be called twice.
        """
        if self._running:
            self._idle = asyncio.Event()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), _PATIENCE)

    def _counted(self, handler: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        @functools.wraps(handler)
        async def call(request: Any) -> Any:
            self._running += 1
            try:
                return await handler(request)
            finally:
                self._running -= 1
                if self._idle is not None and not self._running:
                    self._idle.set()

        return call

    def _method(self, method: MethodDescriptor) -> RpcMethod:
        handler = getattr(self, method.name, None) or _unimplemented(method)
        return RpcMethod(
            handler=handler if method.server_streaming else self._counted(handler),
            request=descriptors.message_class(method.input_type),
            response=descriptors.message_class(method.output_type),
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
        )


def _descriptor(cls: type[Service]) -> ServiceDescriptor:
    return descriptors.service(cls.service) if isinstance(cls.service, str) else cls.service


def _check_kind(cls: type[Service], method: MethodDescriptor) -> None:
    function = getattr(cls, method.name)
    if method.server_streaming:
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{cls.__name__}.{method.name}: streams responses; make it an async generator")
    elif not inspect.iscoroutinefunction(function):
        raise TypeError(f"{cls.__name__}.{method.name}: has one response; make it `async def` without yield")


def _unimplemented(method: MethodDescriptor) -> Callable[..., Any]:
    error = f'method "{descriptors.path(method)}": not implemented'

    async def one(_request: Any) -> Any:
        raise Unimplemented(error)

    def many(_request: Any) -> AsyncIterator[Any]:
        raise Unimplemented(error)

    return many if method.server_streaming else one
