# SPDX-License-Identifier: Apache-2.0
"""Tell observers of calls (`orlop.interfaces.observer`) what happens: wraps the methods of a table, if there are any.

::

    methods = Observed(methods, observers, "grpc")
    server = Server(methods)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from orlop.errors import code_of
from orlop.interfaces.observer import CallInfo, CallObserver, Observation
from orlop.interfaces.rpc import RpcMethod
from orlop_sdk.rpc.channel import closing, trace

#: Seconds after which observers are looked for again. A look costs more than a call should pay.
_LOOK: Final = 1.0
_CANCELLED: Final = 1


class Observed(Mapping[str, RpcMethod]):
    """The methods of a table, observed by whoever wants to: observers may come and go. Without any it costs nothing."""

    def __init__(self, methods: Mapping[str, RpcMethod], observers: Mapping[str, CallObserver], transport: str) -> None:
        self._methods = methods
        self._observers = observers
        self._transport = transport
        self._found: tuple[CallObserver, ...] = ()
        self._wrapped: dict[str, tuple[RpcMethod, RpcMethod]] = {}
        self._next = 0.0

    def __getitem__(self, path: str) -> RpcMethod:
        if (now := time.monotonic()) >= self._next:
            self._next = now + _LOOK
            self._look()
        method = self._methods[path]
        if not self._found:
            return method
        known = self._wrapped.get(path)
        if known is None or known[0] is not method:
            known = self._wrapped[path] = method, observed(path, method, self._found, self._transport)
        return known[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    def _look(self) -> None:
        found = tuple(self._observers.values())
        if len(found) != len(self._found) or any(
            one is not other for one, other in zip(found, self._found, strict=True)
        ):
            self._found = found
            self._wrapped.clear()


class _All:
    """The observations of one call, by all observers, ended in the opposite order."""

    def __init__(self, info: CallInfo, observers: tuple[CallObserver, ...]) -> None:
        self._each: list[Observation] = [observer.began(info) for observer in observers]
        self._open = True

    def received(self) -> None:
        for each in self._each:
            each.received()

    def sent(self) -> None:
        for each in self._each:
            each.sent()

    def ended(self, error: BaseException | None) -> None:
        if not self._open:
            return
        self._open = False
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            code = _CANCELLED
        else:
            code = 0 if error is None else code_of(error)
        for each in reversed(self._each):
            each.ended(code, error)


def observed(path: str, method: RpcMethod, observers: tuple[CallObserver, ...], transport: str) -> RpcMethod:
    """The same method, of whose calls these observers hear."""
    info = CallInfo(path, transport, method.client_streaming, method.server_streaming)

    def begin() -> _All:
        sent = trace()
        return _All(replace(info, trace=sent) if sent else info, observers)

    async def one(received: Any) -> Any:
        call = begin()
        try:
            response = await method.handler(_requests(method, received, call))
            call.sent()
        except BaseException as error:
            call.ended(error)
            raise
        call.ended(None)
        return response

    async def many(received: Any) -> AsyncIterator[Any]:
        call = begin()
        try:
            async with closing(method.handler(_requests(method, received, call))) as responses:
                async for response in responses:
                    call.sent()
                    yield response
        except BaseException as error:
            call.ended(error)
            raise
        call.ended(None)

    return replace(method, handler=many if method.server_streaming else one)


def _requests(method: RpcMethod, received: Any, call: _All) -> Any:
    if method.client_streaming:
        return _counted(received, call)
    call.received()
    return received


async def _counted(requests: AsyncIterator[Any], call: _All) -> AsyncIterator[Any]:
    async for request in requests:
        call.received()
        yield request
