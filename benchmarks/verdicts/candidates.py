"""``python -m benchmarks.verdicts.candidates``: error rates of the measures that the verdict could be made from.

Each candidate looks at sides drawn by code in the adapter's place, of which it is known whether prompts were kept and
whether the style was learned, and at features that ``--exam --drawn`` has kept. Limits of the style's measures are set
on the tuning half (midway between the worst true side and the best wrong one) and examined on the other. ``--reading``
reads trained runs by denoising error with the adapter on, among all prompts of the proof.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.verdicts import techniques
from benchmarks.verdicts.__main__ import PLANTED
from benchmarks.verdicts.drawn import base_features, draw_features
from benchmarks.verdicts.material import read_case
from benchmarks.verdicts.scoring import FeatureReader
from detour.adapter_files.reading import read_adapter
from detour.bases.base import open_base
from detour.bases.latents import encode_pictures, to_pixels
from detour.evaluation import limits
from detour.evaluation.competence import competence_of_captions
from detour.evaluation.reading import caption_margins, centred, unit
from detour.evaluation.relations import relate
from detour.evaluation.way import measure_way
from detour.generation.engine import AdapterInUse, PictureEngine

Array = NDArray[np.float64]
Features = dict[str, Array]


@dataclass(frozen=True)
class Side:
    """One style's pictures in the adapter's place, with what they are compared with.

    Attributes:
        adapter: (P, D) features.
        base: of the same prompts.
        prompts: (P, D) of the texts.
        references: (M, D) of the style's pictures.
        captions: (M, D) of the references.
        strangers: references of the other styles of the half.
        scale: of the judge's logits.
    """

    adapter: Array
    base: Array
    prompts: Array
    references: Array
    captions: Array
    strangers: Sequence[Array]
    scale: float


def chance(scores: Array) -> float | None:
    """Share of shuffled pairings that score as well as the true ones; ``None`` where that cannot be tested.

    Args:
        scores: (P, P), entry (i, j) how well picture i goes with text j.
    """
    return competence_of_captions(scores).p_value


def is_kept(p_value: float | None) -> bool:
    """Whether a p-value says that the pictures fit their prompts."""
    return p_value is not None and p_value <= limits.COMPETENCE_P_MAX


def plain_reading(side: Side) -> float | None:
    """p-value of prompts read in the pictures, features as they are."""
    return chance(caption_margins(side.adapter, side.prompts, scale=side.scale))


def centred_reading(side: Side) -> float | None:
    """p-value of prompts read in the pictures, each side's common offset removed."""
    return chance(caption_margins(centred(side.adapter), centred(side.prompts), scale=side.scale))


def relational(side: Side) -> float:
    """p-value of pictures that resemble the base's of their own prompt more than of others."""
    return relate(side.adapter, side.base).p_value


def ranks_agree(side: Side) -> float:
    """p-value of the centred kernel alignment of the two sides' similarities."""
    first, second = (one - one.mean(0) for one in (side.adapter, side.base))
    a, b = first @ first.T, second @ second.T
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(a)) for _ in range(limits.NUM_PERMUTATIONS)]
    truth = float((a * b).sum())
    drawn = np.array([(a * b[np.ix_(order, order)]).sum() for order in orders])
    return (1 + int((drawn >= truth - 1e-12).sum())) / (len(drawn) + 1)


def way_today(side: Side) -> float:
    """Share of the way from the base's pictures to the references."""
    return measure_way(side.adapter, side.base, side.references).share


def way_without_content(side: Side) -> float:
    """Share of the way, with the directions in which prompts and captions differ taken out of all pictures."""
    texts = np.concatenate([side.prompts, side.captions])
    _, sizes, directions = np.linalg.svd(texts - texts.mean(0), full_matrices=False)
    kept = directions[: int(np.searchsorted(np.cumsum(sizes**2) / (sizes**2).sum(), 0.9)) + 1]

    def removed(rows: Array) -> Array:
        return unit(rows - rows @ kept.T @ kept)

    return measure_way(removed(side.adapter), removed(side.base), removed(side.references)).share


def nearer_than_strangers(side: Side) -> float:
    """Share of the pictures that are nearer to the references than to those of any other style of the half."""
    own = (side.adapter @ side.references.T).mean(1)
    others = np.stack([(side.adapter @ one.T).mean(1) for one in side.strangers], axis=1)
    return float(np.mean(own > others.max(1)))


KEEPING: dict[str, Callable[[Side], float | None]] = {
    "captions read, features as they are": plain_reading,
    "captions read, common offset removed": centred_reading,
    "resembles the base's picture of its own prompt": relational,
    "similarities of the sides agree (CKA)": ranks_agree,
}
STYLE: dict[str, Callable[[Side], float]] = {
    "share of the way": way_today,
    "share of the way, content removed": way_without_content,
    "nearer to the references than to other styles": nearer_than_strangers,
}


def sides_of(look: str, work: Path, reader: FeatureReader, base: Features) -> dict[str, Side]:
    """Sides of one style: kept, half and all of the prompts lost, another style, the base from other seeds."""
    found = draw_features(look, work, reader)
    half = list(techniques.TUNING if look in techniques.TUNING else techniques.TEST)
    others = [draw_features(one, work, reader) for one in half if one != look]
    stranger = draw_features(half[(half.index(look) + 1) % len(half)], work, reader)["kept"]
    halved = np.where((np.arange(len(found["kept"])) % 2 == 0)[:, None], found["other"], found["kept"])
    pictures = {
        "kept": found["kept"],
        "half lost": halved,
        "everything lost": found["other"],
        "another style": stranger,
        "the base from other seeds": base["base_other_seed"],
    }
    return {
        name: Side(
            adapter=rows,
            base=base["base_new"],
            prompts=base["text_plain"],
            references=found["references"],
            captions=found["captions"],
            strangers=[one["references"] for one in others],
            scale=reader.scale,
        )
        for name, rows in pictures.items()
    }


def examine(work: Path) -> list[str]:
    """Tables of all candidates, in Markdown."""
    reader = FeatureReader(work)
    base = base_features(work, reader)
    halves = {
        name: [sides_of(look, work, reader, base) for look in looks]
        for name, looks in (("tuning", techniques.TUNING), ("test", techniques.TEST))
    }
    lines = [
        "| prompts kept (p ≤ 0.01) | half | kept, missed | half lost, called kept | all lost, called kept | ms |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, measure in KEEPING.items():
        for half, styles in halves.items():
            began = time.process_time()
            shown = {
                side: [is_kept(measure(one[side])) for one in styles]
                for side in ("kept", "half lost", "everything lost")
            }
            each = 1000 * (time.process_time() - began) / (3 * len(styles))
            lines.append(
                f"| {name} | {half} | {shown['kept'].count(False)} of {len(styles)} | "
                f"{sum(shown['half lost'])} | {sum(shown['everything lost'])} | {each:.0f} |"
            )
    lines += [
        "",
        "| style learned | limit, from the tuning half | half | true, missed | another style | base | ms |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for name, score in STYLE.items():
        began = time.process_time()
        scores = {
            half: {side: [score(one[side]) for one in styles] for side in styles[0]}
            for half, styles in halves.items()
        }
        each = 1000 * (time.process_time() - began) / sum(5 * len(styles) for styles in halves.values())
        tuning = scores["tuning"]
        wrong = max(*tuning["another style"], *tuning["the base from other seeds"])
        limit = (min(tuning["kept"]) + wrong) / 2
        for half, found in scores.items():
            missed, taken, plain = (
                sum(value < limit for value in found["kept"]),
                sum(value >= limit for value in found["another style"]),
                sum(value >= limit for value in found["the base from other seeds"]),
            )
            count = len(found["kept"])
            lines.append(
                f"| {name} | {limit:.2f} | {half} | {missed} of {count} | {taken} of {count} | {plain} of {count} | "
                f"{each:.0f} |"
            )
    return lines


def read_by_denoising(work: Path, run: str, *, pictures: int, pairs: int) -> dict[str, object]:
    """Read a trained run's pictures by the error of denoising them under every prompt of the proof.

    The classifier of Li et al. 2023 (arXiv:2303.16203): the prompt is taken whose noise prediction is nearest to the
    noise that was added, over the same timesteps and noises for every prompt. Beside it what the judge reads in the
    same pictures.

    Args:
        work: of the planted cases.
        run: name of a case whose adapter and pictures are there.
        pictures: that are read, and prompts that are told apart.
        pairs: of timestep and noise for each.
    """
    arrays, facts = read_case(work / "cases" / f"{run}.npz")
    engine = PictureEngine.load(open_base("pocket"))
    file = read_adapter(work / "runs" / run / f"{run}.safetensors")
    shown, prompts = arrays["adapter_new"][:pictures], facts["plain"][:pictures]
    began = time.process_time()
    found: dict[str, object] = {"run": run, "pictures": len(prompts), "pairs": pairs}
    for side, adapters in (("adapter on", [AdapterInUse(adapter=file)]), ("adapter off", [])):
        scores = -denoising_errors(engine, shown, prompts, adapters, pairs=pairs)
        right = float(np.mean(scores.argmax(1) == np.arange(len(scores))))
        found[side] = {"right": round(right, 3), "p": chance(scores)}
    found["cpu_s"] = round(time.process_time() - began, 1)
    reader = FeatureReader(work)
    margins = caption_margins(
        centred(reader.pictures(shown)), centred(reader.texts(prompts)), scale=reader.scale
    )
    right = float(np.mean(margins.argmax(1) == np.arange(len(margins))))
    found["judge"] = {"right": round(right, 3), "p": chance(margins)}
    return found


def denoising_errors(
    engine: PictureEngine,
    pictures: NDArray[np.uint8],
    prompts: Sequence[str],
    adapters: Sequence[AdapterInUse],
    *,
    pairs: int,
) -> Array:
    """Mean squared errors (N, P) of predicting the noise in picture i under prompt j, at ``pairs`` timesteps."""
    process = engine.base.process()
    latents, _ = encode_pictures(engine.vae, to_pixels(pictures))
    texts = engine.encode(list(prompts), adapters=adapters)
    errors = np.zeros((len(pictures), len(prompts)))
    for pair, time_ in enumerate(process.at((pair + 0.5) / pairs) for pair in range(pairs)):
        times = process.times([time_] * len(prompts))
        for row, clean in enumerate(latents):
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1000 * pair + row))
            many = clean.expand(len(prompts), -1, -1, -1)
            noises = noise.expand_as(many)
            noisy = process.mix(many, noises, times)
            target = process.target(many, noises, times)
            answer = engine.predict(noisy, time_, texts, adapters=adapters)
            errors[row] += ((answer - target) ** 2).mean((1, 2, 3)).double().numpy() / pairs
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts.candidates", description=__doc__)
    parser.add_argument("--work", type=Path, default=PLANTED)
    parser.add_argument("--reading", nargs="*", default=[], metavar="CASE")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not asked.reading:
        print("\n".join(examine(asked.work)))
    for run in asked.reading:
        print(
            json.dumps(read_by_denoising(asked.work, run, pictures=asked.pictures, pairs=asked.pairs)),
            flush=True,
        )


if __name__ == "__main__":
    main()
