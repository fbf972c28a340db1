"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from detour.serving.service import Service


class ServiceCollector(Collector):
    """Reads the figures when they are asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """All figures as they are now."""
        service = self._service
        yield GaugeMetricFamily("detour_ready", "1 while jobs are accepted.", value=float(service.is_ready))
        yield CounterMetricFamily("detour_jobs_accepted", "Jobs accepted.", value=service.counts.accepted)
        refused = CounterMetricFamily(
            "detour_requests_refused", "Requests that were not accepted.", labels=["code"]
        )
        for code, num in list(service.counts.refused.items()):
            refused.add_metric([code], num)
        yield refused
        if service.stage not in ("ready", "stopping"):
            return
        dispatcher = service.dispatcher
        yield GaugeMetricFamily(
            "detour_pictures_waiting", "Pictures not begun.", value=dispatcher.num_waiting
        )
        yield GaugeMetricFamily("detour_pictures_drawing", "Pictures begun.", value=dispatcher.num_drawing)
        yield GaugeMetricFamily(
            "detour_queue_work", "Steps x rows x area that are open.", value=dispatcher.work
        )
        yield GaugeMetricFamily(
            "detour_work_per_second",
            "Measured rate, 0 before there is one.",
            value=dispatcher.rate.per_second or 0.0,
        )
        yield CounterMetricFamily(
            "detour_work_done", "Steps x rows x area that were done.", value=dispatcher.rate.total
        )
        finished = CounterMetricFamily("detour_pictures_finished", "Pictures by outcome.", labels=["state"])
        for state, num in list(dispatcher.outcomes.items()):
            finished.add_metric([state], num)
        yield finished
        yield GaugeMetricFamily("detour_adapters", "Adapters on the shelf.", value=len(service.shelf.entries))


def metrics_of(service: Service) -> CollectorRegistry:
    """A registry of one service."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service))
    return registry


def metrics_text(registry: CollectorRegistry) -> bytes:
    """The figures in Prometheus's text format."""
    return generate_latest(registry)
