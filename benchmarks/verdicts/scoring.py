"""Scores kept cases by the rules as they are, and counts truth × verdict with exact limits.

What a judge sees in the pictures is computed once for each case and kept beside it, so that scoring takes seconds.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.verdicts import subjects
from benchmarks.verdicts.material import Case, all_cases, read_case, write_arrays
from detour.bases.base import open_base
from detour.evaluation import pixels
from detour.evaluation.copies import calibrate, find_copies
from detour.evaluation.judge import Judge
from detour.evaluation.judgement import Judgement, judge
from detour.evaluation.keeping import Keeping
from detour.evaluation.raw_material import ClassSides, Material, PixelFacts, Slot
from detour.evaluation.reading import Indices, unit
from detour.pocket.world import VOCABULARY, plain_prompt

Array = NDArray[np.float64]
Spoiled = Literal["", "noise", "random weights", "permuted texts"]
WORDS = {"object": VOCABULARY.objects, "colour": VOCABULARY.colours, "place": VOCABULARY.places}


@dataclass(frozen=True)
class Line:
    """Verdict of the rules on one case."""

    case: Any
    """What was planted: ``name``, ``goal``, ``look``, ``condition`` and ``how``."""
    verdict: str
    judgement: Judgement | None = None
    """What is behind the verdict; ``None`` for a run of the record, of which the verdict alone is kept."""

    @classmethod
    def of(cls, case: Any, judgement: Judgement) -> "Line":
        """Line of a case that was judged just now."""
        return cls(case, judgement.verdict, judgement)

    @property
    def right(self) -> bool:
        """Whether the verdict is one of the accepted ones."""
        return self.verdict in self.case.how.accepted

    @property
    def abstained(self) -> bool:
        """Whether the verdict is open though the case could have been decided."""
        return self.case.how.decidable and self.verdict == "inconclusive"

    @property
    def wrong(self) -> bool:
        """Whether the verdict is firm and wrong."""
        return not self.right and not self.abstained


class FeatureReader:
    """Judge of the embedded base, whole or with random weights."""

    def __init__(self, work: Path, spoiled: Spoiled = "") -> None:
        self.work = work
        self.spoiled = "random weights" if spoiled == "random weights" else ""

    @cached_property
    def judge(self) -> Judge:
        found = Judge.load(open_base("pocket").folder / "judge")
        if self.spoiled == "random weights":
            with torch.no_grad():
                generator = torch.Generator().manual_seed(0)
                for parameter in found._model.parameters():
                    spread = parameter.std() if parameter.numel() > 1 else torch.tensor(0.02)
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        return found

    @cached_property
    def scale(self) -> float:
        return float(self.judge._model.logit_scale.exp()) if self.spoiled != "random weights" else 50.0

    def features(self, case: Case, source: Path) -> dict[str, Array]:
        """Features of all pictures and texts of a case, kept on disk under its name."""
        kept = self.work / "features" / (self.spoiled.replace(" ", "-") or "whole") / f"{case.name}.npz"
        if not kept.exists() or kept.stat().st_mtime < source.stat().st_mtime:
            arrays, facts = read_case(source)
            found = {name: self.pictures(rows) for name, rows in arrays.items()}
            found |= {
                f"text_{name}": self.texts(facts[name])
                for name in ("plain", "train_captions", "held_back_captions")
            }
            whole = self.work / "features" / "whole" / kept.name
            if self.spoiled and whole.exists():  # pixels do not depend on the judge
                with np.load(whole) as stored:
                    found["facts"] = stored["facts"]
            else:
                found["facts"] = _pixel_facts(arrays)
            found["scale"] = np.array([self.scale])
            write_arrays(kept, found)
        with np.load(kept) as stored:
            return {name: stored[name] for name in stored.files}

    def pictures(self, pictures: NDArray[np.uint8]) -> Array:
        """Features of pictures."""
        rows: Array = self.judge.picture_features(pictures).double().numpy()
        return rows

    def texts(self, texts: Sequence[str]) -> Array:
        """Features of texts without the made-up words, which no judge knows."""
        plain = [one.replace(f"{subjects.TOKEN} ", "").removeprefix("zqx style, ") for one in texts]
        rows: Array = self.judge.text_features(plain).double().numpy()
        return rows

    def slots(self, words: Sequence[Sequence[str]]) -> dict[str, tuple[Array, Indices]]:
        """Slot → (features of each prompt with every word in it, index of the right one)."""
        found = {}
        for place, (name, choices) in enumerate(WORDS.items()):
            prompts = [plain_prompt(*(word if i == place else own for i, own in enumerate(one)))
                       for one in words for word in choices]  # fmt: skip
            rows = self.texts(prompts)
            right = np.array([choices.index(one[place]) for one in words])
            found[name] = (rows.reshape(len(words), len(choices), -1), right)
        return found


def material_of(case: Case, source: Path, reader: FeatureReader, *, vocabulary: bool = False) -> Material:
    """Material of a case as the rules take it, with captions alone or with the embedded vocabulary."""
    found = reader.features(case, source)
    references = np.concatenate([found[name] for name in ("train", "held_back") if name in found])
    captions = np.concatenate([found["text_train_captions"], found["text_held_back_captions"]])
    effect, diversity, expected, copied, copied_base = found["facts"]
    with np.load(source) as stored:
        facts = json.loads(str(stored["told"]))
        black = max(0, pixels.black(stored["adapter_new"]) - pixels.black(stored["base_new"]))
    slots = {}
    if vocabulary and facts["words"]:
        asked = reader.slots(facts["words"])
        known = [words_in(one) for one in (*facts["train_captions"], *facts["held_back_captions"])]
        shown = reader.slots([one for one in known if one is not None]) if all(known) else {}
        slots = {name: Slot(phrases=asked[name][0], right=asked[name][1],
                            reference_phrases=shown[name][0] if shown else None,
                            reference_right=shown[name][1] if shown else None) for name in asked}  # fmt: skip
    sides = None
    if case.goal == "subject":
        sides = ClassSides(adapter=found["adapter_class"], base=found["base_class"])
    return Material(
        goal=case.goal, scale=float(found["scale"][0]), prompts=found["text_plain"], base=found["base_new"],
        adapter=found["adapter_new"], references=references, captions=captions, slots=slots, own_class=sides,
        pixels=PixelFacts(
            effect=float(effect), diversity=float(diversity), diversity_expected=float(expected),
            black=black, copied=float(copied), copied_base=float(copied_base), validation=tuple(facts["validation"]),
        ),
    )  # fmt: skip


def spoil(material: Material, how: Spoiled) -> Material:
    """Material of a case as a judge that was spoiled on purpose gives it.

    Args:
        material: of a whole judge.
        how: ``noise``: to each picture's features four times their length is added in a direction of its own;
            ``permuted texts``: the channels of all texts are permuted alike.
    """
    if how == "noise":
        rng = np.random.default_rng(0)
        rows: dict[str, Any] = {}
        for name in ("base", "adapter", "references"):
            own = getattr(material, name)
            noise = rng.normal(0, 1, own.shape)
            rows[name] = unit(own + 4 * noise / np.linalg.norm(noise, axis=1, keepdims=True))
        return replace(material, **rows, slots={})
    if how == "permuted texts" and material.captions is not None:
        order = np.random.default_rng(0).permutation(material.prompts.shape[1])
        return replace(
            material, prompts=material.prompts[:, order], captions=material.captions[:, order], slots={}
        )
    return material


def words_in(caption: str) -> tuple[str, str, str] | None:
    """Object, colour and place that a caption names in the base's words; ``None`` where one is missing."""
    said = caption.lower().replace(",", " ").split()
    found = [next((word for word in said if word in choices), None) for choices in WORDS.values()]
    return None if None in found else (str(found[0]), str(found[1]), str(found[2]))


def _pixel_facts(arrays: dict[str, NDArray[np.uint8]]) -> Array:
    adapter, base, train = arrays["adapter_new"], arrays["base_new"], arrays["train"]
    scale = calibrate(train)
    expected = (
        min(pixels.diversity(base), pixels.diversity(train)) if len(train) > 1 else pixels.diversity(base)
    )
    return np.array([
        pixels.mean_abs_diff(adapter, base), pixels.diversity(adapter), expected,
        find_copies(adapter, train, scale).share, find_copies(base, train, scale).share,
    ])  # fmt: skip


def score(
    work: Path,
    reader: FeatureReader,
    *,
    tuning: bool,
    vocabulary: bool = False,
    spoiled: Spoiled = "",
    seeds: Sequence[int] = (0, 1),
) -> list[Line]:
    """Every kept case of one half."""
    lines = []
    for case in all_cases(tuning=tuning, seeds=seeds):
        source = work / "cases" / f"{case.name}.npz"
        if source.exists():
            material = material_of(case, source, reader, vocabulary=vocabulary)
            lines.append(Line.of(case, judge(spoil(material, spoiled))))
    return lines


def first_style_case(work: Path) -> Case:
    """Any kept case of a style: the base's pictures of the new prompts are the same in all of them."""
    for case in (*all_cases(tuning=True, seeds=(0, 1)), *all_cases(tuning=False, seeds=(0, 1))):
        plain = case.goal == "style" and not case.how.trigger
        if plain and (work / "cases" / f"{case.name}.npz").exists():
            return case
    raise SystemExit("no trained case of a style is kept yet: run python -m benchmarks.verdicts --make first")


def clopper_pearson(hits: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided limits of a share (Clopper & Pearson 1934), by bisection of binomial tails."""
    tail = (1 - confidence) / 2

    def at_least(share: float) -> float:
        return sum(_binomial(trials, k, share) for k in range(hits, trials + 1))

    def at_most(share: float) -> float:
        return sum(_binomial(trials, k, share) for k in range(hits + 1))

    low = 0.0 if hits == 0 else _bisect(lambda share: at_least(share) - tail)
    high = 1.0 if hits == trials else _bisect(lambda share: tail - at_most(share))
    return low, high


def _binomial(trials: int, hits: int, share: float) -> float:
    return math.comb(trials, hits) * share**hits * (1 - share) ** (trials - hits)


def _bisect(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def table(lines: Sequence[Line]) -> str:
    """Condition × verdict as Markdown."""
    said = sorted({line.verdict for line in lines})
    rows = ["| run | accepted | " + " | ".join(said) + " | wrong |", "|---" * (len(said) + 3) + "|"]
    for goal in ("style", "subject"):
        mine = [line for line in lines if line.case.goal == goal]
        for condition in dict.fromkeys(line.case.condition for line in mine):
            some = [line for line in mine if line.case.condition == condition]
            counts = [str(sum(one.verdict == name for one in some) or "") for name in said]
            accepted = ", ".join(f"`{name}`" for name in some[0].case.how.accepted)
            wrong = ", ".join(one.case.look for one in some if one.wrong)
            rows.append(f"| {goal}, {condition} | {accepted} | " + " | ".join(counts) + f" | {wrong} |")
    return "\n".join(rows)


def summary(lines: Sequence[Line]) -> list[str]:
    """Confident errors and abstentions with exact limits, over runs and over styles and subjects.

    Runs of one style are not independent: a style counts as wrong when any of its runs is, which is the cautious way.
    """
    return [
        _counted("confident and wrong", [(one.case.look, one.wrong) for one in lines]),
        _counted(
            "abstained where it could be decided",
            [(one.case.look, one.abstained) for one in lines if one.case.how.decidable],
        ),
        _counted(
            "abstained on good runs",
            [(one.case.look, one.abstained) for one in lines if one.case.condition == "good"],
        ),
    ]


def _counted(what: str, cases: Iterable[tuple[str, bool]]) -> str:
    pairs = list(cases)
    looks: dict[str, bool] = defaultdict(bool)
    for look, hit in pairs:
        looks[look] |= hit
    if not pairs:
        return f"{what}: no such runs"
    hits, several = sum(hit for _, hit in pairs), sum(looks.values())
    low, high = clopper_pearson(hits, len(pairs))
    wide = clopper_pearson(several, len(looks))
    return (f"{what}: {hits} of {len(pairs)} runs ({low:.0%} to {high:.0%}); in {several} of {len(looks)} styles and "
            f"subjects ({wide[0]:.0%} to {wide[1]:.0%})")  # fmt: skip


def case_report(line: Line) -> dict[str, Any]:
    """Report of one case with its figures, for people who change rules."""
    found = line.judgement
    assert found is not None

    def shown(one: Keeping) -> str:
        return f"{one.answer} {one.loss:.0%} ({one.low:.0%} to {one.high:.0%})"

    return {
        "case": line.case.name, "verdict": found.verdict,
        "right": "yes" if line.right else "abstained" if line.abstained else "NO",
        "figures": {name: shown(one) for name, one in found.figures.items()}, "unknown": found.unknown,
        "refs": (round(found.judge_on_references.margin, 1), found.judge_on_references.p_value),
        "base": (round(found.judge_on_base.margin, 1), found.judge_on_base.p_value),
        "relations": (round(found.relations.own, 2), found.relations.p_value),
        "way": None if found.way is None else [round(getattr(found.way, name), 3) for name in
                                               ("share", "low", "room", "p_room", "p_nearer")],
        "subject": None if found.subject is None else {
            name: round(getattr(found.subject, name).share, 2) for name in ("taken", "trigger", "own_class")
        },
        "reasons": found.reasons,
    }  # fmt: skip
