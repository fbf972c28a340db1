"""Makes the embedded base: ``python -m detour.pocket.pretrain --work build/pocket``.

Every stage can be stopped (Ctrl-C, SIGTERM) and started again; it takes up its state under ``--work``.
Without ``--stage`` all of them run in order.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from detour.pocket.pretrain.run import STAGES, Pretraining, Settings


def new_pretraining(work: Path, out: Path, settings: Settings) -> Pretraining:
    """The pre-training of pocket."""
    return Pretraining(work=work, out=out, settings=settings)


def run_from_command_line(
    new: Callable[[Path, Path, Settings], Pretraining],
    stages: Sequence[str],
    *,
    prog: str,
    description: str | None,
    work: Path,
    out: Path,
) -> None:
    """Reads the command line and runs the chosen stages of a base's pre-training.

    Args:
        new: makes the pre-training from the work folder, the base's folder and the settings.
        stages: their names, in order.
        prog: the command, for its help.
        description: what it does, for its help.
        work: default of ``--work``.
        out: default of ``--out``.
    """
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--work", type=Path, default=work, help="states, caches and logs")
    parser.add_argument("--out", type=Path, default=out, help="the base's folder")
    parser.add_argument("--stage", action="append", choices=stages, help="only these, in the given order")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--pictures", type=int, default=Settings.pictures, help="size of the training set")
    parser.add_argument("--steps", type=int, default=None, help="length of the stage, with one --stage")
    parser.add_argument("--init", choices=("fresh", "shipped"), default="fresh", help="weights to start from")
    parser.add_argument("--workers", type=int, default=cores, help="drawing processes")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", cores)))
    settings = Settings(
        seed=arguments.seed,
        pictures=arguments.pictures,
        steps=arguments.steps,
        init=arguments.init,
        workers=arguments.workers,
    )
    pretraining = new(arguments.work, arguments.out, settings)
    for stage in arguments.stage or stages:
        pretraining.run(stage)


def main() -> None:
    """Reads the command line and runs the stages of pocket's pre-training."""
    run_from_command_line(
        new_pretraining,
        STAGES,
        prog="python -m detour.pocket.pretrain",
        description=__doc__,
        work=Path("build/pocket"),
        out=Path(__file__).parents[1] / "weights",
    )


if __name__ == "__main__":
    main()
