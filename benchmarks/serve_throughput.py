"""CPU seconds a picture: the server against one-adapter-at-a-time ways of serving, and the ceiling of the same run.

``python -m benchmarks.serve_throughput --rounds 2``. One list of requests, adapters by Zipf's law over 32, all there at
once (saturation). Every way has a process of its own with one thread, so that its memory can be told; the ways take
turns within a round. The server does everything: HTTP, durable jobs, PNG files. The other ways draw and write nothing,
which favours them:

- **ceiling**: the plain base, no adapters, in full batches.
- **batches by adapter**: adapter attached, all its requests in batches, detached.
- **set_adapters behind a lock**: all adapters loaded by PEFT, its switch, one picture.
- **merge and unmerge**: the same with the adapter in the weights.

Waiting times are the clock's seconds from the first request to each finished picture; where requests are drawn by
adapter, the most used adapter is last.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from benchmarks.mixed import Setting
from benchmarks.serve_kills import PRELOAD, START_TIMEOUT_S, Life, wait_until_idle
from benchmarks.serve_load import Server, quantiles
from detour.adapter_files.writing import write_adapter
from detour.adapters.attach import attach_adapter
from detour.adapters.delta import merge_into
from detour.bases.base import open_base
from detour.generation.engine import PictureRequest
from detour.specs.generation import PictureSpec

BATCH = 8
"""Number of pictures of a full batch: two rows each fill the widest class."""
FEW = 4
"""Number of lone pictures that are measured one after the other."""
IDLE_PAUSE_S = 0.5
"""Seconds between two looks at the server's queue; answering one costs it CPU time."""


@dataclass(frozen=True)
class Work:
    """Everything that a process needs to draw the requests.

    Attributes:
        base: name or folder.
        steps: of each picture.
        adapters: number of adapters.
        rank: of each adapter.
        targets: layers that they sit on.
        num: number of pictures.
    """

    base: str
    steps: int
    adapters: int
    rank: int
    targets: str
    num: int

    def setting(self) -> Setting:
        """Base and adapters; the same in every process."""
        return Setting(open_base(self.base), self.steps, self.adapters, rank=self.rank, targets=self.targets)

    def requests(self) -> list[PictureRequest]:
        """Requests without adapters, each with a seed of its own."""
        how = PictureSpec(steps=self.steps)
        return [PictureRequest(prompt="a red house in the desert", seed=i, how=how) for i in range(self.num)]


@dataclass(frozen=True)
class Taken:
    """Cost of drawing all requests once.

    Attributes:
        cpu_s: CPU seconds of the process.
        waits_s: the clock's seconds from the first request to each finished picture.
        memory_mb: of the process afterwards.
    """

    cpu_s: float
    waits_s: list[float]
    memory_mb: float


def choices(num: int, num_adapters: int, seed: int = 0) -> list[int]:
    """Adapter of each request: the popular ones often (Zipf, exponent 1)."""
    weights = [1 / (rank + 1) for rank in range(num_adapters)]
    return random.Random(seed).choices(range(num_adapters), weights, k=num)


def _batches(requests: Sequence[PictureRequest]) -> Iterator[Sequence[PictureRequest]]:
    for start in range(0, len(requests), BATCH):
        yield requests[start : start + BATCH]


def ceiling(setting: Setting, requests: list[PictureRequest], _: list[int]) -> Iterator[int]:
    """Draw with the plain base in full batches; yields the pictures of each batch."""
    for batch in _batches(requests):
        setting.engine.draw(batch, batch=BATCH)
        yield len(batch)


def by_adapter(setting: Setting, requests: list[PictureRequest], used: list[int]) -> Iterator[int]:
    """Attach an adapter, draw all its requests in batches, and detach it."""
    for index in sorted(set(used), reverse=True):
        mine = [request for request, one in zip(requests, used, strict=True) if one == index]
        attached = attach_adapter(setting.engine.models, setting.adapters[index])
        for batch in _batches(mine):
            setting.engine.draw(batch, batch=BATCH)
            yield len(batch)
        attached.detach()


def behind_a_lock(setting: Setting, requests: list[PictureRequest], used: list[int]) -> Iterator[int]:
    """Switch the adapter with PEFT before each picture."""
    unet: Any = setting.switched.unet
    for request, index in zip(requests, used, strict=True):
        unet.set_adapters([f"a{index}"])
        setting.switched.draw([request])
        yield 1


def merged(setting: Setting, requests: list[PictureRequest], used: list[int]) -> Iterator[int]:
    """Merge the adapter before each picture, and undo the merge."""
    for request, index in zip(requests, used, strict=True):
        merge = merge_into(setting.engine.models, setting.adapters[index])
        setting.engine.draw([request])
        merge.undo()
        yield 1


def alone(setting: Setting, requests: list[PictureRequest], used: list[int]) -> Iterator[int]:
    """Draw the first few one after the other, each with its adapter, as ``detour generate`` does."""
    for request in setting.own[: min(FEW, len(requests), len(used))]:
        setting.engine.draw([request])
        yield 1


WAYS = {
    "ceiling": ceiling,
    "batches by adapter": by_adapter,
    "set_adapters behind a lock": behind_a_lock,
    "merge and unmerge": merged,
    "engine, alone": alone,
}


def run_way(name: str, work: Work, pipe: Any) -> None:
    """Draw all requests in one way whenever the pipe says so, and send what it took."""
    torch.set_num_threads(1)
    setting, requests, used = work.setting(), work.requests(), choices(work.num, work.adapters)
    (setting.switched if name.startswith("set_adapters") else setting.engine).draw(requests[:1])
    pipe.send("ready")
    while pipe.recv():
        began, clock, waits = time.process_time(), time.perf_counter(), list[float]()
        for num in WAYS[name](setting, requests, used):
            waits += [time.perf_counter() - clock] * num
        memory = psutil.Process().memory_info().rss / 1e6
        pipe.send(Taken(time.process_time() - began, waits, memory))


class OwnProcess:
    """One of the ways in a process of its own."""

    def __init__(self, name: str, work: Work) -> None:
        """Start it and wait until base and adapters are there."""
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=run_way, args=(name, work, theirs), daemon=True)
        self.process.start()
        self._pipe.recv()

    def draw(self) -> Taken:
        """Draw all requests."""
        self._pipe.send(True)
        taken: Taken = self._pipe.recv()
        return taken

    def end(self) -> None:
        """End the process."""
        self._pipe.send(False)
        self.process.join(60)


class OwnServer:
    """A server in a process of its own, with the adapters of the setting on its shelf."""

    def __init__(self, work: Work, folder: Path) -> None:
        """Write the adapters, start the server and wait until it is ready."""
        setting = work.setting()
        for index, adapter in enumerate(setting.adapters):
            write_adapter(folder / "shelf" / f"a{index}.safetensors", adapter, family=setting.base.family)
        context = multiprocessing.get_context("forkserver")
        values = {
            "base": setting.base.name,
            "adapters": folder / "shelf",
            "state": folder / "state",
            "port": 0,
            "threads": 1,
        }
        self.life = Life.begin(context, values, folder / "server.log")
        port = self.life.wait_ready(time.monotonic() + START_TIMEOUT_S)
        assert port is not None, self.life.lines()
        self.port, self.server = port, Server(f"http://127.0.0.1:{port}")

    def draw(self, requests: list[PictureRequest], used: Sequence[int]) -> Taken:
        """Hand in all requests at once; ``-1`` stands for no adapter."""
        process = psutil.Process(self.life.process.pid)
        before, began = sum(process.cpu_times()[:2]), time.time()
        ids = []
        for request, index in zip(requests, used, strict=True):
            body = {
                "prompts": [request.prompt],
                "seed": request.seed,
                "steps": request.how.steps,
                "adapters": [{"name": f"a{index}"}] if index >= 0 else [],
            }
            status, answer = self.server.ask("POST", "/v1/jobs", body)
            assert status == 202, answer
            ids.append(answer["id"])
        wait_until_idle(self.port, pause_s=IDLE_PAUSE_S)
        cpu_s = float(sum(process.cpu_times()[:2]) - before)
        memory = process.memory_info().rss / 1e6
        jobs = [self.server.ask("GET", f"/v1/jobs/{one}")[1] for one in ids]
        return Taken(cpu_s, [one["finished"] - began for one in jobs], memory)

    def draw_alone(self, requests: list[PictureRequest], used: Sequence[int]) -> Taken:
        """Hand in each of the first few when the one before is finished."""
        parts = [self.draw([one], [index]) for one, index in zip(requests[:FEW], used, strict=False)]
        return Taken(
            sum(one.cpu_s for one in parts), [w for one in parts for w in one.waits_s], parts[-1].memory_mb
        )


def measure(work: Work, rounds: int) -> dict[str, Any]:
    """Median CPU seconds a picture of each way, its share of the ceiling within a round, waits and memory."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOAD)
    requests, used = work.requests(), choices(work.num, work.adapters)
    found: dict[str, list[Taken]] = {}
    with tempfile.TemporaryDirectory() as folder:
        own, ways = OwnServer(work, Path(folder)), {name: OwnProcess(name, work) for name in WAYS}
        draws = {name: way.draw for name, way in ways.items()} | {
            "server": partial(own.draw, requests, used),
            "server, no adapters": partial(own.draw, requests, [-1] * work.num),
            "server, alone": partial(own.draw_alone, requests, range(work.adapters)),
        }
        try:
            own.draw(requests, used)  # prepares its adapters outside the clock
            for _ in range(rounds):
                for name, draw in draws.items():
                    found.setdefault(name, []).append(draw())
                print(json.dumps({n: round(_each(all_[-1]), 4) for n, all_ in found.items()}), flush=True)
        finally:
            own.life.process.terminate()
            own.life.process.join(60)
            for way in ways.values():
                way.end()
    return {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        **vars(work),
        "cpu_s_a_picture": {name: round(median(map(_each, all_)), 4) for name, all_ in found.items()},
        "share_of_ceiling": {
            name: round(median(_each(c) / _each(t) for c, t in zip(found["ceiling"], all_, strict=True)), 3)
            for name, all_ in found.items()
        },
        "waits_s": {name: quantiles(all_[-1].waits_s) for name, all_ in found.items()},
        "memory_mb": {name: round(max(one.memory_mb for one in all_)) for name, all_ in found.items()},
    }


def _each(taken: Taken) -> float:
    return taken.cpu_s / len(taken.waits_s)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--adapters", type=int, default=32)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--targets", default="attn")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = Work(
        arguments.base,
        arguments.steps,
        arguments.adapters,
        arguments.rank,
        arguments.targets,
        arguments.pictures,
    )
    print(json.dumps(measure(work, arguments.rounds), indent=2))


if __name__ == "__main__":
    main()
