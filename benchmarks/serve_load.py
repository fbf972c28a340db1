"""Sends a load to a running server and says what came of it: pictures a second, waiting times, refusals, health.

``python -m benchmarks.serve_load http://127.0.0.1:8188 --rate 2 --seconds 60`` sends jobs at random moments (Poisson),
``--bursts 10`` in bursts of ten; adapters are drawn by Zipf's law over the server's shelf. ``--record FILE`` keeps the
trace, ``--trace FILE --speed 2`` sends it again twice as fast. Meanwhile ``/healthz`` is asked twenty times a second.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import random
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HEALTH_PAUSE_S = 0.05
COLLECT_PAUSE_S = 0.25


@dataclass(frozen=True)
class Arrival:
    """One job of a trace.

    Attributes:
        at_s: seconds after the beginning.
        body: of ``POST /v1/jobs``.
    """

    at_s: float
    body: dict[str, Any]


def make_trace(
    *, rate: float, seconds: float, bursts: int, adapters: Sequence[str], steps: int, seed: int
) -> list[Arrival]:
    """Arrivals at random moments.

    Args:
        rate: jobs a second on average.
        seconds: length of the trace.
        bursts: jobs that come together.
        adapters: names; the first is the most popular (Zipf, exponent 1).
        steps: of each picture.
        seed: of everything random.
    """
    draw, at = random.Random(seed), 0.0
    found: list[Arrival] = []
    weights = [1 / (rank + 1) for rank in range(len(adapters))]
    while True:
        at += draw.expovariate(rate / bursts)
        if at > seconds:
            return found
        for _ in range(bursts):
            body: dict[str, Any] = {
                "prompts": [f"a {draw.choice(('red', 'blue', 'green'))} house"],
                "seed": draw.randrange(2**31),
                "steps": steps,
            }
            if adapters:
                body["adapters"] = [{"name": draw.choices(adapters, weights)[0]}]
            found.append(Arrival(at, body))


@dataclass
class Outcome:
    """Answers and times of all jobs of a load.

    Attributes:
        accepted: id → moment of acceptance.
        latencies: seconds from sending to 202.
        refusals: seconds from sending to 429.
        statuses: status → answers.
        health: seconds of each ``/healthz``.
        finished: id → seconds from acceptance until the job was done.
        states: state → jobs.
        seconds: from the first job to the last picture.
    """

    accepted: dict[str, float] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    health: list[float] = field(default_factory=list)
    finished: dict[str, float] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Summary of a load: pictures a second, waiting times, refusals and health."""
        return {
            "seconds": round(self.seconds, 2),
            "statuses": self.statuses,
            "states": self.states,
            "jobs_per_second": round(self.states.get("done", 0) / self.seconds, 3) if self.seconds else None,
            "accept_s": quantiles(self.latencies),
            "refuse_s": quantiles(self.refusals),
            "done_s": quantiles(list(self.finished.values())),
            "healthz_s": quantiles(self.health),
        }


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """Median, 95th and 99th percentile and maximum; ``None`` for no values."""
    if not values:
        return None
    ordered = sorted(values)
    picked = {f"p{q}": ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))] for q in (50, 95, 99)}
    return {**{name: round(value, 4) for name, value in picked.items()}, "max": round(ordered[-1], 4)}


class Server:
    """A server by its address."""

    def __init__(self, address: str, key: str = "") -> None:
        self._place = urlsplit(address).netloc
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and body of an answer, with the body as JSON where it is JSON."""
        connection = http.client.HTTPConnection(self._place, timeout=60)
        try:
            headers = {**self._headers, **({"content-type": "application/json"} if body is not None else {})}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text.decode(errors="replace")


def send(
    server: Server,
    trace: Sequence[Arrival],
    *,
    speed: float = 1.0,
    clients: int = 16,
    health_pause_s: float = HEALTH_PAUSE_S,
    collect_pause_s: float = COLLECT_PAUSE_S,
) -> Outcome:
    """Send a trace, wait until everything that was accepted is finished, and ask for health all the while."""
    outcome, over, lock = Outcome(), threading.Event(), threading.Lock()

    def watch_health() -> None:
        while not over.wait(health_pause_s):
            began = time.perf_counter()
            server.ask("GET", "/healthz")
            outcome.health.append(time.perf_counter() - began)

    def hand_in(arrival: Arrival) -> None:
        began = time.perf_counter()
        status, told = server.ask("POST", "/v1/jobs", arrival.body)
        took = time.perf_counter() - began
        with lock:
            outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
            if status == 202:
                outcome.latencies.append(took)
                outcome.accepted[told["id"]] = time.time()
            elif status == 429:
                outcome.refusals.append(took)

    def collect() -> None:
        """Ask for the oldest unfinished job now and then: one small request, however many wait."""
        while True:
            with lock:
                left = [id_ for id_ in outcome.accepted if id_ not in outcome.finished]
            for id_ in left:
                status, job = server.ask("GET", f"/v1/jobs/{id_}")
                if status != 200 or job["state"] in ("queued", "drawing"):
                    break
                with lock:
                    outcome.states[job["state"]] = outcome.states.get(job["state"], 0) + 1
                    outcome.finished[id_] = job["finished"] - job["created"]
            else:
                if sent.is_set() and len(outcome.accepted) == len(outcome.finished):
                    return
            time.sleep(collect_pause_s)

    sent = threading.Event()
    health, collector = threading.Thread(target=watch_health), threading.Thread(target=collect)
    began = time.perf_counter()
    health.start()
    collector.start()
    with ThreadPoolExecutor(clients) as pool:
        for arrival in trace:
            time.sleep(max(0.0, arrival.at_s / speed - (time.perf_counter() - began)))
            pool.submit(hand_in, arrival)
    sent.set()
    collector.join()
    outcome.seconds = time.perf_counter() - began
    over.set()
    health.join()
    return outcome


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--key", default="")
    parser.add_argument("--rate", type=float, default=1.0, help="jobs a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--bursts", type=int, default=1, help="jobs that come together")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--trace", type=Path, help="send this one")
    parser.add_argument("--record", type=Path, help="keep the trace")
    parser.add_argument("--speed", type=float, default=1.0)
    arguments = parser.parse_args()
    server = Server(arguments.address, arguments.key)
    if arguments.trace is not None:
        trace = [Arrival(**json.loads(line)) for line in arguments.trace.read_text().splitlines()]
    else:
        status, shelf = server.ask("GET", "/v1/adapters")
        if status != 200:
            raise SystemExit(f"{arguments.address}/v1/adapters: {status} {shelf}")
        names = [one["name"] for one in shelf if one["usable"]]
        trace = make_trace(
            rate=arguments.rate, seconds=arguments.seconds, bursts=arguments.bursts, adapters=names,
            steps=arguments.steps, seed=arguments.seed,
        )  # fmt: skip
    if arguments.record is not None:
        arguments.record.write_text("".join(json.dumps(vars(one)) + "\n" for one in trace))
    outcome = send(server, trace, speed=arguments.speed, clients=arguments.clients)
    gaps = [b.at_s - a.at_s for a, b in itertools.pairwise(trace)]
    asked = {"jobs": len(trace), "mean_gap_s": round(statistics.fmean(gaps), 3) if gaps else None}
    print(json.dumps({**asked, **outcome.summary()}, indent=2))


if __name__ == "__main__":
    main()
