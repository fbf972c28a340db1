"""Asks a server for four times what it can draw: only 429s beside the accepted jobs, bounded times, flat memory.

``python -m benchmarks.serve_overload --work FOLDER --seconds 600`` starts a server with a short queue, measures its
rate, and sends jobs at random moments (Poisson) at four times that rate. It fails where an answer is neither 202 nor
429, an accepted job is not done, the 95th percentile from acceptance to the result is above what the bounded queue
allows, or the memory of the second half is above that of the first by more than a tenth.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serve_kills import PRELOAD, START_TIMEOUT_S, Life
from benchmarks.serve_load import Arrival, Outcome, Server, make_trace, quantiles, send

OVER = 4.0
QUEUE_S = 20.0
"""Seconds of work that the queue may hold."""
WARM_UP = 8
"""Jobs that are drawn before, to measure the rate."""
GROWTH = 1.1
"""Largest ratio of the memory of the second half to that of the first."""
SLACK = 3.0
"""Largest ratio of the 95th percentile of accepted jobs to the seconds of work in the queue."""


def begin(work: Path, name: str, **settings: Any) -> tuple[Life, Server]:
    """Start a server in a state folder of its own and wait until it is ready."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    values = {"port": 0, "threads": 1, "state": work / f"state-{name}-{time.time_ns()}", **settings}
    life = Life.begin(context, values, work / f"{name}.log")
    port = life.wait_ready(time.monotonic() + START_TIMEOUT_S)
    assert port is not None, life.lines()
    return life, Server(f"http://127.0.0.1:{port}")


def end(life: Life) -> None:
    """Stop a server in good order."""
    life.process.terminate()
    life.process.join(120)


def trace_of(rate: float, seconds: float, steps: int) -> list[Arrival]:
    """Jobs of one picture at random moments."""
    return make_trace(rate=rate, seconds=seconds, bursts=1, adapters=(), steps=steps, seed=1)


def overload(
    server: Server, life: Life, trace: list[Arrival], pause_s: float = 1.0
) -> tuple[Outcome, list[int]]:
    """Send the trace; the outcome, and bytes of the server's memory once a second."""
    process, over, memory = psutil.Process(life.process.pid), threading.Event(), []

    def watch() -> None:
        while not over.wait(pause_s):
            memory.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        return send(server, trace, health_pause_s=0.5, collect_pause_s=1.0), memory
    finally:
        over.set()
        watcher.join()


def judged(outcome: Outcome, memory: list[int], sent: int) -> dict[str, Any]:
    """Figures of a load, and what of them is too much."""
    half = len(memory) // 2
    growth = max(memory[half:]) / max(memory[:half]) if half else 1.0
    done = quantiles(list(outcome.finished.values()))
    problems = [
        f"{num} answers {status}" for status, num in outcome.statuses.items() if status not in (202, 429)
    ]
    if outcome.states.get("done", 0) != len(outcome.accepted):
        problems.append(f"{outcome.states} of {len(outcome.accepted)} accepted jobs")
    if done is not None and done["p95"] > SLACK * QUEUE_S:
        problems.append(f"p95 {done['p95']} s, the queue holds {QUEUE_S:g} s")
    if growth > GROWTH:
        problems.append(f"memory grew by {growth:.2f}")
    if not outcome.statuses.get(429):
        problems.append("nothing was refused: the server was not overloaded")
    return {
        "jobs": sent, **outcome.summary(), "memory_mb": [round(max(part) / 1e6, 1) for part in
        (memory[:half], memory[half:]) if part], "growth": round(growth, 3), "problems": problems,
        "load_average": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for state and log")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    life, server = begin(arguments.work, "rate", base=arguments.base)
    try:
        warm = [Arrival(0.0, one.body) for one in trace_of(WARM_UP, 2.0, arguments.steps)][:WARM_UP]
        rate = len(warm) / send(server, warm, health_pause_s=1.0).seconds
    finally:
        end(life)
    each = arguments.steps * 2  # rows of guidance; the base's own size has area 1
    limits = {"max_work": QUEUE_S * rate * each, "max_work_of_key": QUEUE_S * rate * each}
    life, server = begin(arguments.work, "over", base=arguments.base, limits=limits)
    try:
        trace = trace_of(OVER * rate, arguments.seconds, arguments.steps)
        outcome, memory = overload(server, life, trace)
    finally:
        end(life)
    line = {"rate_jobs_per_s": round(rate, 3), "seconds_asked": arguments.seconds,
            **judged(outcome, memory, len(trace))}  # fmt: skip
    with (arguments.work / "overload.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    print(json.dumps(line, indent=2))
    if line["problems"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
