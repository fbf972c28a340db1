"""CPU seconds a picture: the server against one-adapter-at-a-time ways of serving, and the ceiling of the same run.

``python -m benchmarks.serve_throughput --rounds 2``. One list of requests, adapters by Zipf's law over 32, all there at
once (saturation). The server is a process of its own and does everything: HTTP, durable jobs, PNG files. The other ways
draw in this process and write nothing, which favours them:

- **ceiling**: the plain base, no adapters, in full batches.
- **batches by adapter**: adapter attached, all its requests in batches, detached.
- **set_adapters behind a lock**: all adapters loaded by PEFT, its switch, one picture.
- **merge and unmerge**: the same with the adapter in the weights.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from benchmarks.mixed import Setting
from benchmarks.serve_kills import PRELOAD, START_TIMEOUT_S, Life, wait_until_idle
from benchmarks.serve_load import Server
from detour.adapter_files.writing import write_adapter
from detour.adapters.attach import attach_adapter
from detour.adapters.delta import merge_into
from detour.bases.base import open_base
from detour.generation.engine import PictureRequest

BATCH = 8
"""Number of pictures of a full batch: two rows each fill the widest class."""


def choices(num: int, num_adapters: int, seed: int = 0) -> list[int]:
    """Adapter of each request: the popular ones often (Zipf, exponent 1)."""
    weights = [1 / (rank + 1) for rank in range(num_adapters)]
    return random.Random(seed).choices(range(num_adapters), weights, k=num)


def ceiling(setting: Setting, requests: list[PictureRequest], _: list[int]) -> None:
    """Draw with the plain base in full batches."""
    setting.engine.draw(requests, batch=BATCH)


def by_adapter(setting: Setting, requests: list[PictureRequest], used: list[int]) -> None:
    """Attach an adapter, draw all its requests in batches, and detach it."""
    for index in sorted(set(used)):
        mine = [request for request, one in zip(requests, used, strict=True) if one == index]
        attached = attach_adapter(setting.engine.models, setting.adapters[index])
        setting.engine.draw(mine, batch=BATCH)
        attached.detach()


def behind_a_lock(setting: Setting, requests: list[PictureRequest], used: list[int]) -> None:
    """Switch the adapter with PEFT before each picture."""
    unet: Any = setting.switched.unet
    for request, index in zip(requests, used, strict=True):
        unet.set_adapters([f"a{index}"])
        setting.switched.draw([request])


def merged(setting: Setting, requests: list[PictureRequest], used: list[int]) -> None:
    """Merge the adapter before each picture, and undo the merge."""
    for request, index in zip(requests, used, strict=True):
        merge = merge_into(setting.engine.models, setting.adapters[index])
        setting.engine.draw([request])
        merge.undo()


WAYS: dict[str, Callable[[Setting, list[PictureRequest], list[int]], None]] = {
    "ceiling": ceiling,
    "batches by adapter": by_adapter,
    "set_adapters behind a lock": behind_a_lock,
    "merge and unmerge": merged,
}


class OwnServer:
    """A server in a process of its own, with the adapters of the setting on its shelf."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        shelf = folder / "shelf"
        for index, adapter in enumerate(setting.adapters):
            write_adapter(shelf / f"a{index}.safetensors", adapter, family=setting.base.family)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        values = {
            "base": setting.base.name,
            "adapters": shelf,
            "state": folder / "state",
            "port": 0,
            "threads": 1,
        }
        self.life = Life.begin(context, values, folder / "server.log")
        port = self.life.wait_ready(time.monotonic() + START_TIMEOUT_S)
        assert port is not None, self.life.lines()
        self.port, self.server = port, Server(f"http://127.0.0.1:{port}")

    def draw(self, requests: list[PictureRequest], used: list[int]) -> float:
        """CPU seconds that the server takes for all requests, handed in at once."""
        process = psutil.Process(self.life.process.pid)
        before = sum(process.cpu_times()[:2])
        for request, index in zip(requests, used, strict=True):
            body = {
                "prompts": [request.prompt],
                "seed": request.seed,
                "steps": request.how.steps,
                "adapters": [{"name": f"a{index}"}] if index >= 0 else [],
            }
            status, told = self.server.ask("POST", "/v1/jobs", body)
            assert status == 202, told
        wait_until_idle(self.port)
        return float(sum(process.cpu_times()[:2]) - before)


def measure(setting: Setting, num: int, rounds: int) -> dict[str, Any]:
    """Median CPU seconds a picture of each way, and its share of the ceiling within a round."""
    used = choices(num, setting.num)
    requests = [
        PictureRequest(prompt="a red house in the desert", seed=i, how=setting.requests[0].how)
        for i in range(num)
    ]
    found: dict[str, list[float]] = {
        name: [] for name in (*WAYS, "server", "server, no adapters", "server, alone")
    }
    with tempfile.TemporaryDirectory() as folder:
        own = OwnServer(setting, Path(folder))
        try:
            for part in (setting.engine, setting.switched):  # loads and prepares outside the clock
                part.draw(requests[:1])
            own.draw(requests, used)
            for _ in range(rounds):
                for name, way in WAYS.items():
                    began = time.process_time()
                    way(setting, requests, used)
                    found[name].append((time.process_time() - began) / num)
                found["server"].append(own.draw(requests, used) / num)
                found["server, no adapters"].append(own.draw(requests, [-1] * num) / num)
                few = list(zip(requests[:4], used[:4], strict=True))
                alone = [own.draw([request], [index]) for request, index in few]
                found["server, alone"].append(sum(alone) / len(alone))
                began = time.process_time()
                for request in setting.own[:4]:
                    setting.engine.draw([request])
                found.setdefault("engine, alone", []).append((time.process_time() - began) / 4)
                print(json.dumps({name: round(values[-1], 4) for name, values in found.items()}), flush=True)
        finally:
            own.life.process.terminate()
            own.life.process.join(60)
    shares = {
        name: median(c / v for c, v in zip(found["ceiling"], values, strict=True))
        for name, values in found.items()
    }
    return {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "steps": setting.steps,
        "pictures": num,
        "adapters": setting.num,
        "cpu_s_a_picture": {name: round(median(values), 4) for name, values in found.items()},
        "share_of_ceiling": {name: round(share, 3) for name, share in shares.items()},
    }


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
    make = partial(Setting, open_base(arguments.base), arguments.steps, arguments.adapters)
    setting = make(rank=arguments.rank, targets=arguments.targets)
    print(json.dumps(measure(setting, arguments.pictures, arguments.rounds), indent=2))


if __name__ == "__main__":
    main()
