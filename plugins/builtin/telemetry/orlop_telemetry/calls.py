# SPDX-License-Identifier: Apache-2.0
"""Figures of calls, by the names that Go's servers of gRPC give them."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CollectorRegistry, CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from orlop.interfaces.observer import CallInfo, Observation

#: Upper bounds of the buckets, in seconds; Prometheus' usual ones.
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_CODES: Final = (
    *("OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists"),
    *("PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented"),
    *("Internal", "Unavailable", "DataLoss", "Unauthenticated"),
)
_TYPES: Final = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}
_LABELS: Final = ("grpc_type", "grpc_service", "grpc_method")

Key = tuple[str, str, str]


class _Durations:
    """One method's histogram."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def cumulated(self) -> list[tuple[str, float]]:
        total, found = 0, []
        for bound, count in zip((*BUCKETS, "+Inf"), self.counts, strict=True):
            total += count
            found.append((str(bound), float(total)))
        return found


class _Observation:
    __slots__ = ("_began", "_calls", "_key")

    def __init__(self, calls: PrometheusCalls, key: Key) -> None:
        self._calls = calls
        self._key = key
        self._began = time.perf_counter()

    def received(self) -> None:
        self._calls.messages_received[self._key] += 1

    def sent(self) -> None:
        self._calls.messages_sent[self._key] += 1

    def ended(self, code: int, _error: BaseException | None) -> None:
        name = _CODES[code] if 0 <= code < len(_CODES) else str(code)
        self._calls.handled[*self._key, name] += 1
        if self._calls.durations is not None:
            self._calls.durations[self._key].add(time.perf_counter() - self._began)


class PrometheusCalls(Collector):
    """Counts calls of gRPC and of ttrpc services. How long they take is counted with a *histogram* only."""

    def __init__(self, registry: CollectorRegistry, *, histogram: bool) -> None:
        self._registry = registry
        self.started: Counter[Key] = Counter()
        self.messages_received: Counter[Key] = Counter()
        self.messages_sent: Counter[Key] = Counter()
        self.handled: Counter[tuple[str, str, str, str]] = Counter()
        self.durations: defaultdict[Key, _Durations] | None = defaultdict(_Durations) if histogram else None
        self._keys: dict[str, Key] = {}
        registry.register(self)

    async def close(self) -> None:
        """Take the figures away."""
        self._registry.unregister(self)

    def began(self, call: CallInfo) -> Observation:
        key = self._keys.get(call.path)
        if key is None:
            service, _, method = call.path.removeprefix("/").rpartition("/")
            key = self._keys[call.path] = _TYPES[call.client_streaming, call.server_streaming], service, method
        self.started[key] += 1
        return _Observation(self, key)

    def collect(self) -> Iterator[Metric]:
        for name, help, counts in (
            ("grpc_server_started", "Calls that began", self.started),
            ("grpc_server_msg_received", "Messages of streams and calls that came", self.messages_received),
            ("grpc_server_msg_sent", "Messages of streams and calls that were sent", self.messages_sent),
        ):
            metric = CounterMetricFamily(name, help, labels=_LABELS)
            for key, count in counts.items():
                metric.add_metric(key, count)
            yield metric
        handled = CounterMetricFamily("grpc_server_handled", "Calls that ended", labels=(*_LABELS, "grpc_code"))
        for labels, count in self.handled.items():
            handled.add_metric(labels, count)
        yield handled
        if self.durations is not None:
            seconds = HistogramMetricFamily("grpc_server_handling_seconds", "How long calls took", labels=_LABELS)
            for key, durations in self.durations.items():
                seconds.add_metric(key, durations.cumulated(), durations.sum)
            yield seconds
