"""A run of the embedded base that trains on all of its pictures and does nothing beside."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detour.specs import load_run_spec
from detour.verbs.train.run import train_adapter

FLAGS: Mapping[str, Any] = {
    "base.name": "pocket",
    "data.holdout": 0.0,
    "sample.every": 0,
    "validate.every": 0,
    "evaluate.num_prompts": 0,
    "evaluate.proof_pictures": 1,
}


def train_bare(name: str, data: Path, runs: Path, settings: Mapping[str, Any]) -> Path:
    """Train an adapter, in place of one of that name.

    Args:
        name: of the run.
        data: folder of pictures.
        runs: folder that the run's goes into.
        settings: dotted keys beside :data:`FLAGS` or in their place.

    Returns:
        The adapter file.
    """
    spec = load_run_spec(flags={**FLAGS, "name": name, "data.source": str(data), **settings})
    return train_adapter(spec, runs=runs, force=True).adapter_file
