"""Kills a server repeatedly while clients hand in jobs, and checks that nothing accepted is lost, wrong or doubled.

``python -m benchmarks.serve_kills --adapters FOLDER --work FOLDER --kills 200`` goes on where it was stopped. Each life
of the server is ended by SIGKILL at a random moment, sometimes while it is still starting. One life in ten loads its
model as a server does; the others are forked from a process that has loaded it, which leaves more of the time to kills
under load. A client that got no answer asks again in the next life with the same Idempotency-Key. At the end every
job must be done, every picture equal to the same request drawn alone at the recorded width class, and there must be
one file a picture.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import multiprocessing
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from detour.adapter_files.reading import read_adapter
from detour.generation.engine import AdapterInUse, PictureEngine, PictureRequest
from detour.serving.jobs import Job
from detour.serving.running import serve
from detour.serving.settings import ServeSpec
from detour.serving.store import JobStore
from detour.specs.generation import PictureSpec
from detour.verbs.draw.start_picture import decode_start

PRELOAD = ["torch", "accelerate", "diffusers", "benchmarks.serve_kills"]
WARM = [*PRELOAD, "benchmarks.warm_engine"]
COLD_EVERY = 10
"""One life in so many loads its model itself."""
START_TIMEOUT_S = 180.0
SAMPLERS = ("dpm++", "euler", "ddim", "ddpm")


def _files(side: int = 72) -> tuple[bytes, bytes]:
    """PNG files of a start picture and of a mask whose right half is drawn anew."""
    rows, columns = np.mgrid[:side, :side]
    photo = np.stack([rows * 3, columns * 3, rows + columns], axis=-1).astype(np.uint8)
    mask = np.where(columns < side // 2, 0, 255).astype(np.uint8)
    buffers = io.BytesIO(), io.BytesIO()
    for pixels, buffer in zip((photo, mask), buffers, strict=True):
        Image.fromarray(pixels).save(buffer, format="PNG")
    return buffers[0].getvalue(), buffers[1].getvalue()


START, MASK = _files()


def run_server(values: dict[str, Any], told: str, warm: bool = False) -> None:
    """Serve in this process, and write each line that the server says to a file.

    Args:
        values: of ``ServeSpec``.
        told: path of the file.
        warm: take the engine that this process was forked with.
    """
    if warm:
        from benchmarks.warm_engine import ENGINE

        PictureEngine.load = lambda *_, **__: ENGINE  # type: ignore[method-assign]
    path = Path(told)

    def say(line: str) -> None:
        with path.open("a") as stream:
            stream.write(line + "\n")

    serve(ServeSpec(**values), say=say)


@dataclass
class Life:
    """One process of the server between two kills.

    Attributes:
        process: of ``multiprocessing``.
        told: file of what it says.
    """

    process: Any
    told: Path

    @classmethod
    def begin(cls, context: Any, values: dict[str, Any], told: Path, *, warm: bool = False) -> Life:
        """Start a server; returns at once."""
        told.unlink(missing_ok=True)
        process = context.Process(target=run_server, args=(values, str(told), warm), daemon=True)
        process.start()
        return cls(process, told)

    def lines(self) -> list[str]:
        """Lines that the server has written so far."""
        return self.told.read_text().splitlines() if self.told.exists() else []

    def port(self) -> int | None:
        """Port that it listens on, once it reports that it is ready."""
        lines = self.lines()
        if not any(line.startswith("ready") for line in lines):
            return None
        address = next(line for line in lines if line.startswith("listening on "))
        return int(address.split()[2].rpartition(":")[2])

    def wait_ready(self, until: float) -> int | None:
        """Wait for a ready server and return its port, or ``None`` after the time limit."""
        while time.monotonic() < until:
            found = self.port()
            if found is not None:
                return found
            if self.process.exitcode is not None:
                raise RuntimeError(f"the server ended with {self.process.exitcode}: {self.lines()}")
            time.sleep(0.01)
        return None

    def kill(self) -> float:
        """Send SIGKILL, wait until the process is gone, and return the CPU seconds that it took."""
        spent = psutil.Process(self.process.pid).cpu_times()
        self.process.kill()
        self.process.join()
        return float(spent.user + spent.system)


def make_pool(names: list[str], *, num: int, steps: int, seed: int = 1) -> list[dict[str, Any]]:
    """Bodies of jobs that differ in prompt, seed, sampler, guidance, pictures and adapters; a third have a start."""
    draw = random.Random(seed)
    starts: list[dict[str, Any]] = [
        {"picture": base64.b64encode(START).decode(), "strength": strength} for strength in (0.5, 1.0)
    ]
    starts[1]["mask"] = base64.b64encode(MASK).decode()
    pool = []
    for index in range(num):
        adapters = draw.sample(names, draw.choice((0, 1, 1, 2)))
        begun = {"start": starts[index // 3 % 2]} if index % 3 == 0 else {}
        pool.append(
            {
                **begun,
                "prompts": [f"a {draw.choice(('red', 'blue', 'green'))} house {index}"],
                "count": draw.choice((1, 1, 2, 3)),
                "seed": 1000 * index,
                "steps": steps,
                "sampler": draw.choice(SAMPLERS),
                "guidance_scale": draw.choice((1.0, 4.0, 6.0)),
                "adapters": [{"name": name, "strength": draw.choice((1.0, 0.5))} for name in adapters],
            }
        )
    return pool


@dataclass
class Clients:
    """Clients that hand in jobs, and record which were accepted and which got no answer.

    Attributes:
        pool: bodies.
        draw: chooses among them.
        accepted: Idempotency-Key → id of the job.
        unanswered: Idempotency-Key → body.
        bodies: Idempotency-Key → place in the pool.
        statuses: status → answers.
    """

    pool: list[dict[str, Any]]
    draw: random.Random
    accepted: dict[str, str] = field(default_factory=dict)
    unanswered: dict[str, int] = field(default_factory=dict)
    bodies: dict[str, int] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)
    number: int = 0

    def hand_in_until(self, port: int, end: float, *, pause_s: float) -> None:
        """Hand in one job after the other until the moment has come."""
        for key in list(self.unanswered):
            if time.monotonic() > end:
                return
            self.hand_in(port, key)
        while time.monotonic() < end:
            key, self.number = f"job-{self.number}", self.number + 1
            self.bodies[key] = self.unanswered[key] = self.draw.randrange(len(self.pool))
            self.hand_in(port, key)
            time.sleep(min(pause_s, max(0.0, end - time.monotonic())))

    def hand_in(self, port: int, key: str) -> None:
        """Hand in one job; one without an answer is handed in again later."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            body = json.dumps(self.pool[self.bodies[key]])
            headers = {"content-type": "application/json", "idempotency-key": key}
            connection.request("POST", "/v1/jobs", body, headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            return
        finally:
            connection.close()
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        if answer.status == 202:
            earlier = self.accepted.setdefault(key, told["id"])
            assert earlier == told["id"], f"{key} got two jobs"
            del self.unanswered[key]


@dataclass(frozen=True)
class Verdict:
    """Findings after the last process of the server.

    Attributes:
        jobs: accepted.
        pictures: of all of them.
        lost: jobs that are not done.
        wrong: pictures that differ from the reference.
        twice: files or jobs more than there should be.
        deaths: most deaths during one picture.
    """

    jobs: int
    pictures: int
    lost: int
    wrong: int
    twice: int
    deaths: int

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, wrong or drawn twice."""
        return not (self.lost or self.wrong or self.twice)


References = dict[tuple[Any, ...], np.ndarray]
"""Pictures that were drawn alone, by everything that decides them."""


def judge(
    state: Path,
    clients: Clients,
    engine: PictureEngine,
    shelf: Path,
    references: References | None = None,
) -> Verdict:
    """Compare everything that was accepted with references; the server must have ended.

    Args:
        state: folder of the server.
        clients: who handed in jobs.
        engine: draws references.
        shelf: folder of the adapters.
        references: drawn before; new ones are added.
    """
    store = JobStore(state)
    references = {} if references is None else references
    lost = wrong = pictures = deaths = 0
    for id_ in clients.accepted.values():
        job = store.job(id_)
        if job is None or job.state != "done":
            lost += 1
            continue
        for one in job.pictures:
            pictures, deaths = pictures + 1, max(deaths, one.deaths)
            drawn = np.asarray(Image.open(store.path_of(one.token)).convert("RGB"))
            wrong += not np.array_equal(drawn, reference(job, one.index, engine, shelf, references))
    num_jobs = len(store.jobs_of("local", limit=1_000_000))
    num_files = len(list(store.pictures.glob("*.png")))
    store.close()
    twice = abs(num_jobs - len(clients.accepted)) + abs(num_files - pictures)
    return Verdict(len(clients.accepted), pictures, lost, wrong, twice, deaths)


def reference(job: Job, number: int, engine: PictureEngine, shelf: Path, known: References) -> np.ndarray:
    """The picture drawn alone, from the adapter's file, at the recorded width class."""
    asked = job.request
    key = (asked.prompts[number], asked.seeds[number], asked.scheduler, asked.guidance_scale, asked.width_class,
           asked.start, *((one.name, one.weight) for one in asked.adapters))  # fmt: skip
    if key not in known:
        use = tuple(
            AdapterInUse(adapter=read_adapter(shelf / f"{one.name}.safetensors"), weight=one.weight)
            for one in asked.adapters
        )
        how = PictureSpec(
            steps=asked.steps,
            guidance_scale=asked.guidance_scale,
            scheduler=asked.scheduler,
            width_px=asked.width_px,
            height_px=asked.height_px,
        )
        start = None
        if asked.start is not None:
            opened = decode_start(START, strength=asked.start.strength)
            opened = opened.with_mask(MASK) if asked.start.mask_sha256 else opened
            start = opened.cut((asked.width_px, asked.height_px))
        request = PictureRequest(
            prompt=asked.prompts[number],
            seed=asked.seeds[number],
            how=how,
            start=start,
            adapters=use,
            width_class=asked.width_class,
        )
        known[key] = engine.submit(request).result(120).pixels
    return known[key]


def kill_often(
    context: Any,
    values: dict[str, Any],
    clients: Clients,
    *,
    kills: int,
    life_s: float,
    pause_s: float,
    warm: bool = False,
) -> list[tuple[bool, float]]:
    """End so many lives of a server under load, then let a last one finish everything.

    Args:
        context: of ``multiprocessing``.
        values: of ``ServeSpec``.
        clients: hand in jobs.
        kills: lives that end by SIGKILL.
        life_s: a life lasts up to so long after it is ready.
        pause_s: between two jobs.
        warm: fork from a process that has loaded the model, but for one life in ten.

    Returns:
        For each kill, whether the server was ready and the CPU seconds of its life.
    """
    told = Path(values["state"]).parent / "server.log"
    lives: list[tuple[bool, float]] = []
    for number in range(kills):
        life = Life.begin(context, values, told, warm=warm and number % COLD_EVERY != 0)
        early = clients.draw.random() < 0.15
        limit = clients.draw.uniform(0.0, 2.0) if early else START_TIMEOUT_S
        port = life.wait_ready(time.monotonic() + limit)
        if port is not None:
            end = time.monotonic() + clients.draw.uniform(0.0, life_s)
            clients.hand_in_until(port, end, pause_s=pause_s)
        elif not early:
            raise RuntimeError(f"the server was not ready within {limit:.0f} s: {life.lines()}")
        lives.append((port is not None, life.kill()))
    life = Life.begin(context, values, told, warm=warm)
    port = life.wait_ready(time.monotonic() + START_TIMEOUT_S)
    assert port is not None, life.lines()
    for key in list(clients.unanswered):
        clients.hand_in(port, key)
    wait_until_idle(port)
    life.process.terminate()
    life.process.join(60)
    return lives


def wait_until_idle(port: int, timeout_s: float = 600.0, pause_s: float = 0.1) -> None:
    """Wait until the server has nothing left to draw."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        if "detour_queue_work 0.0" in text:
            return
        time.sleep(pause_s)
    raise RuntimeError("the server did not finish in time")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--base", default="pocket")
    parser.add_argument(
        "--adapters", type=Path, required=True, help="folder of .safetensors files that fit the base"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for state and log")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--life", type=float, default=1.5, help="seconds that a ready server lives at most")
    parser.add_argument("--round", type=int, default=10, help="kills after which everything is judged")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    log = arguments.work / "kills.jsonl"
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    killed = sum(one["kills"] for one in done)
    context = multiprocessing.get_context("forkserver")
    os.environ["DETOUR_WARM_BASE"] = arguments.base
    context.set_forkserver_preload(WARM)
    from detour.bases.base import open_base

    engine = PictureEngine.load(open_base(arguments.base), prompts="written")
    names = sorted(path.stem for path in arguments.adapters.glob("*.safetensors"))
    references: References = {}
    while killed < arguments.kills:
        judged = time.process_time()
        began, state = time.monotonic(), arguments.work / f"state-{killed}"
        clients = Clients(make_pool(names, num=30, steps=arguments.steps), random.Random(killed))
        values = {
            "base": arguments.base,
            "adapters": arguments.adapters,
            "state": state,
            "port": 0,
            "threads": 1,
        }
        num = min(arguments.round, arguments.kills - killed)
        lives = kill_often(context, values, clients, kills=num, life_s=arguments.life, pause_s=0.2, warm=True)
        verdict = judge(state, clients, engine, arguments.adapters, references)
        killed += num
        line = {"kills": num, "ready": sum(ready for ready, _ in lives), **vars(verdict), "statuses": clients.statuses,
                "seconds": round(time.monotonic() - began, 1), "cpu_s_of_lives": [round(cpu, 2) for _, cpu in lives],
                "cpu_s_of_judge": round(time.process_time() - judged, 1)}  # fmt: skip
        with log.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        print(json.dumps({"all kills": killed, **line}), flush=True)
        if not verdict.is_good:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
