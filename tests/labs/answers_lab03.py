"""Answers to lab 3, on a log and a folder of captions that stand in for a run's."""

import atexit
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.labs.answers import AlsoRight, Answers

FOLDER = Path(tempfile.mkdtemp(prefix="detour-lab03-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
METRICS = FOLDER / "metrics.jsonl"
LINES = [
    {"step": 0, "val_loss": 0.4},
    {"step": 1, "loss": 0.9},
    {"step": 2, "loss": 0.1},
    {"step": 2, "val_loss": 0.3},
]
CAPTIONS = ["a red cat", "a blue key"]
CANDIDATES = ["a blue key", "a green boat", "a pink star", "a red cat"]
METRICS.write_text("".join(json.dumps(line) + "\n" for line in LINES))
for index, caption in enumerate(CAPTIONS):
    (FOLDER / f"{index}.txt").write_text(caption + "\n")


def share(value: float | None) -> dict[str, Any]:
    return {"metrics": str(METRICS), "share": value}


def chosen(*prompts: str) -> dict[str, Any]:
    return {"data": str(FOLDER), "candidates": CANDIDATES, "prompts": prompts}


def running(values: list[float], window: int) -> list[float]:
    means = []
    for end in range(len(values)):
        part = [values[index] for index in range(end + 1) if index > end - window]
        means.append(sum(part) / len(part))
    return means


ANSWERS: Answers = {
    "smoothed": (
        running,
        [
            (lambda values, window: running(values, len(values)), "everything so far"),
            (lambda values, window: running(values, window)[window - 1 :], "come out"),
            (lambda values, window: running(values[::-1], window)[::-1], "look ahead"),
            (
                lambda values, window: [
                    sum(values[max(0, end - window) : end]) / window for end in range(1, len(values) + 1)
                ],
                "divide by the number",
            ),
            (lambda values, window: values, "hand the values back"),
        ],
    ),
    "fell_by": (
        share(0.25),
        [
            (share(0.75), "what is left"),
            (share(-0.25), "sign"),
            (share(0.1), "difference of the two"),
            (share(25.0), "per cent"),
            (share(1 - 0.1 / 0.9), "training loss"),
            (share(0.5), "does not follow"),
            (share(None), "no share yet"),
        ],
    ),
    "held_out": (
        {"data": str(FOLDER), "candidates": CANDIDATES, "prompts": ["a green boat", "a pink star"]},
        [
            (chosen("a green boat", "a red cat"), "training captions"),
            (chosen("a green boat"), "you left out"),
            (chosen("a pink star", "a green boat"), "order"),
        ],
    ),
    "style_share": (
        lambda base, adapter: 1 - adapter / base,
        [
            (lambda base, adapter: adapter / base, "what is left"),
            (lambda base, adapter: base - adapter, "the difference"),
            (lambda base, adapter: base / adapter, "upside down"),
            (lambda base, adapter: adapter, "which share"),
        ],
    ),
    "beyond_noise": (
        lambda a, b, c: abs(a - b) < min(abs(c - a), abs(c - b)),
        [
            (lambda a, b, c: c != a, "every difference"),
            (lambda a, b, c: c - max(a, b) > abs(a - b), "worse is a difference"),
            (lambda a, b, c: abs(c - a) > abs(a - b), "nearer"),
            (lambda a, b, c: abs(a - b) < 0.05, "more than these differ"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "smoothed": [
        lambda values, window: tuple(np.mean(values[: end + 1][-window:]) for end in range(len(values))),
        lambda values, window: np.array(running(values, window), np.float32),
    ],
    "fell_by": [share((0.4 - 0.3) / 0.4), share(0.2500001)],
    "held_out": [chosen("a green boat", "a pink star")],
    "style_share": [
        lambda base, adapter: (base - adapter) / base,
        lambda base, adapter: np.float32(1) - adapter / base,
    ],
    "beyond_noise": [
        lambda a, b, c: all(abs(c - one) > abs(a - b) for one in (a, b)),
        lambda a, b, c: np.min(np.abs(np.array([a, b]) - c)) > abs(b - a),
    ],
}
