"""A server is killed while clients hand in jobs: nothing accepted is lost, drawn wrong or twice."""

import random
from pathlib import Path

import pytest
import torch
from benchmarks.serve_kills import Clients, judge, kill_often, make_pool

from detour.generation.engine import PictureEngine
from tests.forked import SERVER
from tests.serving.conftest import KINDS


def kill(tiny_base: Path, shelf: Path, engine: PictureEngine, folder: Path, *, kills: int, seed: int) -> None:
    clients = Clients(make_pool(list(KINDS.values()), num=12, steps=2), random.Random(seed))
    values = {
        "base": str(tiny_base), "adapters": shelf, "state": folder / "state", "port": 0, "threads": 1,
    }  # fmt: skip
    kill_often(SERVER, values, clients, kills=kills, life_s=0.5, pause_s=0.1)
    threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # as the server has: on some processors another number of threads rounds otherwise
    try:
        found = judge(folder / "state", clients, engine, shelf)
    finally:
        torch.set_num_threads(threads)
    assert found.jobs > 0
    assert found.is_good, found
    assert set(clients.statuses) == {202}


def test_after_three_kills_everything_that_was_accepted_is_drawn_once(
    tiny_base: Path, shelf_folder: Path, engine: PictureEngine, tmp_path: Path
) -> None:
    kill(tiny_base, shelf_folder, engine, tmp_path, kills=3, seed=3)


@pytest.mark.slow
def test_after_forty_kills_everything_that_was_accepted_is_drawn_once(
    tiny_base: Path, shelf_folder: Path, engine: PictureEngine, tmp_path: Path
) -> None:
    kill(tiny_base, shelf_folder, engine, tmp_path, kills=40, seed=4)
