"""Scores on prompts that training never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from detour.errors import ConfigError
from detour.evaluation import thresholds
from detour.evaluation.differences import Difference
from detour.evaluation.distance import nearer_p_value, style_distance
from detour.evaluation.judge import Judge, Phrase, PromptFacts
from detour.evaluation.pixels import Pictures
from detour.evaluation.prompt_keeping import Following, falls_of, measure_following
from detour.evaluation.proof import AccuracyFigures, HeldOutFigures, PromptAccuracy, StyleDistance

MIN_REFERENCES = 4
"""Fewer pictures of a style say nothing about it."""


@dataclass(frozen=True, kw_only=True)
class AccuracyTask:
    """What the prompts ask for, and true pictures of it.

    Attributes:
        facts: of each prompt.
        vocabulary: slot → every word that can stand there.
        phrase: writes facts as the canonical prompt.
        truths: uint8 (N, H, W, 3), a true picture of each prompt, in the style where that is known.
    """

    facts: Sequence[PromptFacts]
    vocabulary: Mapping[str, Sequence[str]]
    phrase: Phrase
    truths: Pictures


@dataclass(frozen=True, kw_only=True)
class StyleTask:
    """True pictures of the style, in two sets that share no picture.

    Attributes:
        references: uint8 (M, H, W, 3), which the generated pictures are compared with.
        others: uint8 (K, H, W, 3), whose distance to the references is the ceiling.
    """

    references: Pictures
    others: Pictures


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The figures, and how sure they are.

    Attributes:
        figures: of base, adapter and true pictures.
        style_p_value: how likely chance alone brings the adapter's pictures as much nearer to the style.
        falls: part of the prompt → by how much fewer of the adapter's pictures show it than of the base's or the
            true ones, whichever show it less often, with an interval over the prompts.
        following: whether pictures have to do with their prompts; ``None``: less than two prompts, or no judge.
    """

    figures: HeldOutFigures
    style_p_value: float | None
    falls: Mapping[str, Difference] = field(default_factory=dict)
    following: Following | None = None


def score_held_out(
    judge: Judge | None,
    base: Pictures,
    adapter: Pictures,
    *,
    style: StyleTask | None,
    accuracy: AccuracyTask | None,
    prompts: Sequence[str] = (),
) -> Scores:
    """Compare the base's and the adapter's pictures of the same held-out prompts.

    Args:
        judge: of the base; without one nothing is scored.
        base: uint8 (N, H, W, 3), one picture a prompt.
        adapter: uint8, same prompts and seeds.
        style: leaves the style distance out when ``None`` or too small.
        accuracy: leaves the prompt accuracy out when ``None``.
        prompts: of each picture, without the trigger, which no judge knows; empty: they are not compared with.

    Raises:
        ConfigError: not the same number of pictures on both sides.
    """
    if len(base) != len(adapter):
        raise ConfigError(
            f"{len(base)} pictures of the base and {len(adapter)} of the adapter cannot be compared."
        )
    distance, p_value, accuracies = None, None, None
    falls: dict[str, Difference] = {}
    following = None
    if judge is not None and len(base):
        if style is not None and min(len(style.references), len(style.others)) >= MIN_REFERENCES:
            distance, p_value = _style(judge, base, adapter, style)
        if accuracy is not None:
            accuracies, falls = _accuracy(judge, base, adapter, accuracy)
        if len(set(prompts)) > 1:
            truths = None if accuracy is None else accuracy.truths
            following = _following(judge, base, adapter, truths, prompts)
    figures = HeldOutFigures(
        prompts=len(base), seeds=1 if len(base) else 0, style_distance=distance, prompt_accuracy=accuracies
    )
    return Scores(figures=figures, style_p_value=p_value, falls=falls, following=following)


def _style(judge: Judge, base: Pictures, adapter: Pictures, task: StyleTask) -> tuple[StyleDistance, float]:
    references = judge.picture_features(task.references)
    plain, adapted = judge.picture_features(base), judge.picture_features(adapter)
    distance = StyleDistance(
        base=style_distance(plain, references),
        adapter=style_distance(adapted, references),
        ceiling=style_distance(judge.picture_features(task.others), references),
    )
    return distance, nearer_p_value(adapted, plain, references)


def _accuracy(
    judge: Judge, base: Pictures, adapter: Pictures, task: AccuracyTask
) -> tuple[AccuracyFigures, dict[str, Difference]]:
    sides = {"base": base, "adapter": adapter, "ceiling": task.truths}
    hits = {
        side: judge.prompt_hits(pictures, task.facts, task.vocabulary, task.phrase)
        for side, pictures in sides.items()
    }
    shares = {
        side: {part: sum(found) / len(found) for part, found in parts.items()} for side, parts in hits.items()
    }
    figures = AccuracyFigures(**{side: PromptAccuracy(**parts) for side, parts in shares.items()})
    return figures, falls_of(hits["adapter"], [hits["base"], hits["ceiling"]])


def _following(
    judge: Judge, base: Pictures, adapter: Pictures, truths: Pictures | None, prompts: Sequence[str]
) -> Following:
    controls = [judge.picture_features(one) for one in (base, truths) if one is not None]
    wishes = judge.text_features(prompts)
    return measure_following(
        judge.picture_features(adapter), controls, wishes, share_min=thresholds.COLLAPSE_SHARE_MAX
    )
