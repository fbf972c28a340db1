"""Makes the embedded base: ``python -m detour.pocket.pretrain --work build/pocket``.

Every stage can be stopped (Ctrl-C, SIGTERM) and started again; it takes up its state under ``--work``.
Without ``--stage`` all of them run in order.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from detour.pocket.pretrain.run import STAGES, Pretraining, Settings


def main() -> None:
    """Reads the command line and runs the stages."""
    parser = argparse.ArgumentParser(prog="python -m detour.pocket.pretrain", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/pocket"), help="states, caches and logs")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "weights", help="the base's folder"
    )
    parser.add_argument("--stage", action="append", choices=STAGES, help="only these, in the given order")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--pictures", type=int, default=Settings.pictures, help="size of the training set")
    parser.add_argument("--steps", type=int, default=None, help="length of the stage, with one --stage")
    parser.add_argument("--init", choices=("fresh", "shipped"), default="fresh", help="weights to start from")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="drawing processes")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    settings = Settings(
        seed=arguments.seed,
        pictures=arguments.pictures,
        steps=arguments.steps,
        init=arguments.init,
        workers=arguments.workers,
    )
    pretraining = Pretraining(work=arguments.work, out=arguments.out, settings=settings)
    for stage in arguments.stage or STAGES:
        pretraining.run(stage)


if __name__ == "__main__":
    main()
