# SPDX-License-Identifier: Apache-2.0
"""Config of this room; keys and defaults are containerd's."""

from __future__ import annotations

from orlop.plugin import PluginConfig


class MetricsConfig(PluginConfig):
    """Where Prometheus finds the figures."""

    address: str = ""
    """host:port to listen on, for GET /v1/metrics; no server when empty. Whoever reaches it may read."""


class GrpcPrometheusConfig(PluginConfig):
    """Figures of calls."""

    grpc_histogram: bool = False
    """Whether to count how long calls take as well, in a histogram for each method."""


class DebugConfig(PluginConfig):
    """The socket for a look inside."""

    address: str = ""
    """Path of a unix socket, or host:port; no server when empty. It shows much, so keep it from strangers."""
    uid: int = 0
    """User who owns the socket."""
    gid: int = 0
    """Group of the socket, whose members may look as well."""


class OtlpConfig(PluginConfig):
    """Where spans go. The keys are of old, and no longer read: the environment variables OTEL_... say it all."""

    endpoint: str = ""
    """Ignored; set OTEL_EXPORTER_OTLP_ENDPOINT."""
    protocol: str = ""
    """Ignored; set OTEL_EXPORTER_OTLP_PROTOCOL."""
    insecure: bool = False
    """Ignored; set OTEL_EXPORTER_OTLP_INSECURE."""


class TracingConfig(PluginConfig):
    """Traces. The keys are of old, and no longer read: the environment variables OTEL_... say it all."""

    service_name: str = ""
    """Ignored; set OTEL_SERVICE_NAME."""
    sampling_ratio: float = 1.0
    """Ignored; set OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG."""
