# SPDX-License-Identifier: Apache-2.0
"""What OpenTelemetry's environment variables ask for, as far as it decides whether anything is imported at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from orlop.errors import InvalidArgument, SkipPlugin

Protocol = Literal["http/protobuf", "grpc"]
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def protocol(environment: Mapping[str, str]) -> Protocol:
    """How spans are sent; the default is ``http/protobuf``.

    Raises `SkipPlugin` when nobody wants traces, and `InvalidArgument` for a value that is not known.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        raise SkipPlugin("OTEL_SDK_DISABLED is true")
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if exporter == "none":
        raise SkipPlugin("OTEL_TRACES_EXPORTER is none")
    if not any(environment.get(name) for name in _ENDPOINTS):
        raise SkipPlugin("no endpoint; to send traces set OTEL_EXPORTER_OTLP_ENDPOINT for the daemon")
    if exporter != "otlp":
        raise InvalidArgument(f'OTEL_TRACES_EXPORTER "{exporter}": not supported; use otlp or none')
    chosen = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "http/protobuf")
    if chosen not in ("http/protobuf", "grpc"):
        raise InvalidArgument(f'OTEL_EXPORTER_OTLP_PROTOCOL "{chosen}": not supported; use http/protobuf or grpc')
    return "grpc" if chosen == "grpc" else "http/protobuf"
