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

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from orlop.errors import Unimplemented
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.rpc import descriptors


class Service:
    """Base of service implementations; an `orlop.interfaces.rpc.RpcService`.

    A method that the subclass lacks answers `orlop.errors.Unimplemented`. Names that begin with a capital are remote
    methods; everything else in the subclass is its own.
    """

    service: ClassVar[str | ServiceDescriptor]
    """The service this class implements: its full name or its descriptor."""

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

    def _method(self, method: MethodDescriptor) -> RpcMethod:
        return RpcMethod(
            handler=getattr(self, method.name, None) or _unimplemented(method),
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
