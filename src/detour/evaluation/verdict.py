"""From figures to one verdict and the sentences that carry it. Every rule is in ``docs/verdicts.md``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from detour.evaluation import thresholds
from detour.evaluation.differences import Difference
from detour.evaluation.prompt_keeping import Following
from detour.evaluation.proof import (
    GradientFigures,
    HeldOutFigures,
    PixelFigures,
    StyleDistance,
    VerdictName,
)


@dataclass(frozen=True, kw_only=True)
class PictureEvidence:
    """What the pictures for new prompts and the loss on pictures kept out say of some weights.

    Attributes:
        held_out: scores on prompts that training never saw.
        style_p_value: that the adapter's pictures came no nearer to the style than the base's, by permutation; ``None``
            without a judge.
        falls: part of the prompt → by how much fewer pictures show it than could, with an interval over the prompts.
        following: whether pictures still have to do with their prompts; ``None`` where that cannot be told.
        validation: loss on pictures kept out, from the first to the one that is shipped.
        validation_lost: pictures were kept out, and what was measured on them is not there any more.
        diversity: how much pictures of different prompts differ, steps of 255, with the adapter.
        diversity_expected: the same for the base or, where lower, for true pictures of the style.
        copied_share: of the pictures for new prompts, the share that are copies of training pictures.
        copied_share_base: the same share of the base's pictures, which cannot be copies.
    """

    held_out: HeldOutFigures
    style_p_value: float | None = None
    falls: Mapping[str, Difference] = field(default_factory=dict)
    following: Following | None = None
    validation: tuple[float, ...] = ()
    validation_lost: bool = False
    diversity: float | None = None
    diversity_expected: float | None = None
    copied_share: float | None = None
    copied_share_base: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Evidence(PictureEvidence):
    """All that the verdict of a run looks at.

    Attributes:
        gradients: of the gradient proof; ``None`` when the run kept none.
        pixels: with the adapter against without.
        reload_diff: largest difference of the reloaded file's pictures to the trained model's, steps of 255.
        merge_diff: the same for the merged base against the adapter.
        merge_mean: mean difference of those.
        exact: whether the pictures were drawn in fp32.
        causes: why nothing changed, from :func:`detour.evaluation.causes.causes_of_no_effect`.
        notes: what could not be measured, and why.
    """

    gradients: GradientFigures | None
    pixels: PixelFigures
    reload_diff: int | None
    merge_diff: int | None
    merge_mean: float | None = None
    exact: bool = True
    causes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One word and why."""

    name: VerdictName
    reasons: tuple[str, ...]


Finding = tuple[VerdictName, str]


def decide(evidence: Evidence) -> Verdict:
    """The verdict of a run.

    The first rule that speaks against the adapter names the verdict, in the order: no effect, a proof that
    does not hold, copies, collapsed, overfit, forgot prompts. What names a cause comes before what it does: a run that
    gives back one training picture has collapsed too, and an overfitted one draws prompts badly. With nothing against
    it, ``learned`` needs a measured gain; otherwise it is ``inconclusive``.

    Args:
        evidence: figures of one run.

    Returns:
        the verdict; its reasons hold every finding, the deciding one first.
    """
    if not has_effect(evidence.pixels):
        return Verdict(name="no_effect", reasons=(_effect_sentence(evidence.pixels), *evidence.causes))
    name, against, gains = _of_pictures(evidence)
    broken = _broken_proof(evidence)
    return Verdict(
        name=broken[0][0] if broken else name,
        reasons=(
            *(sentence for _, sentence in (*broken, *against)),
            _effect_sentence(evidence.pixels),
            *gains,
            *evidence.notes,
        ),
    )


def decide_pictures(evidence: PictureEvidence) -> Verdict:
    """The verdict on some weights by their pictures for new prompts alone, as for one checkpoint of a run."""
    name, against, gains = _of_pictures(evidence)
    return Verdict(name=name, reasons=(*(sentence for _, sentence in against), *gains))


def _of_pictures(evidence: PictureEvidence) -> tuple[VerdictName, list[Finding], list[str]]:
    """The verdict, what speaks against the weights, and what was gained."""
    rules: tuple[Callable[[PictureEvidence], list[Finding]], ...] = (_copies, _collapse, _overfit, _forgotten)
    against = [finding for rule in rules for finding in rule(evidence)]
    gained, gains = _gain(evidence)
    gains += _maybe_forgotten(evidence)
    return against[0][0] if against else "learned" if gained else "inconclusive", against, gains


def has_effect(pixels: PixelFigures) -> bool:
    """Whether the adapter moves the pictures by more than chance and rounding do."""
    over_noise = pixels.mean_abs_diff > thresholds.EFFECT_OVER_NOISE * pixels.noise_floor
    return pixels.mean_abs_diff > thresholds.EFFECT_MIN_DIFF and over_noise


def _effect_sentence(pixels: PixelFigures) -> str:
    effect = "an effect" if has_effect(pixels) else "no effect"
    counted = "1 picture shows" if pixels.pictures == 1 else f"{pixels.pictures} pictures show"
    return (
        f"{counted} {effect}: a mean change of {pixels.mean_abs_diff:.2f} of 255, "
        f"against a noise floor of {pixels.noise_floor:.2f}."
    )


def _broken_proof(evidence: Evidence) -> list[Finding]:
    found: list[str] = []
    gradients = evidence.gradients
    if gradients is not None:
        silent = gradients.adapter_tensors - gradients.adapter_tensors_with_gradient
        if silent:
            found.append(f"{silent} of {gradients.adapter_tensors} adapter tensors got no gradient.")
        if gradients.base_tensors_with_gradient:
            found.append(f"{gradients.base_tensors_with_gradient} tensors of the frozen base got a gradient.")
        if not gradients.base_unchanged:
            found.append("The base's weights are not the same after training as before.")
    for difference, ways in (
        (evidence.reload_diff, "The reloaded file's pictures differ from the trained model's"),
        (
            evidence.merge_diff if evidence.exact else None,
            "The merged base's pictures differ from the adapter's",
        ),
    ):
        if difference is not None and difference > thresholds.SAME_PICTURE_MAX_DIFF:
            found.append(
                f"{ways} by {difference} of 255 where {thresholds.SAME_PICTURE_MAX_DIFF} is allowed."
            )
    # Merged weights are rounded once more below fp32: that may move pictures, but not by an effect's worth.
    effect = evidence.pixels.mean_abs_diff
    limit = max(thresholds.EFFECT_MIN_DIFF, effect / thresholds.EFFECT_OVER_NOISE)
    if not evidence.exact and evidence.merge_mean is not None and evidence.merge_mean > limit:
        found.append(
            f"The merged base's pictures differ from the adapter's by {evidence.merge_mean:.2f} of 255 on average, "
            f"the adapter's own effect is {effect:.2f}."
        )
    return [("inconclusive", sentence) for sentence in found]


def _collapse(evidence: PictureEvidence) -> list[Finding]:
    return [*_same_picture(evidence), *_no_prompt(evidence)]


def _no_prompt(evidence: PictureEvidence) -> list[Finding]:
    following = evidence.following
    if following is None or following.lost.low <= 0:
        return []
    return [
        (
            "collapsed",
            f"The pictures have next to nothing to do with their prompts: they fit their own better than each "
            f"other's by {following.adapter:.1f} (100 × cosine), where {following.expected:.1f} could be.",
        )
    ]


def _same_picture(evidence: PictureEvidence) -> list[Finding]:
    if evidence.diversity is None or not evidence.diversity_expected:
        return []
    share = evidence.diversity / evidence.diversity_expected
    if share > thresholds.COLLAPSE_SHARE_MAX:
        return []
    return [
        (
            "collapsed",
            f"Different prompts give nearly the same picture: they differ by {evidence.diversity:.1f}, "
            f"only {share:.0%} of what they should.",
        )
    ]


def _copies(evidence: PictureEvidence) -> list[Finding]:
    if evidence.copied_share is None:
        return []
    # Shares of small counts are not exact in binary.
    if evidence.copied_share - evidence.copied_share_base <= thresholds.COPY_SHARE_MAX + 1e-9:
        return []
    return [
        (
            "copies",
            f"{evidence.copied_share:.0%} of the pictures for new prompts are copies of training pictures; "
            f"of the base's {evidence.copied_share_base:.0%}.",
        )
    ]


def _forgotten(evidence: PictureEvidence) -> list[Finding]:
    return [
        ("forgot_prompts", _fall_sentence(evidence, part) + ".")
        for part, fall in _deep_falls(evidence)
        if fall.low > 0
    ]


def _maybe_forgotten(evidence: PictureEvidence) -> list[str]:
    """Falls that so few prompts cannot tell from chance: worth a look, no verdict."""
    return [
        f"{_fall_sentence(evidence, part)}; with {fall.pairs} prompts that may be chance: ask more of them "
        "(evaluate.num_prompts)."
        for part, fall in _deep_falls(evidence)
        if fall.low <= 0
    ]


def _deep_falls(evidence: PictureEvidence) -> list[tuple[str, Difference]]:
    # Shares of small counts are not exact in binary: 0.9 - 0.8 is a little more than 0.1.
    limit = thresholds.ACCURACY_DROP_MAX + 1e-9
    return [(part, fall) for part, fall in evidence.falls.items() if fall.mean > limit]


def _fall_sentence(evidence: PictureEvidence, part: str) -> str:
    accuracy = evidence.held_out.prompt_accuracy
    assert accuracy is not None, "falls without figures"
    after, before, best = (
        getattr(side, part) for side in (accuracy.adapter, accuracy.base, accuracy.ceiling)
    )
    return (
        f"The {part} asked for is drawn in {after:.0%} of the pictures; "
        f"the base has {before:.0%}, true pictures of the style {best:.0%}"
    )


def _overfit(evidence: PictureEvidence) -> list[Finding]:
    if len(evidence.validation) < 2:
        return []
    lowest, last = min(evidence.validation), evidence.validation[-1]
    rise = last / lowest - 1 if lowest > 0 else 0.0
    if rise <= thresholds.OVERFIT_RISE_MAX:
        return []
    return [
        (
            "overfit",
            f"The loss on pictures kept out ended {rise:.0%} above its lowest value: "
            "train fewer steps, or ship another checkpoint (--ship best_proof).",
        )
    ]


def _gain(evidence: PictureEvidence) -> tuple[bool, list[str]]:
    """Whether something measured got better, and the sentences that say how much."""
    sentences: list[str] = []
    style = evidence.held_out.style_distance
    gained = False
    if style is not None and style.base > 0:
        gained, sentences = _style_gain(style, evidence)
    if len(evidence.validation) >= 2 and evidence.validation[0] > 0:
        fall = 1 - evidence.validation[-1] / evidence.validation[0]
        change = f"fell by {fall:.1%}" if fall >= 0 else f"rose by {-fall:.1%}"
        sentences.append(f"The loss on pictures kept out, at fixed timesteps, {change}.")
        if style is None:
            gained = fall >= thresholds.VALIDATION_GAIN_MIN
    if not sentences:
        losses = (
            "the losses on pictures kept out are lost"
            if evidence.validation_lost
            else "no pictures were kept out"
        )
        sentences.append(f"What was learned could not be measured: {losses} and no judge is there.")
    return gained, sentences


def chance_words(p_value: float) -> str:
    """``chance alone would do this in 1 of 1,000 cases``."""
    return f"chance alone would do this in {max(1, round(p_value * 1000))} of 1,000 cases"


def _style_gain(style: StyleDistance, evidence: PictureEvidence) -> tuple[bool, list[str]]:
    """Half of the way from the base's distance to that of true pictures, by more than chance.

    Two sets of true pictures have a distance too, the larger the fewer they are, so zero is no goal.
    """
    chance = evidence.style_p_value
    by_chance = "" if chance is None else f" ({chance_words(chance)})"
    said = (
        f"On {evidence.held_out.prompts} new prompts the distance to the style went from "
        f"{style.base:.3f} to {style.adapter:.3f}, {style.adapter / style.base:.0%} of the base's{by_chance}; "
        f"two sets of true pictures are {style.ceiling:.3f} apart."
    )
    room = style.base - style.ceiling
    if room < thresholds.STYLE_ROOM_MIN * style.base:
        few = (
            "The base's pictures are no further from it: with so few pictures to compare with, what was learned "
            "cannot be told. Name more of them."
        )
        return False, [said, few]
    way = (style.base - style.adapter) / room
    if way < thresholds.STYLE_WAY_MIN - 1e-9:
        return False, [
            said,
            f"Between the base and true pictures that is {way:.0%} of the way; "
            f"{thresholds.STYLE_WAY_MIN:.0%} would be called learned.",
        ]
    if chance is not None and chance > thresholds.STYLE_P_MAX:
        return False, [said, "That may be chance, so it is not called learned: ask more prompts."]
    return True, [said]
