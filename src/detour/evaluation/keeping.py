"""Tests whether the adapter lost something that the base draws: lost, kept, or unknown with what would settle it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from detour.errors import ConfigError
from detour.evaluation import limits
from detour.evaluation.reading import Rows

Answer = Literal["lost", "kept", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Answer on one figure (the whole prompt, or its objects, colours, places).

    Attributes:
        answer: ``lost``: the lower limit of the loss is above zero; ``kept``: the upper limit is below the margin.
        loss: share of the expected score that the adapter lacks; below zero where it has more.
        low: lower limit of it, 95 % on that side.
        high: upper limit of it, 95 % on that side.
        p_lost: chance alone would show such a loss in so many cases; adjusted by :func:`settle` where several figures
            can condemn.
        p_kept: chance alone would look as well kept in so many cases if the margin were lost.
        against_base: share of the base's own score that the adapter lacks; below zero where it has more. It is larger
            than ``loss`` where the references score less than the base.
        p_base: chance alone would show a loss as large as that in so many cases.
        prompts: that were compared.
        needed: prompts that would probably settle an unknown; ``None`` where it is settled or none would.
        because: why it is unknown; empty otherwise.
    """

    answer: Answer
    loss: float
    low: float
    high: float
    p_lost: float
    p_kept: float
    against_base: float
    p_base: float
    prompts: int
    needed: int | None = None
    because: str = ""


def compare(adapter: Rows, base: Rows, ceiling: Rows | None, *, margin: float, seed: int = 0) -> Keeping:
    """Compare an adapter's scores with the scores that are expected of them.

    What could be expected is the lower of two controls: the base's scores at the same prompts and seeds, and the
    references' with their own captions, in which the style itself hides what it hides. A loss has to show against both.

    Args:
        adapter: (P,) continuous scores, seeds averaged within prompts.
        base: (P,) of the same prompts and seeds.
        ceiling: (M,) of references by their own captions; ``None`` where the judge cannot read those, and then nothing
            is called lost, for the style may hide it.
        margin: share of the expected score whose loss counts.
        seed: of the permutations.

    Raises:
        ConfigError: the sides do not pair up, or are empty.
    """
    if len(adapter) != len(base) or not len(adapter):
        raise ConfigError(f"{len(adapter)} and {len(base)} scores of the same prompts cannot be compared.")
    rng = np.random.default_rng(seed)
    gaps = base - adapter
    p_base, p_kept = sign_flips(gaps, rng), sign_flips(adapter - (1 - margin) * base, rng)
    p_lost, against_base = p_base, float(gaps.mean() / base.mean()) if base.mean() > 0 else 0.0
    expected, spread = float(base.mean()), _standard_error(gaps)
    if ceiling is None:
        p_lost = 1.0
    else:
        p_lost = max(p_lost, _exchanges(ceiling, adapter, rng))
        if ceiling.mean() < base.mean():
            p_kept = _exchanges(adapter, (1 - margin) * ceiling, rng)
            expected = float(ceiling.mean())
            spread = math.hypot(_standard_error(ceiling), _standard_error(adapter))
    if expected <= 0:
        return Keeping(answer="unknown", loss=0.0, low=-math.inf, high=math.inf, p_lost=1.0, p_kept=1.0,
                       against_base=against_base, p_base=p_base, prompts=len(adapter),
                       because="nothing of it shows in the controls either")  # fmt: skip
    loss = 1 - float(adapter.mean()) / expected
    reach = _student(len(adapter)) * spread / expected
    answer = _answer(p_lost, p_kept)
    return Keeping(
        answer=answer,
        loss=loss,
        low=loss - reach,
        high=loss + reach,
        p_lost=p_lost,
        p_kept=p_kept,
        against_base=against_base,
        p_base=p_base,
        prompts=len(adapter),
        needed=_needed(loss, spread / expected, margin, len(adapter), ceiling)
        if answer == "unknown"
        else None,
        because="" if answer != "unknown" else f"{len(adapter)} prompts cannot tell",
    )


def settle(figures: Mapping[str, Keeping]) -> dict[str, Keeping]:
    """Adjust the p-values of figures that share one error rate (Holm 1979), and renew the answers.

    Args:
        figures: name → what :func:`compare` says of it alone.
    """
    order = sorted(figures, key=lambda name: figures[name].p_lost)
    settled: dict[str, Keeping] = {}
    highest = 0.0
    for place, name in enumerate(order):
        one = figures[name]
        highest = max(highest, min(1.0, (len(order) - place) * one.p_lost))
        answer = _answer(highest, one.p_kept)
        because = one.because if answer == "unknown" else ""
        if answer == "unknown" and one.answer != "unknown":
            because = "one of several figures may fall this far by chance"
        settled[name] = replace(one, p_lost=highest, answer=answer, because=because)
    return {name: settled[name] for name in figures}


def _answer(p_lost: float, p_kept: float) -> Answer:
    if p_lost <= limits.LOST_P_MAX:
        return "lost"
    return "kept" if p_kept <= limits.KEPT_P_MAX else "unknown"


def sign_flips(gaps: Rows, rng: np.random.Generator) -> float:
    """One-sided p-value that the mean of paired differences is above zero, by exchanging the sides of pairs.

    Args:
        gaps: (P,) differences; up to twelve pairs are exchanged in every way.
        rng: draws the exchanges of more.
    """
    count = len(gaps)
    if count <= 12:
        signs = 1 - 2 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return float(np.mean(signs @ gaps / count >= gaps.mean() - 1e-12))
    signs = rng.choice((-1, 1), (limits.NUM_PERMUTATIONS, count))
    return (1 + int((signs @ gaps / count >= gaps.mean() - 1e-12).sum())) / (limits.NUM_PERMUTATIONS + 1)


def _exchanges(high: Rows, low: Rows, rng: np.random.Generator) -> float:
    """One-sided p-value that the first sample's mean is above the second's, by exchanging labels."""
    pooled, count = np.concatenate([high, low]), len(high)
    observed = high.mean() - low.mean()
    mixed = rng.permuted(np.tile(pooled, (limits.NUM_PERMUTATIONS, 1)), axis=1)
    drawn = mixed[:, :count].mean(1) - mixed[:, count:].mean(1)
    return (1 + int((drawn >= observed - 1e-12).sum())) / (len(drawn) + 1)


def _standard_error(values: Rows) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def _student(count: int) -> float:
    from detour.evaluation.differences import student_limit

    return student_limit(count - 1, 0.9) if count > 1 else math.inf


def _needed(loss: float, error: float, margin: float, prompts: int, ceiling: Rows | None) -> int | None:
    """Number of prompts at which a loss as large as this one is settled in four of five cases."""
    if ceiling is None and loss > margin / 2:
        return None  # no number of prompts says what the style hides
    gap, reach = (loss, limits.LOST_REACH) if loss > margin / 2 else (margin - loss, limits.KEPT_REACH)
    if not math.isfinite(error) or gap <= 0:
        return None
    needed = math.ceil(prompts * (reach * error / gap) ** 2)
    return max(needed, prompts + 1) if needed <= limits.NEEDED_PROMPTS_MAX else None
