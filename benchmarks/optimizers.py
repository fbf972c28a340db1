"""``python -m benchmarks.optimizers``: what each optimizer learns in few steps on ``pocket``, rate by rate.

24 pictures of stained glass, which the base never saw, rank 4, every layer, batches of 8, one seed. A row is one
run: the share by which the loss on the pictures kept out fell below the plain base's, at fixed timesteps with fixed
noise. Prodigy's rows also say the estimate ``d`` that it ended with. Rows already in ``--out`` are not made again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from detour.specs import AdapterSpec, BaseSpec, DataSpec, RunSpec
from detour.specs.sources import with_changes
from detour.verbs.judge.held_out_material import write_world_style
from detour.verbs.train.demo import NUM_PICTURES, RANK, draw_training_pictures
from detour.verbs.train.run import train_adapter

STYLE = "stained glass"
CELLS: tuple[dict[str, Any], ...] = (
    {"name": "adamw", "lr": 1.2e-2},
    *({"name": "adafactor", "lr": lr} for lr in (4e-3, 1.2e-2, 3.6e-2)),
    *({"name": "lion", "lr": lr} for lr in (6e-4, 1.2e-3, 2.4e-3, 4.8e-3)),
    *({"name": "schedule_free", "lr": lr} for lr in (1.2e-2, 3.6e-2, 7.2e-2)),
    *({"name": "prodigy", "lr": 1.0, "d0": d0} for d0 in (1e-6, 1.2e-4, 1.2e-3, 4e-3)),
    {"name": "prodigy", "lr": 1.0, "d0": 1.2e-3, "d_coef": 2.0},
)


def measure(cell: dict[str, Any], *, steps: int, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Make one run, and return its rates and the relative fall of its validation loss."""
    spec = with_changes(
        RunSpec(
            name="cell",
            goal="style",
            seed=seed,
            base=BaseSpec(name="pocket", dtype="fp32"),
            data=DataSpec(source=str(data)),
            adapter=AdapterSpec(rank=RANK),
        ),
        {
            "train.steps": steps,
            "train.threads": 1,
            "train.loss.caption_dropout": 0.0,
            "sample.every": 0,
            "validate.every": steps,
            "checkpoint.every": 0,
            **{f"train.optim.{key}": value for key, value in cell.items()},
        },
    )
    result = train_adapter(spec, runs=runs, force=True, prove=False)
    lines = [json.loads(line) for line in (result.run_folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["val_loss"] for line in lines if "val_loss" in line]
    rates = [line.get("d_lr", line.get("lr")) for line in lines if "lr" in line]
    return {
        **cell,
        "steps": steps,
        "seed": seed,
        "fell": round(1 - losses[-1] / losses[0], 4),
        "highest_rate": max(rates),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/optimizers.jsonl"))
    arguments = parser.parse_args()
    done = arguments.out.read_text(encoding="utf-8").splitlines() if arguments.out.exists() else []
    rows = [json.loads(line) for line in done]
    with tempfile.TemporaryDirectory() as work:
        data = Path(work) / "data"
        draw_training_pictures(data, style_name=STYLE, count=NUM_PICTURES, seed=arguments.seed)
        write_world_style(Path(work), STYLE)
        for steps in arguments.steps:
            for cell in CELLS:
                asked = {**cell, "steps": steps, "seed": arguments.seed}
                if any(asked.items() <= row.items() for row in rows):
                    continue
                row = measure(cell, steps=steps, seed=arguments.seed, data=data, runs=Path(work) / "runs")
                rows.append(row)
                with arguments.out.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
                print(row, flush=True)


if __name__ == "__main__":
    main()
