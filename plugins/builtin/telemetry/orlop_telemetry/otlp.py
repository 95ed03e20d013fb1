# SPDX-License-Identifier: Apache-2.0
"""Sends spans to a collector by OTLP. Imports OpenTelemetry's SDK, so only what is asked for may import this."""

from __future__ import annotations

from orlop.blocking import run_blocking
from orlop.errors import FailedPrecondition
from orlop.interfaces.observer import SpanProcessor
from orlop_telemetry.environment import Protocol


async def processor(protocol: Protocol) -> SpanProcessor:
    """What batches spans and sends them from a thread of its own; all else is set by ``OTEL_EXPORTER_OTLP_...``.

    Raises `FailedPrecondition` where the packages for it are not installed.
    """
    try:
        return await run_blocking(_make, protocol)
    except ImportError as error:
        raise FailedPrecondition(
            f'traces need packages that are not installed ({error.name}); install "orlop-telemetry[otlp]"'
        ) from error


def _make(protocol: Protocol) -> SpanProcessor:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

    exporter: SpanExporter
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        exporter = GrpcExporter()
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        exporter = HttpExporter()
    return BatchSpanProcessor(exporter)
