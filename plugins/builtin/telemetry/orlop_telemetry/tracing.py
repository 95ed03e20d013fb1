# SPDX-License-Identifier: Apache-2.0
"""Spans for calls. OpenTelemetry's SDK is imported when a `Tracing` is made, and not before."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from orlop import context
from orlop.blocking import run_blocking
from orlop.errors import FailedPrecondition
from orlop.interfaces.observer import CallInfo, Observation, SpanProcessor

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_log = logging.getLogger(__name__)

SERVICE: Final = "orlopd"
#: Seconds that spans get to be sent when the daemon stops.
_LAST: Final = 3.0
#: Codes that are the server's fault, so that their spans count as failed (OpenTelemetry's conventions for gRPC).
_FAULTS: Final = frozenset({2, 4, 12, 13, 14, 15})


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
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("rpc.grpc.status_code", code)
        if code in _FAULTS:
            self._span.set_status(StatusCode.ERROR, str(error))
        self._span.end()


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
        service, _, method = call.path.removeprefix("/").rpartition("/")
        attributes = {"rpc.system": call.transport, "rpc.service": service, "rpc.method": method}
        if (namespace := context.namespace_or_none()) is not None:
            attributes["containerd.namespace"] = namespace
        span = provider.get_tracer("orlop").start_span(
            call.path.removeprefix("/"), parent, trace.SpanKind.SERVER, attributes
        )
        # Never detached: the task that answers the call ends with it.
        attach(trace.set_span_in_context(span, parent))
        return _Seen(span)
