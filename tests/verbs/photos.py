"""Small data sets for tests of verbs."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detour.specs import RunSpec, load_run_spec


def make_photos(folder: Path, count: int = 9, *, size_px: int = 64) -> Path:
    """Write ``count`` noise pictures with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 255, (size_px + 6, size_px, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"picture {index}\n")
    return folder


def quick_spec(base: Path | str, photos: Path, **flags: Any) -> RunSpec:
    """A run of seconds; ``flags`` are dotted keys with ``__`` for the dot."""
    values = quick_flags(base, photos) | {key.replace("__", "."): value for key, value in flags.items()}
    return load_run_spec(flags=values)


def quick_flags(base: Path | str, photos: Path) -> dict[str, Any]:
    """Rank 2, six steps of two, no sample pictures, no held-out evaluation, fp32, one thread."""
    return {
        "name": "quick",
        "seed": 3,
        "data.source": str(photos),
        "base.name": str(base),
        "base.device": "cpu",
        "base.dtype": "fp32",
        "adapter.rank": 2,
        "adapter.targets": "cross-attn",
        "train.steps": 6,
        "train.batch": 2,
        "train.threads": 1,
        "train.optim.lr": 1e-3,
        "sample.every": 0,
        "validate.every": 3,
        "validate.num_timesteps": 2,
        "checkpoint.every": 2,
        "evaluate.num_prompts": 0,
        "evaluate.steps": 1,
        "evaluate.proof_pictures": 1,
        "sample.steps": 1,
    }
