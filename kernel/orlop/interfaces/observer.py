# SPDX-License-Identifier: Apache-2.0
"""Who watches: observers of calls, and numbers that any plugin may offer.

An observer of calls hears of each one that a server answers; figures for Prometheus and spans for traces are made so.
Servers look for observers about once a second, and a daemon without any spends nothing on them. A plugin that has
numbers of its own implements `Figures`, and they appear wherever numbers are shown, without knowing by whom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, runtime_checkable

from orlop.plugin import PluginType
from orlop.values import EMPTY, Labels


@dataclass(frozen=True, slots=True)
class CallInfo:
    """A call that is about to be answered."""

    path: str
    """``/package.Service/Method``."""
    transport: str
    """``grpc`` or ``ttrpc``."""
    client_streaming: bool = False
    """Whether there may be many requests."""
    server_streaming: bool = False
    """Whether there may be many responses."""
    trace: Mapping[str, str] = EMPTY
    """What the client sent of ``traceparent``, ``tracestate`` and ``baggage`` (W3C Trace Context)."""


class Observation(Protocol):
    """What an observer keeps of one call."""

    def received(self) -> None:
        """A request has come. Called once where requests are not streamed."""

    def sent(self) -> None:
        """A response is handed to the transport."""

    def ended(self, code: int, error: BaseException | None) -> None:
        """The call is over, with that status code; called exactly once, also for calls that were cancelled."""


@runtime_checkable
class CallObserver(Protocol):
    """Hears of calls to services. Calls of unknown methods, and those a transport refuses, are none.

    Its methods run on the event loop, in the task that answers the call: what they put into context variables is there
    for the handler. They must be quick, and must not raise.
    """

    def began(self, call: CallInfo) -> Observation:
        """A call has come; its handler is about to run."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number, or one for each set of labels, under a name as Prometheus wants it (``a_b_total`` for counters)."""

    name: str
    """The name, without what a summary's parts add to it."""
    help: str
    """One line for readers."""
    kind: Literal["counter", "gauge", "summary"]
    """A counter only grows; a summary is the sum of something, and of how many."""
    samples: Sequence[tuple[Labels, float]] = ()
    """Labels and value; one without labels for a single number."""
    counts: Sequence[float] = ()
    """Of how many each sample is the sum; for a summary only."""


@runtime_checkable
class Figures(Protocol):
    """Optional power of any instance: numbers for those who watch the daemon."""

    def figures(self) -> Sequence[Figure]:
        """The numbers now. Called on the event loop at each look; must be quick."""


@runtime_checkable
class SpanProcessor(Protocol):
    """What takes the spans of traces somewhere: OpenTelemetry's own interface of that name (``opentelemetry.sdk``)."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """A span begins."""

    def on_end(self, span: Any) -> None:
        """A span is complete."""

    def shutdown(self) -> None:
        """Send what waits, and stop. Blocks."""


METRICS: Final = PluginType("io.containerd.metrics.v1", CallObserver, group="orlop.metrics.v1", many=True)
call_observer = METRICS.plugin
"""Decorator that declares an observer of calls."""
TRACING_PROCESSOR: Final = PluginType(
    "io.containerd.tracing.processor.v1", SpanProcessor, group="orlop.tracing_processor.v1", many=True
)
span_processor = TRACING_PROCESSOR.plugin
"""Decorator that declares where spans go."""
