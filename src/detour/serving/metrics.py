"""The figures of ``/metrics`` in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from detour.generation.metering import PHASES
from detour.serving.service import Service


class ServiceCollector(Collector):
    """Collects the figures of a service whenever Prometheus asks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield all figures as they are now."""
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
        decided = CounterMetricFamily(
            "detour_pictures_decided", "Held pictures that a person decided on.", labels=["decision"]
        )
        for decision, num in list(service.counts.decided.items()):
            decided.add_metric([decision], num)
        yield decided
        yield GaugeMetricFamily("detour_adapters", "Adapters on the shelf.", value=len(service.shelf.entries))
        yield from work_metrics(service)


def work_metrics(service: Service) -> Iterator[Metric]:
    """Yield the work and the seconds of drawing by phase, which ``detour cost`` reads."""
    shown, rows = service.meter.reading(), dict(service.dispatcher.finished_work)
    finished = CounterMetricFamily(
        "detour_work_finished", "Steps x rows x area of pictures by outcome.", labels=["state"]
    )
    for state, work in {**rows, "released": service.counts.released_work}.items():
        finished.add_metric([state], work)
    yield finished
    yield GaugeMetricFamily(
        "detour_work_under_way",
        "The same that was done for unfinished pictures.",
        value=service.dispatcher.work_under_way,
    )
    seconds = CounterMetricFamily(
        "detour_phase_seconds", "Seconds by phase and clock.", labels=["phase", "clock"]
    )
    units = CounterMetricFamily("detour_phase_units", "Units of work by phase.", labels=["phase"])
    for phase in PHASES:
        seconds.add_metric([phase, "wall"], shown.seconds[phase].wall)
        seconds.add_metric([phase, "cpu"], shown.seconds[phase].cpu)
        units.add_metric([phase], shown.units[phase])
    yield from (seconds, units)
    yield CounterMetricFamily(
        "detour_busy_seconds", "Wall seconds in which something was done.", value=shown.busy_s
    )
    idle = max(0.0, shown.uptime_s - shown.busy_s)
    yield CounterMetricFamily("detour_idle_seconds", "Wall seconds in which nothing was done.", value=idle)
    yield GaugeMetricFamily(
        "detour_native_size_px", "Side of a picture whose area counts 1.", value=service.base.native_size_px
    )
    yield CounterMetricFamily(
        "detour_process_cpu_seconds", "CPU seconds of all threads.", value=shown.process_cpu_s
    )
    labels = ["width", "adapters"]
    num = CounterMetricFamily("detour_passes", "Forward passes.", labels=labels)
    area = CounterMetricFamily("detour_pass_area", "Areas of their pictures.", labels=labels)
    took = CounterMetricFamily("detour_pass_seconds", "Their seconds.", labels=[*labels, "clock"])
    for (width, adapters), passes in shown.passes.items():
        values = [str(width), adapters]
        num.add_metric(values, passes.num)
        area.add_metric(values, passes.area)
        took.add_metric([*values, "wall"], passes.seconds.wall)
        took.add_metric([*values, "cpu"], passes.seconds.cpu)
    yield from (num, area, took)


def metrics_of(service: Service) -> CollectorRegistry:
    """Make a Prometheus registry of one service's figures."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service))
    return registry


def metrics_text(registry: CollectorRegistry) -> bytes:
    """Format the figures in Prometheus' text format."""
    return generate_latest(registry)
