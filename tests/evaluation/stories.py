"""A run's story with pictures of noise, for the report, the card and the sheet."""

from typing import Any

import numpy as np

from detour.bases.families import FAMILIES
from detour.evaluation.report import Metrics, Pair, RunStory
from detour.specs import DataSpec, RunSpec
from tests.evaluation.figures import learned_proof


def pair(prompt: str, seed: int = 3, *, side: int = 24, truth: bool = True) -> Pair:
    rng = np.random.default_rng(seed)
    base, adapter, true = rng.integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    return Pair(prompt=prompt, seed=seed, base=base, adapter=adapter, truth=true if truth else None)


def story(**changes: Any) -> RunStory:
    told: dict[str, Any] = {
        "spec": RunSpec(name="neon", data=DataSpec(source="/home/ada/photos", trigger="nn-style")),
        "name": "neon",
        "base_identity": "pocket-v1",
        "family": FAMILIES["sd1"],
        "proof": learned_proof(),
        "metrics": Metrics(
            loss=[(step, 1 / step) for step in range(1, 60)], validation=[(0, 0.4), (30, 0.3), (59, 0.25)]
        ),
        "proof_pairs": [pair("a red house", truth=False)],
        "held_out_pairs": [pair("a blue cat in the city"), pair("a green car on the beach", 4)],
        "facts": {"training took (seconds)": 61.5},
    }
    return RunStory(**(told | changes))
