"""Measures how often the invisible mark survives crops, resizing and JPEG, and how often it is found where it is not.

``python -m benchmarks.mark --pictures 50 --unmarked 2000`` takes pictures of the embedded base's world, or those of a
folder (``--folder``), marks them and looks for the mark in copies; then it looks for keys that nobody used in pictures
without a mark. Shares have exact intervals of 95 %.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detour.generation.mark import FOUND, add_mark, find_mark
from detour.safety.intervals import clopper_pearson

Change = Callable[[np.ndarray], np.ndarray]


def cut(share: float) -> Change:
    """Keep a part from the middle, the sides being this share of the whole."""

    def change(pixels: np.ndarray) -> np.ndarray:
        sides = [round(side * share) for side in pixels.shape[:2]]
        top, left = ((whole - side) * 2 // 5 for whole, side in zip(pixels.shape, sides, strict=False))
        return pixels[top : top + sides[0], left : left + sides[1]]

    return change


def jpeg(quality: int) -> Change:
    """Write as JPEG and read again."""

    def change(pixels: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "jpeg", quality=quality)
        return np.asarray(Image.open(buffer))

    return change


def resize(scale: float) -> Change:
    """Resize both sides alike."""

    def change(pixels: np.ndarray) -> np.ndarray:
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))

    return change


CHANGES: dict[str, Change] = {
    "none": lambda pixels: pixels,
    "crop to 80 %": cut(0.8),
    "crop to 50 %": cut(0.5),
    "JPEG 90": jpeg(90),
    "JPEG 75": jpeg(75),
    "JPEG 50": jpeg(50),
    "resize to 75 %": resize(0.75),
    "resize to 60 %": resize(0.6),
    "resize to 150 %": resize(1.5),
    "crop to 80 %, resize to 80 %, JPEG 85": lambda pixels: jpeg(85)(resize(0.8)(cut(0.8)(pixels))),
    "mirrored": lambda pixels: pixels[:, ::-1],
    "turned by 2 degrees": lambda pixels: np.asarray(
        Image.fromarray(pixels).rotate(2, Image.Resampling.BICUBIC)
    ),
}


def pictures_of(folder: Path | None, num: int, first: int = 0) -> Iterator[np.ndarray]:
    """Pictures of a folder, or rendered ones, uint8 (H, W, 3)."""
    if folder is not None:
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".webp"))
        for path in paths[first : first + num]:
            with Image.open(path) as image:
                yield np.asarray(image.convert("RGB"))
        return
    from tests.safety.policies import rendered

    for seed in range(first, first + num):
        yield rendered(("house", "duck")[seed % 2], seed)


def share_of(hits: int, num: int) -> dict[str, Any]:
    """A share with its exact interval."""
    low, high = clopper_pearson(hits, num)
    return {
        "found": hits,
        "of": num,
        "share": round(hits / num, 4),
        "low": round(low, 5),
        "high": round(high, 5),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--unmarked", type=int, default=2000, help="looks for keys that nobody used")
    parser.add_argument("--folder", type=Path, help="pictures to take instead of rendered ones")
    arguments = parser.parse_args()
    began, pictures = time.thread_time(), list(pictures_of(arguments.folder, arguments.pictures))
    marked = [add_mark(one, "benchmark") for one in pictures]
    squares = [((a.astype(float) - b) ** 2).mean() for a, b in zip(marked, pictures, strict=True)]
    survival = {
        name: share_of(sum(find_mark(change(one), "benchmark").is_found for one in marked), len(marked))
        for name, change in CHANGES.items()
    }
    reports = [
        find_mark(pictures[number % len(pictures)], f"unused {number}", any_scale=number % 10 == 0)
        for number in range(arguments.unmarked)
    ]
    least = sorted(one.probability for one in reports)
    shown = {
        "size": list(pictures[0].shape[:2]), "threshold": FOUND,
        "psnr_db": round(10 * math.log10(255**2 / float(np.mean(squares))), 2), "survival": survival,
        "false_alarms": share_of(sum(one.is_found for one in reports), len(reports)),
        "least_probabilities_without_a_mark": [float(f"{one:.2g}") for one in least[:5]],
        "cpu_s": round(time.thread_time() - began, 1),
    }  # fmt: skip
    print(json.dumps(shown, indent=2))


if __name__ == "__main__":
    main()
