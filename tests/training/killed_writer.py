"""A process that writes checkpoints until it is killed, for tests that kill it.

Imported once by a fork server; after that a process costs milliseconds.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from detour.training.checkpoints import FOLDER, Checkpoint, newest_good, save_checkpoint


def checkpoint_of(step: int, size: int) -> Checkpoint:
    """A checkpoint whose whole content follows from its step."""
    generator = torch.Generator().manual_seed(step)
    tensors = {name: torch.rand(size, generator=generator) for name in ("values", "exp_avg", "exp_avg_sq")}
    return Checkpoint(step, tensors, {"best_loss": 1 / step, "settings": f"step {step}"})


def is_whole(found: Checkpoint, size: int) -> bool:
    meant = checkpoint_of(found.step, size)
    return (
        found.facts == meant.facts
        and found.tensors.keys() == meant.tensors.keys()
        and all(torch.equal(found.tensors[name], meant.tensors[name]) for name in meant.tensors)
    )


def best_of(step: int) -> int:
    """Every fifth step is a new best one."""
    return step - step % 5


def expected_files(step: int, steps_written: range, keep: int) -> set[str]:
    """What stands under ``checkpoints/`` after ``step`` was saved."""
    kept = [s for s in steps_written if s > step - keep or s == best_of(step)]
    names = ("complete.json", "state.json", "state.safetensors")
    return {f"step-{s:06d}/{name}" for s in kept for name in names}


def files_under(run_folder: Path) -> set[str]:
    root = run_folder / FOLDER
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def write_until_killed(run_folder: Path, size: int, keep: int, kill_at: int | None, pipe: Connection) -> None:
    """Go on from the newest good checkpoint; send each step once its save has returned, with all files there are.

    Args:
        run_folder: of the run.
        size: elements of each tensor.
        keep: as :func:`save_checkpoint` takes it.
        kill_at: the system call before which the process kills itself, counted from 0 over the first save;
            ``None`` leaves that to others.
        pipe: for the steps. The first message is ``(None, 0)``: ready.
    """
    torch.set_num_threads(1)
    found, _ = newest_good(run_folder)
    step = found.step if found else 0
    pipe.send((None, 0))
    while True:
        step += 1
        checkpoint = checkpoint_of(step, size)
        with system_calls(kill_at) as count:
            save_checkpoint(run_folder, checkpoint, keep=keep, best=best_of(step))
        pipe.send((step, (files_under(run_folder), count[0])))


@contextlib.contextmanager
def system_calls(kill_at: int | None) -> Iterator[list[int]]:
    """Count the calls into ``os`` and ``io`` in the block, and die before the one of number ``kill_at``."""
    count = [0]

    def watch(_frame: Any, event: str, called: Any) -> None:
        if event != "c_call" or not _asks_the_system(called):
            return
        if count[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        count[0] += 1

    sys.setprofile(watch if kill_at is not None else None)
    try:
        yield count
    finally:
        sys.setprofile(None)


def _asks_the_system(called: Any) -> bool:
    module = getattr(called, "__module__", None) or type(getattr(called, "__self__", None)).__module__
    return module in ("posix", "_io", "io")
