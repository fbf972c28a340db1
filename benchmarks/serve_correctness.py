"""Checks every picture of a long load: 16 clients, 32 adapters that come, go and change, thousands of pictures.

``python -m benchmarks.serve_correctness --work FOLDER --pictures 10000`` starts a server and goes on where it was
stopped; ``--stop-after 600`` ends in good order after ten minutes. Every picture is compared with the same request
drawn alone at the recorded width class with the recorded adapters; each reference is drawn once. No finished picture
is used again: every request is drawn anew. At the end every accepted job must be done, equal to its reference, and
there once. ``/healthz`` is asked once a second all the while.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import io
import itertools
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.mixed import Setting, lora
from benchmarks.serve_kills import PRELOAD, SAMPLERS, START_TIMEOUT_S, Life
from benchmarks.serve_load import quantiles
from detour.adapter_files.reading import read_adapter
from detour.adapter_files.writing import write_adapter
from detour.adapters.adapter import Adapter
from detour.bases.base import open_base
from detour.files import sha256_of
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.serving.store import JobStore
from detour.specs.generation import PictureSpec

NUM_CLIENTS = 16
JOBS_OF_CLIENT = 3
"""Number of jobs that each client has open, so that batches are full."""
NUM_ADAPTERS = 32
NUM_REQUESTS = 400
CHANGING = 8
"""Number of adapters, the first ones, that are removed, added again and replaced during the load."""
HEALTH_PAUSE_S = 1.0
POLL_S = (1.0, 5.0)
"""Pause before the first look at a job, and the longest one: each is half as long again as the one before."""


def pool_of(names: list[str], *, steps: int) -> list[dict[str, Any]]:
    """Bodies of 400 jobs of one picture that differ in prompt, seed, sampler, guidance and adapters."""
    draw, found = random.Random(1), []
    for index in range(NUM_REQUESTS):
        adapters = draw.sample(names, draw.choice((0, 1, 1, 2)))
        found.append(
            {
                "prompts": [f"a {draw.choice(('red', 'blue', 'green'))} house {index}"],
                "seed": 1000 + index,
                "steps": steps,
                "sampler": draw.choice(SAMPLERS),
                "guidance_scale": draw.choice((1.0, 4.0, 6.0)),
                "adapters": [{"name": name, "strength": draw.choice((1.0, 0.5))} for name in adapters],
            }
        )
    return found


def make_adapters(folder: Path, setting: Setting) -> list[str]:
    """Write each adapter, and a second version of the changing ones, where they are not there yet; their names."""
    names = [f"a{index}" for index in range(NUM_ADAPTERS)]
    for index, name in enumerate(names):
        versions = {"": 7 * index} | ({"-second": 7 * index + 1000} if index < CHANGING else {})
        for suffix, seed in versions.items():
            path = folder / f"{name}{suffix}.safetensors"
            if not path.exists():
                base = setting.adapters[index]
                weights = {
                    key: setting.engine.unet.get_parameter(f"{key.removeprefix('unet.')}.weight")
                    for key in base.layers
                }
                made = (
                    Adapter({key: lora(w, setting.rank, seed) for key, w in weights.items()})
                    if suffix
                    else base
                )
                write_adapter(path, made, family=setting.base.family)
    return names


class Shelf:
    """The server's folder of adapters, which changes during the load."""

    def __init__(self, folder: Path, versions: Path, names: list[str]) -> None:
        """Fill the folder with the first version of each adapter."""
        self.folder, self.versions, self.changes = folder, versions, Counter[str]()
        folder.mkdir(exist_ok=True)
        for name in names:
            self._put(name, "")

    def _put(self, name: str, suffix: str) -> None:
        part = self.folder / f".{name}.part"
        part.write_bytes((self.versions / f"{name}{suffix}.safetensors").read_bytes())
        part.replace(self.folder / f"{name}.safetensors")

    def change(self, draw: random.Random) -> None:
        """Remove, add again or replace one of the changing adapters."""
        name = f"a{draw.randrange(CHANGING)}"
        path = self.folder / f"{name}.safetensors"
        if path.exists() and draw.random() < 0.5:
            path.unlink()
            self.changes["removed"] += 1
            return
        self.changes["replaced" if path.exists() else "added"] += 1
        self._put(name, draw.choice(("", "-second")))


class References:
    """SHA-256 of the pixels of each request drawn alone; kept in a file, so that each is drawn once."""

    def __init__(self, path: Path, engine: PictureEngine, versions: Path) -> None:
        """Read the references of earlier runs."""
        self._path, self._engine, self._lock = path, engine, threading.Lock()
        self._files = {sha256_of(one): one for one in versions.glob("*.safetensors")}
        self._known: dict[str, str] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            key, digest = json.loads(line)
            self._known[key] = digest

    def of(self, asked: dict[str, Any]) -> str:
        """Digest of a picture from the request that the server has recorded: settings, width class, adapter hashes."""
        key = json.dumps(asked, sort_keys=True)
        with self._lock:
            if key not in self._known:
                self._known[key] = digest_of(self._draw(asked))
                with self._path.open("a") as stream:
                    stream.write(json.dumps([key, self._known[key]]) + "\n")
            return self._known[key]

    def _draw(self, asked: dict[str, Any]) -> np.ndarray:
        use = tuple(
            AdapterInUse(adapter=read_adapter(self._files[one["sha256"]]), weight=one["weight"])
            for one in asked["adapters"]
        )
        how = PictureSpec(
            steps=asked["steps"], guidance_scale=asked["guidance_scale"], scheduler=asked["scheduler"]
        )
        request = PictureRequest(
            prompt=asked["prompts"][0],
            seed=asked["seeds"][0],
            how=how,
            adapters=use,
            width_class=asked["width_class"],
        )
        return self._engine.submit(request).result(600).pixels


def digest_of(pixels: np.ndarray) -> str:
    """Hex SHA-256 of pixels, uint8 (H, W, 3)."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def ask(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"content-type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Load:
    """Clients that hand in jobs of the pool, fetch the pictures and compare them."""

    def __init__(self, work: Path, pool: list[dict[str, Any]], references: References, port: int) -> None:
        """Go on after the jobs that the log of the folder already has."""
        self.log, self.pool, self.references, self.port = work / "log.jsonl", pool, references, port
        lines = [json.loads(one) for one in self.log.read_text().splitlines()] if self.log.exists() else []
        self.done = {one["number"] for one in lines}
        self.counts = Counter(str(one["outcome"]) for one in lines)
        self.health: list[float] = []
        self.over, self._lock = threading.Event(), threading.Lock()
        self._numbers = (number for number in itertools.count() if number not in self.done)

    def run(self, num: int, until: float) -> None:
        """Hand in jobs until so many pictures are compared in all runs, or the moment has come."""

        def client() -> None:
            while time.monotonic() < until and not self.over.is_set():
                with self._lock:
                    if self.counts["equal"] + self.counts["wrong"] >= num:
                        return
                    number = next(self._numbers)
                self._note(number, *self._one(number))

        watch = threading.Thread(target=self._watch_health)
        watch.start()
        try:
            with ThreadPoolExecutor(NUM_CLIENTS * JOBS_OF_CLIENT) as clients:
                futures = [clients.submit(client) for _ in range(NUM_CLIENTS * JOBS_OF_CLIENT)]
                try:
                    for future in futures:
                        future.result()
                except BaseException:  # a signal, too: the pool waits for its clients, which look at this
                    self.over.set()
                    raise
        finally:
            self.over.set()
            watch.join()

    def _one(self, number: int) -> tuple[str, str]:
        """Outcome of one job, and its id."""
        body = self.pool[random.Random(number).randrange(len(self.pool))]
        key = {"idempotency-key": f"job-{number}"}
        while True:
            status, answer = ask(self.port, "POST", "/v1/jobs", body, key)
            if status != 429:
                break
            time.sleep(1)
        if status != 202:
            code = json.loads(answer)["error"]["code"]
            return f"not accepted: {status} {code}", ""  # such as an adapter that is away at the moment
        job = json.loads(answer)
        end, pause_s = time.monotonic() + 3600, POLL_S[0]
        while job["state"] in ("queued", "drawing"):
            if time.monotonic() > end:
                return "lost", job["id"]
            time.sleep(pause_s)
            pause_s = min(POLL_S[1], 1.5 * pause_s)
            status, answer = ask(self.port, "GET", f"/v1/jobs/{job['id']}")
            if status != 200:
                return "lost", job["id"]
            job = json.loads(answer)
        if job["state"] != "done":
            return "lost", job["id"]
        status, png = ask(self.port, "GET", f"/v1/pictures/{job['pictures'][0]['url'].rpartition('/')[2]}")
        if status != 200:
            return "lost", job["id"]
        with Image.open(io.BytesIO(png)) as image:
            drawn = digest_of(np.asarray(image.convert("RGB")))
        return "equal" if drawn == self.references.of(job["request"]) else "wrong", job["id"]

    def _note(self, number: int, outcome: str, id_: str) -> None:
        with self._lock:
            self.done.add(number)
            self.counts[outcome] += 1
            with self.log.open("a") as stream:
                stream.write(json.dumps({"number": number, "outcome": outcome, "id": id_}) + "\n")

    def _watch_health(self) -> None:
        while not self.over.wait(HEALTH_PAUSE_S):
            began = time.perf_counter()
            ask(self.port, "GET", "/healthz")
            self.health.append(time.perf_counter() - began)


def count_twice(state: Path, log: Path) -> tuple[int, int]:
    """Accepted jobs that the clients know, and jobs and files in the store more or fewer than those."""
    ids = [one["id"] for one in map(json.loads, log.read_text().splitlines()) if one["id"]]
    store = JobStore(state)
    jobs = store.jobs_of("local", limit=10_000_000)
    files = len(list(store.pictures.glob("*.png")))
    store.close()
    return len(ids), (len(ids) - len(set(ids))) + abs(len(jobs) - len(ids)) + abs(files - len(ids))


def changing(shelf: Shelf, load: Load, pause_s: float) -> Iterator[None]:
    """Change the shelf now and then while the load runs."""
    draw = random.Random(time.time_ns())
    while not load.over.wait(draw.uniform(0.5, 1.5) * pause_s):
        shelf.change(draw)
        yield


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for adapters, state and log")
    parser.add_argument("--pictures", type=int, default=10_000, help="compared pictures of all runs")
    parser.add_argument("--stop-after", type=float, default=1e9, help="seconds")
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument(
        "--change-every", type=float, default=5.0, help="seconds between changes of the shelf"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    torch.set_num_threads(1)
    work: Path = arguments.work
    (work / "versions").mkdir(parents=True, exist_ok=True)
    make = partial(Setting, open_base(arguments.base), arguments.steps, NUM_ADAPTERS)
    setting = make(rank=4, targets="attn")
    names = make_adapters(work / "versions", setting)
    shelf = Shelf(work / "shelf", work / "versions", names)
    engine = PictureEngine.load(setting.base, prompts="written")
    references = References(work / "references.jsonl", engine, work / "versions")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    values = {
        "base": arguments.base, "adapters": work / "shelf", "state": work / "state", "port": 0, "threads": 1,
    }  # fmt: skip
    life = Life.begin(context, values, work / "server.log")
    port = life.wait_ready(time.monotonic() + START_TIMEOUT_S)
    assert port is not None, life.lines()
    load = Load(work, pool_of(names, steps=arguments.steps), references, port)
    churn = threading.Thread(target=lambda: [None for _ in changing(shelf, load, arguments.change_every)])
    began, before = time.monotonic(), sum(load.counts.values())
    churn.start()
    try:
        load.run(arguments.pictures, began + arguments.stop_after)
        cpu = sum(psutil.Process(life.process.pid).cpu_times()[:2])
    finally:
        load.over.set()
        churn.join()
        life.process.terminate()
        life.process.join(120)
    accepted, twice = count_twice(work / "state", load.log)
    line = {
        "accepted": accepted, "twice": twice, "outcomes": dict(load.counts), "changes": dict(shelf.changes),
        "jobs_of_this_run": sum(load.counts.values()) - before, "seconds": round(time.monotonic() - began, 1),
        "server_cpu_s": round(cpu, 1), "healthz_s": quantiles(load.health), "load_average": os.getloadavg()[0],
    }  # fmt: skip
    with (work / "runs.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    print(json.dumps(line, indent=2))
    if twice or load.counts["wrong"] or load.counts["lost"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
