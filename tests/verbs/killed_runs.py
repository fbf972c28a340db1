"""Runs that are killed and gone on with, and what must then be equal to a run that never was."""

import json
from pathlib import Path
from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "accumulated": {
        "train__grad_accum": 2,
        "adapter__dropout": 0.2,
        "train__loss__caption_dropout": 0.3,
        "validate__ship": "lowest_loss",
    },
    "patient": {"validate__patience": 2, "validate__every": 1, "train__schedule__kind": "constant"},
    "averaged": {"train__optim__name": "schedule_free", "train__schedule__kind": "constant"},
    "everything": {
        "base__dtype": "fp16",
        "train__ema": 0.9,
        "adapter__method": "dora",
        "adapter__text_encoder__rank": 2,
        "train__loss__weighting": "min_snr",
        "train__gradient_checkpointing": True,
        "train__loss__caption_dropout": 0.3,
    },
}
"""Settings, with ``__`` for the dot, under which a killed run must be the straight one: whatever adds to the state of
a run adds a row."""

SMALL: dict[str, Any] = {"sample__every": 3, "checkpoint__every": 2, "train__steps": 7}
"""Eight training pictures, two or four a step: epochs end between checkpoints and on them."""


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of the log without their timing."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob(pattern))}


def differences(straight: Path, killed: Path) -> list[str]:
    """In what two finished runs differ: adapter, settings, weights and optimizer at the end, samples, log, proof."""
    found = [] if metrics(straight) == metrics(killed) else ["metrics.jsonl"]
    for pattern in (
        "*.safetensors",
        "resolved.toml",
        "checkpoints/*/state.safetensors",
        "checkpoints/adapters/*.safetensors",
        "samples/**/*.png",
        "findings.json",
        "gradients.json",
        "proof.json",
    ):
        ours, theirs = files(straight, pattern), files(killed, pattern)
        found += sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    found += [str(path.relative_to(killed)) for path in killed.rglob("*.part")]
    return found
