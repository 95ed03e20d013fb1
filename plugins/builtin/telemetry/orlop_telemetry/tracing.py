# SPDX-License-Identifier: Apache-2.0
"""Spans for calls. OpenTelemetry's SDK is imported when a `Tracing` is made, and not before."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from orlop import context
from orlop.blocking import run_blocking
from orlop.errors import FailedPrecondition, code_of
from orlop.hooks import hookimpl
from orlop.interfaces.observer import CallInfo, Observation, SpanProcessor
from orlop_sdk.rpc.channel import set_trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_log = logging.getLogger(__name__)

SERVICE: Final = "orlopd"
#: Seconds that spans get to be sent when the daemon stops.
_LAST: Final = 3.0
#: Codes that are the server's fault, so that their spans count as failed (OpenTelemetry's conventions for gRPC).
_FAULTS: Final = frozenset({2, 4, 12, 13, 14, 15})
#: For a client, every code but OK is a failure (the same conventions).
_ALL: Final = range(1, 17)


class Tracing:
    """Has spans made and given to *processors*, those that are there when it starts."""

    def __init__(self, processors: Mapping[str, SpanProcessor], version: str) -> None:
        self._processors = processors
        self._version = version
        self.provider: TracerProvider | None = None

    async def start(self) -> None:
        try:
            self.provider = await run_blocking(_provider, list(self._processors.values()), self._version)
        except ImportError as error:
            raise FailedPrecondition(
                f'traces need packages that are not installed ({error.name}); install "orlop-telemetry[otlp]"'
            ) from error

    async def close(self) -> None:
        provider, self.provider = self.provider, None
        if provider is None:
            return
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut() -> None:
            provider.shutdown()
            with suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(done.set)

        # A thread that the process does not wait for at its end, unlike those of a pool: it tries again for long.
        threading.Thread(target=shut, name="traces", daemon=True).start()
        try:
            async with asyncio.timeout(_LAST):
                await done.wait()
        except TimeoutError:
            _log.warning("traces: the last spans could not be sent within %g s", _LAST)


def _provider(processors: list[SpanProcessor], version: str) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    attributes = {"service.version": version}
    if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        attributes["service.name"] = SERVICE
    # The sampler, and limits of spans, come from the environment.
    made = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    for each in processors:
        made.add_span_processor(each)  # type: ignore[arg-type]  # the same methods, without the base class
    return made


class _Unseen:
    """The observation of a call while there is nothing to trace with."""

    def received(self) -> None:
        return

    def sent(self) -> None:
        return

    def ended(self, _code: int, _error: BaseException | None) -> None:
        return


class _Seen(_Unseen):
    def __init__(self, span: Span) -> None:
        self._span = span

    def ended(self, code: int, error: BaseException | None) -> None:
        _end(self._span, code, error, _FAULTS)


_UNSEEN: Final = _Unseen()


class SpanCalls:
    """A span for each call, within the trace that its client named (W3C Trace Context)."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def began(self, call: CallInfo) -> Observation:
        provider = self._tracing.provider
        if provider is None:
            return _UNSEEN
        from opentelemetry import trace
        from opentelemetry.baggage.propagation import W3CBaggagePropagator
        from opentelemetry.context import Context, attach
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = Context()
        if call.trace:
            parent = W3CBaggagePropagator().extract(
                call.trace, TraceContextTextMapPropagator().extract(call.trace, parent)
            )
        span = provider.get_tracer("orlop").start_span(
            call.path.removeprefix("/"), parent, trace.SpanKind.SERVER, _attributes(call.path, call.transport)
        )
        # Never detached: the task that answers the call ends with it.
        within = trace.set_span_in_context(span, parent)
        attach(within)
        told = dict(call.trace)
        TraceContextTextMapPropagator().inject(told, within)
        set_trace(told)  # for log lines, and for what needs no SDK to pass it on
        return _Seen(span)


class ShimSpans:
    """A span for each call to a shim, of which the shim is told, so that its own can be below it."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    @hookimpl
    def orlop_shim_call(self, path: str, metadata: dict[str, str]) -> Callable[[BaseException | None], None] | None:
        provider = self._tracing.provider
        if provider is None:
            return None
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        span = provider.get_tracer("orlop").start_span(
            path.removeprefix("/"), kind=trace.SpanKind.CLIENT, attributes=_attributes(path, "ttrpc")
        )
        TraceContextTextMapPropagator().inject(metadata, trace.set_span_in_context(span))
        return partial(_sent, span)


def _attributes(path: str, transport: str) -> dict[str, str]:
    service, _, method = path.removeprefix("/").rpartition("/")
    attributes = {"rpc.system": transport, "rpc.service": service, "rpc.method": method}
    if (namespace := context.namespace_or_none()) is not None:
        attributes["containerd.namespace"] = namespace
    return attributes


def _sent(span: Span, error: BaseException | None) -> None:
    _end(span, 0 if error is None else code_of(error), error, _ALL)


def _end(span: Span, code: int, error: BaseException | None, faults: Container[int]) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("rpc.grpc.status_code", code)
    if code in faults:
        span.set_status(StatusCode.ERROR, str(error))
    span.end()
