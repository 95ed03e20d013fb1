# SPDX-License-Identifier: Apache-2.0
"""The figures of the daemon, in Prometheus' text format at ``/v1/metrics``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CollectorRegistry, CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from orlop.blocking import run_blocking
from orlop.interfaces.observer import Figure, Figures
from orlop.plugin import Plugins
from orlop_telemetry.http import Page, PageServer, Query


class Source(Protocol):
    """Metrics that take time to gather, and so are gathered anew for each look."""

    async def gather(self) -> list[Metric]:
        """The metrics now."""


class MetricsServer:
    """Serves everything in `registry`, what plugins offer (`Figures`), and what *source* gathers."""

    def __init__(self, address: str, plugins: Plugins, properties: Mapping[str, str], source: Source) -> None:
        self._wanted = address
        self._address = ""
        self._source = source
        self._server = PageServer({"/v1/metrics": self._page})
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_Build(properties))
        self.registry.register(_Offered(plugins))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    @property
    def address(self) -> str:
        return self._address

    async def start(self) -> None:
        self._address = await self._server.listen(self._wanted)

    async def close(self) -> None:
        self._address = ""
        await self._server.close()

    async def _page(self, _query: Query) -> Page:
        gathered = await self._source.gather()
        # On the loop, as plugins are promised; only writing it down, which is long with many containers, is not.
        metrics = _Done([*self.registry.collect(), *gathered])
        return Page(await run_blocking(generate_latest, metrics), CONTENT_TYPE_PLAIN_0_0_4)


class _Done(CollectorRegistry):
    """Metrics that were collected already."""

    def __init__(self, metrics: list[Metric]) -> None:
        super().__init__()
        self._done = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._done)


class _Build(Collector):
    def __init__(self, properties: Mapping[str, str]) -> None:
        self._values = [properties.get(name, "") for name in ("version", "revision")]

    def collect(self) -> Iterator[Metric]:
        build = CounterMetricFamily("containerd_build_info", "Which program this is", labels=("version", "revision"))
        build.add_metric(self._values, 1)
        yield build


class _Offered(Collector):
    """What plugins offer, and how they are."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins

    def collect(self) -> Iterator[Metric]:
        seconds = GaugeMetricFamily("orlop_plugin_init_seconds", "Time that its factory took", labels=("plugin",))
        states = GaugeMetricFamily("orlop_plugin_state", "1 for the state it is in", labels=("plugin", "state"))
        offered: dict[str, Metric] = {}
        for status in self._plugins.statuses():
            seconds.add_metric([status.uri], status.seconds)
            states.add_metric([status.uri, status.state], 1)
            instance = self._plugins.instance(status.uri)
            if isinstance(instance, Figures):
                for figure in instance.figures():
                    _add(offered, figure)
        yield from (seconds, states, *offered.values())


def _add(offered: dict[str, Metric], figure: Figure) -> None:
    """Add a figure; several plugins may offer samples of one."""
    metric = offered.get(figure.name)
    if metric is None:
        # A counter's family has the name without its suffix.
        name = figure.name.removesuffix("_total") if figure.kind == "counter" else figure.name
        metric = offered[figure.name] = Metric(name, figure.help, figure.kind)
    suffix = "_sum" if figure.kind == "summary" else ""
    for labels, value in figure.samples:
        metric.add_sample(figure.name + suffix, dict(labels), value)
    for (labels, _), count in zip(figure.samples, figure.counts, strict=False):
        metric.add_sample(f"{figure.name}_count", dict(labels), count)
