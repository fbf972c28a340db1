"""``python -m benchmarks.copies``: how many copies are found, and how many new pictures are called copies.

Training pictures of the embedded base's world, copies planted of them, adapters trained on them, some until they give
their pictures back. Four measures of likeness are compared over all thresholds; then the threshold that
``detour.evaluation.copies`` takes by itself. Also what the judge's similarity of 0.85 is worth, and at which opacity a
mark is found. Pictures and adapters are kept in ``--work``, so a stopped call goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.copies_material import SETS, Material, gather
from benchmarks.copies_plots import draw_curves, draw_pairs
from benchmarks.marks import mark_table
from detour.bases.base import open_base
from detour.data.likeness import perceptual_hash
from detour.evaluation.alignment import laid_distances
from detour.evaluation.copies import Originals, calibrate, find_copies, measure_judge_cut
from detour.evaluation.judge import Judge
from detour.evaluation.pixels import Pictures, thumbnails
from detour.evaluation.planted import planted_copies

Distances = np.ndarray
Measure = Callable[[Pictures, Pictures], Distances]
PLANTED_SEED = 1
"""Seed of the planted copies, different from seed 0 from whose copies the threshold is taken."""


def hash_bits(pictures: Pictures, originals: Pictures) -> Distances:
    """Number of different hash bits (N, M), the smaller one of the original and its mirror image."""
    mine = np.stack([perceptual_hash(Image.fromarray(picture)) for picture in pictures])
    both = [
        np.stack([perceptual_hash(Image.fromarray(picture)) for picture in one])
        for one in _both_ways(originals)
    ]
    return np.stack([(mine[:, None] != theirs[None]).sum(-1) for theirs in both]).min(0).astype(np.float64)


def thumbnail_differences(pictures: Pictures, originals: Pictures) -> Distances:
    """Mean absolute difference of 16-pixel thumbnails (N, M), the smaller one with and without mirroring."""
    mine = thumbnails(pictures)
    both = [thumbnails(one) for one in _both_ways(originals)]
    return np.stack(
        [[np.abs(theirs - picture).mean(axis=(1, 2, 3)) for picture in mine] for theirs in both]
    ).min(0)


def judge_distances(judge: Judge) -> Measure:
    """One minus the cosine of the judge's features, the smaller one with and without mirroring."""

    def measure(pictures: Pictures, originals: Pictures) -> Distances:
        mine = judge.picture_features(pictures)
        both = [judge.picture_features(one) for one in _both_ways(originals)]
        return np.stack([(1 - mine @ theirs.T).numpy() for theirs in both]).min(0)

    return measure


def _both_ways(pictures: Pictures) -> tuple[Pictures, Pictures]:
    return pictures, np.ascontiguousarray(pictures[:, :, ::-1])


def measures() -> dict[str, Measure]:
    """The four distances that are compared."""
    judge = Judge.load(open_base("pocket").folder / "judge")
    return {
        "laid on each other": laid_distances,
        "perceptual hash": hash_bits,
        "judge": judge_distances(judge),
        "16-pixel thumbnails": thumbnail_differences,
    }


def compare(material: Material) -> dict[str, dict[str, list[float]]]:
    """Measure → group of pictures → distance of each to its nearest training picture."""
    planted = planted_copies(material.training, seed=PLANTED_SEED)
    groups = {
        "planted": np.concatenate([*planted.values()]),
        "autoencoder": material.through_vae,
        "same words": material.twins,
        "new renders": material.renders,
        "base": material.base,
        "adapter, new prompts": material.new,
        "adapter, training captions": material.again,
    }
    return {
        name: {
            group: [round(float(d), 4) for d in measure(pictures, material.training).min(axis=1)]
            for group, pictures in groups.items()
            if len(pictures)
        }
        for name, measure in measures().items()
    }


def judged(material: Material) -> dict[str, Any]:
    """Classify every group of pictures by the measured threshold."""
    training = Originals(material.training)
    scale = calibrate(training)
    by_kind = {
        kind: find_copies(copies, training, scale).share
        for kind, copies in planted_copies(material.training, seed=PLANTED_SEED).items()
    }
    by_kind["autoencoder"] = find_copies(material.through_vae, training, scale).share
    groups = {
        "same words": material.twins,
        "new renders": material.renders,
        "base": material.base,
        "adapter, new prompts": material.new,
        "adapter, training captions": material.again,
    }
    cut = measure_judge_cut(Judge.load(open_base("pocket").folder / "judge"), training)
    return {
        "scale": scale.model_dump(),
        "found": by_kind,
        "copied": {name: [find_copies(one, training, scale).share, len(one)] for name, one in groups.items()},
        "judge_cut": {**cut.model_dump(), "sentence": cut.sentence()},
    }


def table(results: dict[str, Any]) -> str:
    """Table for docs/memorisation.md."""
    names = list(results)
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]

    def row(label: str, cell: Callable[[dict[str, Any]], str]) -> None:
        lines.append(f"| {label} | " + " | ".join(cell(results[name]) for name in names) + " |")

    row("threshold", lambda one: f"{one['scale']['threshold']:.3f}")
    row("nearest other original, median", lambda one: f"{one['scale']['nearest_original']:.2f}")
    for kind in next(iter(results.values()))["found"]:
        row(kind, lambda one, kind=kind: f"{one['found'][kind]:.2f}")  # type: ignore[misc]
    for group in next(iter(results.values()))["copied"]:
        row(
            f"*{group}*",
            lambda one, group=group: (
                "{:.2f} of {}".format(*one["copied"][group]) if one["copied"][group][1] else ""
            ),  # type: ignore[misc]
        )
    row("nearer original above 0.85 for the judge", lambda one: f"{one['judge_cut']['distinct_above']:.2f}")
    row("planted copies below it", lambda one: f"{one['judge_cut']['planted_below']:.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.copies", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/copies"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--docs", type=Path, default=Path("docs/pictures"))
    given = parser.parse_args()
    materials = {name: gather(name, given.work) for name in given.sets}
    distances, results = {}, {}
    for name, material in materials.items():
        kept = given.work / f"distances-{name.replace(' ', '-')}.json"
        if not kept.exists():
            kept.write_text(json.dumps(compare(material)))
        distances[name] = json.loads(kept.read_text())
        results[name] = judged(material)
        print(name, json.dumps(results[name]), flush=True)
    (given.work / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    for name in results:
        print(name, results[name]["judge_cut"]["sentence"])
    print(
        draw_curves(
            distances, {name: SETS[name].memorised for name in results}, given.docs / "memorisation.png"
        )
    )
    draw_pairs(materials, given.docs / "copies.png")
    print(mark_table(materials))


if __name__ == "__main__":
    main()
