"""Derives one verdict from pixels, checks and a judgement of pictures; ``docs/verdicts.md`` has every rule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from detour.evaluation import thresholds
from detour.evaluation.judgement import Judgement, pixel_findings
from detour.evaluation.next_steps import Doubts, RunFacts, VerdictWord, next_step
from detour.evaluation.proof import GradientFigures, PixelFigures
from detour.evaluation.raw_material import PixelFacts

HEADLINES: Mapping[VerdictWord, str] = {
    "learned": "It learned, and nothing was shown to be lost.",
    "no_effect": "It changes nothing.",
    "collapsed": "It collapsed: every prompt gives nearly the same picture.",
    "copies": "It copies its training pictures.",
    "forgot_prompts": "It forgot part of what the base could draw.",
    "overfit": "It overfits: pictures kept out got worse again.",
    "class_drifted": "It learned, and the rest of the subject's class turned into the subject.",
    "inconclusive": "Nothing is proved.",
}
"""Verdict → the sentence that a person reads; ``docs/verdicts.md`` has the rules."""

NOT_FOLLOWING = "The pictures do not follow their prompts."
"""Headline for pictures that are called collapsed though they differ from each other."""

BLACK = "It collapsed: pictures are black."
"""Headline where the adapter drives the network to values that are not finite."""

PROMPT = "prompt"
"""Name of the figure that needs no vocabulary: whether whole prompts are followed."""


@dataclass(frozen=True, kw_only=True)
class Checks:
    """Results of a run's own checks, apart from pictures of new prompts.

    Attributes:
        gradients: of the gradient proof; ``None`` when the run kept none.
        reload_diff: largest difference of the reloaded file's pictures to the trained model's, steps of 255.
        merge_diff: the same for the merged base against the adapter.
        merge_mean: mean difference of those.
        exact: whether the pictures were drawn in fp32.
        validation_lost: pictures were kept out, and what was measured on them is not there any more.
    """

    gradients: GradientFigures | None = None
    reload_diff: int | None = None
    merge_diff: int | None = None
    merge_mean: float | None = None
    exact: bool = True
    validation_lost: bool = False


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that a verdict is made from.

    Attributes:
        pixels: what pixels and losses say.
        moved: with the adapter against without, as it is written into the sentences.
        judged: what a judge's features say; ``None`` without a judge, new prompts or pictures to compare with.
        checks: of the run.
        causes: why nothing changed; asked only where nothing did.
        notes: what could not be measured, and why.
        data: what is wrong with the pictures and captions that were trained on.
        run: names and settings, for the command that comes next.
    """

    pixels: PixelFacts
    moved: PixelFigures
    judged: Judgement | None = None
    checks: Checks = field(default_factory=Checks)
    causes: Callable[[], tuple[str, ...]] = tuple
    notes: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    run: RunFacts = field(default_factory=RunFacts)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One word with its reasons, its unknowns and the next command.

    Attributes:
        name: the word.
        reasons: sentences, the deciding one first.
        headline: the verdict in one sentence.
        unknown: figures of which neither a loss nor keeping can be told.
        next_step: a command.
    """

    name: VerdictWord
    reasons: tuple[str, ...]
    headline: str = ""
    unknown: tuple[str, ...] = ()
    next_step: str = ""


def decide(evidence: Evidence) -> Verdict:
    """The verdict on an adapter.

    No effect comes first, with its causes; then a proof that does not hold; then the rules of
    :func:`detour.evaluation.judgement.judge`. Without a judge, what pixels and losses say against an adapter counts,
    and a loss on pictures kept out that fell is the only gain that can be seen.

    Args:
        evidence: of one adapter, or of one checkpoint.
    """
    if not has_effect(evidence.moved):
        said = (effect_sentence(evidence.moved), *evidence.causes())
        return Verdict(
            name="no_effect",
            reasons=said,
            headline=HEADLINES["no_effect"],
            next_step=_next("no_effect", evidence),
        )
    judged = evidence.judged
    found = _unjudged(evidence) if judged is None else Verdict(
        name=judged.verdict, reasons=judged.reasons, unknown=judged.unknown, next_step=judged.next_step
    )  # fmt: skip
    broken = _broken_proof(evidence)
    # A network driven to infinity amplifies any rounding, so that its merged pictures need not be equal.
    name: VerdictWord = "inconclusive" if broken and not evidence.pixels.black else found.name
    moved = effect_sentence(evidence.moved)
    return Verdict(
        name=name,
        headline=_headline(name, evidence, found.unknown),
        reasons=(*broken, *found.reasons, moved, *_loss_sentence(evidence), *evidence.data, *evidence.notes),
        unknown=found.unknown,
        next_step="detour doctor" if broken else found.next_step,
    )


def _headline(name: VerdictWord, evidence: Evidence, unknown: tuple[str, ...]) -> str:
    if name == "learned":
        return _learned(evidence.judged, unknown)
    if name != "collapsed":
        return HEADLINES[name]
    if evidence.pixels.black:
        return BLACK
    same = any(word == name for word, _ in pixel_findings(evidence.pixels))
    return HEADLINES[name] if same else NOT_FOLLOWING


def _learned(judged: Judgement | None, unknown: tuple[str, ...]) -> str:
    """What was learned, what was shown to be kept, and what is not known."""
    if judged is None:
        return "The loss on pictures kept out fell; what prompts ask for was not judged."
    subject = judged.subject
    said = f"The {'style' if subject is None else 'subject'} was learned, and nothing was shown to be lost."
    doubtful = [*unknown, *(["class"] if subject is not None and subject.preserved == "unknown" else [])]
    return said if not doubtful else f"{said} Not known: {', '.join(doubtful)}."


def has_effect(pixels: PixelFigures) -> bool:
    """Whether the adapter moves the pictures by more than chance and rounding do."""
    over_noise = pixels.mean_abs_diff > thresholds.EFFECT_OVER_NOISE * pixels.noise_floor
    return pixels.mean_abs_diff > thresholds.EFFECT_MIN_DIFF and over_noise


def effect_sentence(pixels: PixelFigures) -> str:
    """Sentence on how much pictures change, compared with drawing the base twice."""
    effect = "an effect" if has_effect(pixels) else "no effect"
    counted = "1 picture shows" if pixels.pictures == 1 else f"{pixels.pictures} pictures show"
    return (
        f"{counted} {effect}: a mean change of {pixels.mean_abs_diff:.2f} of 255, "
        f"against a noise floor of {pixels.noise_floor:.2f}."
    )


def _next(name: VerdictWord, evidence: Evidence) -> str:
    return next_step(name, evidence.run, Doubts(data=False, judge=evidence.judged is None, prompts=32))


def _unjudged(evidence: Evidence) -> Verdict:
    """Reasons and verdict where no judge scores the pictures."""
    against = pixel_findings(evidence.pixels)
    losses = evidence.pixels.validation
    fell = len(losses) > 1 and losses[0] > 0 and 1 - losses[-1] / losses[0] >= thresholds.VALIDATION_GAIN_MIN
    name: VerdictWord = against[0][0] if against else "learned" if fell else "inconclusive"
    reasons = tuple(sentence for _, sentence in against)
    if len(losses) < 2:
        lost = (
            "the losses on pictures kept out are lost"
            if evidence.checks.validation_lost
            else "no pictures were kept out"
        )
        reasons = (*reasons, f"What was learned could not be measured: {lost} and no judge is there.")
    return Verdict(name=name, reasons=reasons, unknown=(PROMPT,), next_step=_next(name, evidence))


def _loss_sentence(evidence: Evidence) -> tuple[str, ...]:
    losses = evidence.pixels.validation
    if len(losses) < 2 or losses[0] <= 0:
        return ()
    fall = 1 - losses[-1] / losses[0]
    change = f"fell by {fall:.1%}" if fall >= 0 else f"rose by {-fall:.1%}"
    return (f"The loss on pictures kept out, at fixed timesteps, {change}.",)


def _broken_proof(evidence: Evidence) -> list[str]:
    found: list[str] = []
    checks = evidence.checks
    gradients = checks.gradients
    if gradients is not None:
        silent = gradients.adapter_tensors - gradients.adapter_tensors_with_gradient
        if silent:
            found.append(f"{silent} of {gradients.adapter_tensors} adapter tensors got no gradient.")
        if gradients.base_tensors_with_gradient:
            found.append(f"{gradients.base_tensors_with_gradient} tensors of the frozen base got a gradient.")
        if not gradients.base_unchanged:
            found.append("The base's weights are not the same after training as before.")
    for difference, ways in (
        (checks.reload_diff, "The reloaded file's pictures differ from the trained model's"),
        (checks.merge_diff if checks.exact else None, "The merged base's pictures differ from the adapter's"),
    ):
        if difference is not None and difference > thresholds.SAME_PICTURE_MAX_DIFF:
            found.append(
                f"{ways} by {difference} of 255 where {thresholds.SAME_PICTURE_MAX_DIFF} is allowed."
            )
    # Merged weights are rounded once more below fp32: that may move pictures, but not by an effect's worth.
    effect = evidence.moved.mean_abs_diff
    limit = max(thresholds.EFFECT_MIN_DIFF, effect / thresholds.EFFECT_OVER_NOISE)
    if not checks.exact and checks.merge_mean is not None and checks.merge_mean > limit:
        found.append(
            f"The merged base's pictures differ from the adapter's by {checks.merge_mean:.2f} of 255 on average, "
            f"the adapter's own effect is {effect:.2f}."
        )
    return found
