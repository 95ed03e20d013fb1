# SPDX-License-Identifier: Apache-2.0
"""The registrations of this room. What nobody asked for is skipped before anything of it is imported."""

from __future__ import annotations

import os
from typing import cast

from orlop.errors import SkipPlugin
from orlop.hooks import hook
from orlop.interfaces.introspection import INTERNAL, Part
from orlop.interfaces.metadata import METADATA
from orlop.interfaces.observer import METRICS, TRACING_PROCESSOR, CallObserver, SpanProcessor
from orlop.interfaces.rpc import SERVER, Server
from orlop.interfaces.task import TASKS
from orlop.plugin import InitContext, NoConfig
from orlop_telemetry.config import DebugConfig, GrpcPrometheusConfig, MetricsConfig, OtlpConfig, TracingConfig


@SERVER.plugin("metrics", config=MetricsConfig, requires=(METADATA.optional(), TASKS.optional()))
async def metrics_server(ctx: InitContext[MetricsConfig]) -> Server:
    """Figures for Prometheus."""
    if not ctx.config.address:
        raise SkipPlugin('no address; to serve figures set [metrics] address = "127.0.0.1:1338"')
    from orlop_telemetry.containers import Containers
    from orlop_telemetry.metrics import MetricsServer

    containers = Containers(ctx.all(METADATA), ctx.all(TASKS), ctx.log)
    return MetricsServer(ctx.config.address, ctx.plugins, ctx.properties, containers)


@METRICS.plugin("grpc-prometheus", config=GrpcPrometheusConfig, requires=(SERVER.exact("metrics"),))
async def grpc_prometheus(ctx: InitContext[GrpcPrometheusConfig]) -> CallObserver:
    """Figures of calls, for the metrics server."""
    from orlop_telemetry.calls import PrometheusCalls
    from orlop_telemetry.metrics import MetricsServer

    server = cast(MetricsServer, ctx.get(SERVER, "metrics"))
    return PrometheusCalls(server.registry, histogram=ctx.config.grpc_histogram)


@SERVER.plugin("debug", config=DebugConfig)
async def debug_server(ctx: InitContext[DebugConfig]) -> Server:
    """A look inside the running daemon."""
    if not ctx.config.address:
        raise SkipPlugin('no address; to look inside set [debug] address = "/run/containerd/debug.sock"')
    from orlop_telemetry.debug import DebugServer

    return DebugServer(ctx.config, ctx.plugins)


@TRACING_PROCESSOR.plugin("otlp", config=OtlpConfig)
async def otlp(ctx: InitContext[OtlpConfig]) -> SpanProcessor:
    """Sends spans to a collector."""
    from orlop_telemetry.environment import protocol

    chosen = protocol(os.environ)
    from orlop_telemetry.otlp import processor

    if ctx.config != OtlpConfig():
        ctx.log.warning("keys of this plugin are no longer read; use the environment variables OTEL_EXPORTER_OTLP_...")
    return await processor(chosen)


@INTERNAL.plugin("tracing", config=TracingConfig, requires=(TRACING_PROCESSOR,))
async def tracing(ctx: InitContext[TracingConfig]) -> Part:
    """Makes spans and hands them to whatever takes them."""
    from orlop_telemetry.tracing import Tracing

    if ctx.config != TracingConfig():
        ctx.log.warning("keys of this plugin are no longer read; use the environment variables OTEL_...")
    return Tracing(ctx.all(TRACING_PROCESSOR), ctx.properties.get("version", ""))


@METRICS.plugin("grpc-otel", requires=(INTERNAL.exact("tracing"),))
async def grpc_otel(ctx: InitContext[NoConfig]) -> CallObserver:
    """A span for each call."""
    from orlop_telemetry.tracing import SpanCalls, Tracing

    return SpanCalls(cast(Tracing, ctx.get(INTERNAL, "tracing")))


@hook("ttrpc-otel", requires=(INTERNAL.exact("tracing"),))
async def ttrpc_otel(ctx: InitContext[NoConfig]) -> object:
    """A span for each call to a shim."""
    from orlop_telemetry.tracing import ShimSpans, Tracing

    return ShimSpans(cast(Tracing, ctx.get(INTERNAL, "tracing")))
