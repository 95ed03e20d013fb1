# SPDX-License-Identifier: Apache-2.0
"""What a `orlop_sdk.rpc.stub.Stub` needs of a channel, and how metadata and context become one another.

``grpc.aio.Channel`` is such a channel; `orlop_sdk.rpc.local.LocalChannel` and `orlop_sdk.ttrpc.client.Client` are too.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from orlop import context

T = TypeVar("T")
Metadata = Iterable[tuple[str, str | bytes]]

_TRACE_KEYS: Final = frozenset({"traceparent", "tracestate", "baggage"})
_trace: Final[ContextVar[dict[str, str] | None]] = ContextVar("orlop_trace", default=None)
#: W3C Trace Context, version 00; later ones may have more behind it. Ids of zeros are none.
_PARENT: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
_NAMESPACE_KEYS: Final = (context.NAMESPACE_HEADER, context.TTRPC_NAMESPACE_HEADER)


class Channel(Protocol):
    """Makes callables out of method paths, one kind for each way of streaming.

    Each takes the path, a serializer for requests and a deserializer for responses, and returns a callable that takes
    the request (or an async iterable of requests) and the keywords ``timeout`` (seconds) and ``metadata``. What that
    returns is awaited for the one response, or iterated over for several; the latter has ``cancel()``.
    """

    def unary_unary(self, method: str, *codecs: Any) -> Callable[..., Any]: ...

    def unary_stream(self, method: str, *codecs: Any) -> Callable[..., Any]: ...

    def stream_unary(self, method: str, *codecs: Any) -> Callable[..., Any]: ...

    def stream_stream(self, method: str, *codecs: Any) -> Callable[..., Any]: ...


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> None: ...


def outgoing(metadata: Metadata = ()) -> list[tuple[str, str | bytes]]:
    """Metadata for a call: the caller's own, and namespace and lease of the context unless it has these already."""
    pairs = list(metadata)
    present = {key.lower() for key, _ in pairs}
    for key, value in (
        (context.NAMESPACE_HEADER, context.namespace_or_none()),
        (context.LEASE_HEADER, context.lease()),
    ):
        if value is not None and key not in present:
            pairs.append((key, value))
    return pairs


def incoming(metadata: Metadata) -> AbstractContextManager[None]:
    """The scope that a call with this metadata runs in, to be entered in a task of its own.

    Of several values the first counts.
    """
    pairs = list(metadata)
    namespace, lease = named(pairs)
    set_trace(traced(pairs))
    return context.scope(namespace=namespace, lease=lease)


def traced(metadata: Metadata) -> dict[str, str]:
    """What metadata say of the trace that a call belongs to (W3C Trace Context and Baggage)."""
    found: dict[str, str] = {}
    for key, value in metadata:
        if isinstance(value, str) and key.lower() in _TRACE_KEYS:
            found.setdefault(key.lower(), value)
    return found


def trace() -> dict[str, str]:
    """What the metadata of the call that this task answers said of its trace; empty without."""
    return _trace.get() or {}


def trace_ids() -> tuple[str, str] | None:
    """The ids of the trace and of the span that this task belongs to, in hexadecimal; None without, or if malformed."""
    match = _PARENT.fullmatch(trace().get("traceparent", ""))
    return (match[1], match[2]) if match is not None else None


def set_trace(found: dict[str, str]) -> None:
    """Remember it for the rest of this task, which answers one call."""
    if found or _trace.get():
        _trace.set(found)


def named(metadata: Metadata) -> tuple[str | None, str | None]:
    """The namespace and the lease that metadata name."""
    found: dict[str, str] = {}
    for key, value in metadata:
        found.setdefault(key.lower(), value if isinstance(value, str) else value.decode("utf-8", "replace"))
    return next((found[key] for key in _NAMESPACE_KEYS if key in found), None), found.get(context.LEASE_HEADER)


@asynccontextmanager
async def closing(iterator: AsyncIterable[T]) -> AsyncIterator[AsyncIterable[T]]:
    """Close an async iterator at the end, if it can be closed: generators can, other iterators need not."""
    try:
        yield iterator
    finally:
        if isinstance(iterator, _Closable):
            await iterator.aclose()
