"""Predicts what unseen loads cost a server, and measures it: ``python -m benchmarks.serve_cost``.

One server of its own process, 32 adapters on its shelf. A calibration load fits the unit costs of ``detour cost`` from
two readings of ``/metrics``. Then three loads come that differ in arrivals, steps and adapters: steady (Poisson),
bursty, and many adapters (Zipf over 32). For each, CPU seconds of an accepted picture are predicted from its trace
before it is sent, by playing it against the unit costs, and compared with two measured figures: the phases of
``/metrics``, and all CPU seconds of the process as the operating system counts them. CPU seconds, because the machine
may have other work; a process that is crowded out takes more of them (caches), which the calibration shares.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.serve_load import Arrival, make_trace, send
from benchmarks.serve_throughput import OwnServer, Work
from detour.bases.base import open_base
from detour.verbs.cost.measured_work import MeasuredWork, Samples, parse_metrics, work_of
from detour.verbs.cost.simulated_load import AskedPicture, pictures_of, simulate_load
from detour.verbs.cost.unit_costs import costs_of

QUIET_S = 10.0
POLL_PAUSE_S = 3.0
"""Seconds between two questions of the load generator, which cost the server something too."""


def traces(names: Sequence[str], scale: float) -> dict[str, list[Arrival]]:
    """The calibration load and the three that are predicted.

    Args:
        names: of the adapters.
        scale: length of all of them.
    """
    few, make = names[:3], make_trace
    lone = make(rate=0.1, seconds=60 * scale, bursts=1, adapters=few, steps=5, seed=0)
    threes = make(rate=0.3, seconds=30 * scale, bursts=3, adapters=few, steps=5, seed=1)
    full = make(rate=0.6, seconds=20 * scale, bursts=12, adapters=few, steps=5, seed=11)
    calibration = [
        Arrival(one.at_s + start * scale, one.body)
        for start, part in ((0.0, lone), (60.0, threes), (90.0, full))
        for one in part
    ]
    return {
        "calibration": calibration,
        "steady": make(rate=0.15, seconds=70 * scale, bursts=1, adapters=few, steps=4, seed=3),
        "bursty": make(rate=0.3, seconds=90 * scale, bursts=9, adapters=few, steps=6, seed=4),
        "many adapters": make(rate=0.3, seconds=100 * scale, bursts=6, adapters=names, steps=5, seed=5),
    }


def asked_of(trace: Sequence[Arrival], native_px: int) -> list[AskedPicture]:
    """Pictures of a trace."""
    return [
        picture
        for job, one in enumerate(trace)
        for picture in pictures_of(one.at_s, one.body, job=job, native_px=native_px)
    ]


def used(arrival: Arrival) -> list[str]:
    """Names of the adapters of a job."""
    return [one["name"] for one in arrival.body.get("adapters", ())]


def readings(own: OwnServer) -> tuple[Samples, float]:
    """``/metrics`` and the CPU seconds of the process."""
    _, text = own.server.ask("GET", "/metrics")
    return parse_metrics(text, where="/metrics"), sum(psutil.Process(own.life.process.pid).cpu_times()[:2])


def play(own: OwnServer, trace: Sequence[Arrival]) -> tuple[MeasuredWork, float, float]:
    """Send a trace; the measured work, CPU seconds of the process, and the seconds that it took."""
    before, cpu = readings(own)
    outcome = send(own.server, trace, health_pause_s=POLL_PAUSE_S, collect_pause_s=POLL_PAUSE_S)
    after, cpu_after = readings(own)
    assert set(outcome.states) == {"done"}, outcome.summary()
    return work_of(after, before, clock="cpu"), cpu_after - cpu, outcome.seconds


def measure(own: OwnServer, names: Sequence[str], scale: float, native_px: int) -> dict[str, Any]:
    """Predicted and measured CPU seconds of an accepted picture of each load."""
    loads = traces(names, scale)
    print(json.dumps({name: len(trace) for name, trace in loads.items()}), flush=True)
    # Outside the clock: what is made once, but for the adapters.
    plain = [Arrival(0.0, {**one.body, "adapters": []}) for one in loads["calibration"][-4:]]
    send(own.server, plain, health_pause_s=POLL_PAUSE_S, collect_pause_s=POLL_PAUSE_S)
    _, before = readings(own)
    time.sleep(QUIET_S)
    _, after = readings(own)
    quiet = (after - before) / QUIET_S
    trace = loads.pop("calibration")
    work, cpu, seconds = play(own, trace)
    costs, prepared = costs_of(work), {name for one in trace for name in used(one)}
    beside = max(0.0, cpu - sum(work.seconds.values()) - quiet * seconds) / work.accepted
    found: dict[str, Any] = {
        "calibration": {
            "pictures": work.accepted,
            "cpu_s": round(cpu, 2),
            "slowdown": round(costs.slowdown, 2),
        },
        "quiet_cpu_share": round(quiet, 4),
        "serving_cpu_s_a_picture": round(beside, 4),
    }
    print(json.dumps(found), flush=True)
    for name, trace in loads.items():
        load = simulate_load(asked_of(trace, native_px), costs, prepared=prepared)
        prepared |= {name for one in trace for name in used(one)}
        phases = sum(load.seconds.values()) / load.pictures
        work, cpu, seconds = play(own, trace)
        predicted = phases + beside + quiet * seconds / load.pictures
        measured = {"phases": sum(work.seconds.values()), "process": cpu}
        found[name] = {
            "pictures": work.accepted,
            "phases": compared(phases, measured["phases"] / work.accepted),
            "process": compared(predicted, measured["process"] / work.accepted),
            "by_phase": {
                phase: compared(load.seconds.get(phase, 0.0) / load.pictures, spent / work.accepted)
                for phase, spent in work.seconds.items()
            },
            "passes": {
                "predicted": {str(width): num for width, num in sorted(load.passes.items())},
                "measured": _by_width(work),
            },
        }
        print(json.dumps({name: found[name]}), flush=True)
    return found


def _by_width(work: MeasuredWork) -> dict[str, float]:
    found: dict[str, float] = {}
    for (width, _), one in sorted(work.passes.items()):
        found[str(width)] = found.get(str(width), 0) + one.num
    return found


def compared(predicted: float, measured: float) -> dict[str, float]:
    """Both, and how far the prediction is off."""
    off = predicted / measured - 1 if measured else 0.0
    return {"predicted": round(predicted, 4), "measured": round(measured, 4), "off": round(off, 4)}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--adapters", type=int, default=32)
    parser.add_argument("--scale", type=float, default=1.0, help="length of all loads")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    native_px = open_base(arguments.base).native_size_px
    work = Work(arguments.base, 10, arguments.adapters, 4, "attn", 0)
    with tempfile.TemporaryDirectory() as folder:
        own = OwnServer(work, Path(folder))
        try:
            names = [f"a{index}" for index in range(arguments.adapters)]
            found = measure(own, names, arguments.scale, native_px)
        finally:
            own.life.process.terminate()
            own.life.process.join(60)
    print(json.dumps({"torch": torch.__version__, **found}, indent=2))


if __name__ == "__main__":
    main()
