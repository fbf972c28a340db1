"""Whole runs, killed by SIGKILL at random moments and gone on with: the embedded base and the small random one."""

import multiprocessing
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.verbs.killed_runs import VARIANTS, differences
from tests.verbs.photos import make_photos, quick_flags

SERVER = multiprocessing.get_context("forkserver")
"""Of this file alone: it holds all that a run imports, so that a kill meets the run and not its imports."""

POCKET = {
    "base.name": "pocket",
    "sample.every": 3,
    "sample.count": 2,
    "sample.steps": 2,
    "evaluate.num_prompts": 2,
    "evaluate.steps": 2,
    "train.steps": 7,
}
TINY = {"sample.every": 3, "train.steps": 7}


def detour(arguments: Sequence[str], log: Path) -> None:
    """In a child: the command line itself, speaking into ``log``."""
    from detour.cli.main import run

    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    run(list(arguments))


def live(arguments: Sequence[str], log: Path, *, kill_after_s: float | None = None) -> int:
    """Exit code of one process; -9 when it was killed."""
    SERVER.set_forkserver_preload(["tests.verbs.run_imports", __name__])
    process = SERVER.Process(target=detour, args=(arguments, log))
    process.start()
    process.join(timeout=kill_after_s)
    if process.is_alive():
        process.kill()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def command(flags: Mapping[str, object], runs: Path) -> list[str]:
    settings = {key: value for key, value in flags.items() if key != "data.source"}
    assignments = [word for key, value in settings.items() for word in ("--set", f"{key}={toml(value)}")]
    return ["train", str(flags["data.source"]), *assignments, "--runs", str(runs)]


def toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def kill_runs(place: Path, flags: Mapping[str, object], kills: int, *, seed: int) -> Counter[str]:
    """Kill ``kills`` runs at moments spread over a whole run, go on with each, compare with one that was not killed.

    Returns:
        How many died before they had begun, and in which state ``run.json`` was for the others.
    """
    draw = random.Random(seed)
    log = place / "log.txt"
    assert live(command(flags, place / "straight"), log) == 0, log.read_text()
    begun = time.perf_counter()
    assert live(command(flags, place / "again"), log) == 0, log.read_text()
    whole_s = time.perf_counter() - begun
    assert differences(place / "straight" / "quick", place / "again" / "quick") == []
    died: Counter[str] = Counter()
    for index in range(kills):
        runs = place / str(index)
        # One moment in each of as many equal parts of the run, so that every stage is met.
        moment = whole_s * (index + draw.random()) / kills
        code = live(command(flags, runs), log, kill_after_s=moment)
        folder = runs / "quick"
        while code == 0 and moment > 0.1:  # the machine became faster: earlier, once more
            shutil.rmtree(runs)
            moment *= 0.7
            code = live(command(flags, runs), log, kill_after_s=moment)
        if not (folder / "run.json").exists():
            died["before it had begun"] += 1
            assert live(command(flags, runs), log) == 0, log.read_text()
        elif code == -9:
            died[last_stage(log)] += 1
            assert live(["train", "--resume", str(folder)], log) == 0, log.read_text()
        else:
            died["not killed in time"] += 1
        assert differences(place / "straight" / "quick", folder) == []
    return died


def last_stage(log: Path) -> str:
    """What the process said last, without its figures."""
    line = log.read_text().splitlines()[-1].split(" · ")[0].rstrip("0123456789/ ")
    return "training after a sample sheet" if line.startswith("Sample pictures") else line


def report(died: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{sum(died.values())} runs killed: {dict(died)}", file=sys.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_runs_killed_at_random_moments_are_the_straight_run(
    tiny_base: Path, tmp_path: Path, variant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {key.replace("__", "."): value for key, value in VARIANTS[variant].items()}
    flags = quick_flags(tiny_base, make_photos(tmp_path / "photos")) | TINY | own
    died = kill_runs(tmp_path, flags, 6, seed=1)
    report(died, capsys)


@pytest.mark.slow
def test_runs_on_the_embedded_base_killed_at_random_moments_are_the_straight_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = make_photos(tmp_path / "photos", size_px=128)
    died = kill_runs(tmp_path, quick_flags("pocket", photos) | POCKET, 10, seed=2)
    report(died, capsys)
    assert died["not killed in time"] <= 1
