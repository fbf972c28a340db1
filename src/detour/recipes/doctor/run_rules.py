"""What is wrong with a training run: how it ended, its curve, its settings, its data."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, variance

from detour.evaluation.thresholds import OVERFIT_RISE_MAX
from detour.recipes.data_findings import Finding as DataFlaw
from detour.recipes.doctor.finding import Finding, Rule
from detour.specs import RunSpec

LOSS_RISE = 1.25
"""Mean loss of the last fifth of the steps over that of the first fifth; of 38 sound runs none was above 0.9."""

RISE_SIGMAS = 4.0
"""Standard errors by which that rise must stand out of the noise of single timesteps."""

FEWEST_LOSSES = 20
"""Shorter curves say nothing."""

USUAL_RATES = (1e-6, 1e-2)
"""AdamW on a published base; the embedded base and other optimizers have scales of their own."""

DIVERGED = Rule(
    name="rate-diverged",
    subject="run",
    severity="error",
    fires=f"a loss that is not finite, or the last fifth's mean above {LOSS_RISE:g} times the first one's by more than "
    f"{RISE_SIGMAS:g} standard errors",
    why="The learning rate was too high: each step overshot, and the adapter holds noise.",
    mend="Train again with a third of the rate: --set train.optim.lr=….",
)
ENDED_BADLY = Rule(
    name="run-not-finished",
    subject="run",
    severity="warning",
    fires="a run that failed, was interrupted, or died",
    why="Its adapter is missing, or from the middle of the schedule.",
    mend="Go on: detour train --resume RUN.",
)
NO_RATE = Rule(
    name="rate-zero",
    subject="run",
    severity="error",
    fires="a learning rate of 0",
    why="Nothing is learned.",
    mend="Leave train.optim.lr at auto, or name one: --set train.optim.lr=1e-4.",
)
RATE_UNUSUAL = Rule(
    name="rate-unusual",
    subject="run",
    severity="warning",
    fires=f"a rate of AdamW outside of {USUAL_RATES[0]:g} to {USUAL_RATES[1]:g}, on a base other than pocket",
    why="Published recipes for such bases lie near 1e-4.",
    mend="Start at train.optim.lr=1e-4, and change it by a factor of three.",
)
OVERFIT = Rule(
    name="validation-rises",
    subject="run",
    severity="warning",
    fires=f"the loss on pictures kept out ends more than {OVERFIT_RISE_MAX:.0%} above its lowest value",
    why="From the lowest value on it learned its pictures instead of what they share.",
    mend="Ship the best weights: --set validate.keep_best=true; or train fewer steps.",
)
VERDICT = Rule(
    name="verdict-bad",
    subject="run",
    severity="error",
    fires="a verdict other than learned or inconclusive in proof.json",
    why="The proof measured it; report.html shows the pictures.",
    mend="Read docs/verdicts.md on what each verdict wants changed.",
)
RESOLUTION = Rule(
    name="resolution-far",
    subject="run",
    severity="warning",
    fires="training pictures more than 1.5 times larger or smaller than the base's own size",
    why="The base does not know such sizes, so the adapter spends itself on them.",
    mend="Leave data.resolution at auto.",
)
TRAINED_IN_FP32 = Rule(
    name="fp32-training-on-gpu",
    subject="run",
    severity="note",
    fires="a run in fp32 on a CUDA GPU",
    why="Adapter weights are fp32 always; the frozen base in bf16 halves memory and time.",
    mend="Leave base.dtype at auto.",
)
ALPHA_HIGH = Rule(
    name="alpha-high",
    subject="run",
    severity="warning",
    fires="alpha above 4 times the rank (above 4 times its root with rslora)",
    why="The change is multiplied by alpha / rank, so the rate acts that many times as strongly.",
    mend="Leave adapter.alpha at auto (equal to the rank), and set the rate instead.",
)
MEMORY = Rule(
    name="memory-short",
    subject="run",
    severity="warning",
    fires="the predicted peak of the run is above the memory that is free",
    why="The run would be killed, or swap.",
    mend="See what fits: detour plan.",
)
DATA_GONE = Rule(
    name="data-gone",
    subject="data",
    severity="note",
    fires="the run's pictures are not where they were",
    why="Captions and repeated pictures cannot be looked at.",
    mend="Run it where the data is, or look at the data alone: detour data check.",
)
RULES = (
    DIVERGED, ENDED_BADLY, NO_RATE, RATE_UNUSUAL, OVERFIT, VERDICT, RESOLUTION, TRAINED_IN_FP32, ALPHA_HIGH, MEMORY,
    DATA_GONE,
)  # fmt: skip

DATA_WHYS: Mapping[str, str] = {
    "unreadable": "Training stops at it.",
    "no caption": "Without a caption a picture teaches nothing that a prompt could ask for.",
    "same caption": "Everything in the pictures is tied to the same words.",
    "long caption": "What stands at the end is never learned.",
    "copies": "A picture that is shown more often than others is copied sooner.",
    "leak": "Validation then measures memory.",
    "small": "What is learned from enlarged pictures is soft.",
    "blurred": "The adapter learns the blur.",
    "border": "The adapter learns to draw frames.",
    "mark": "The adapter learns to draw it.",
    "amount": "Too few are copied; too many take more steps than a run has.",
    "no trigger": "The subject takes over the words of the captions.",
}
"""Kind of a finding of ``detour data check`` → why it makes bad pictures."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What the rules look at.

    Attributes:
        where: the run's folder.
        spec: as resolved.
        native_size_px: the base's own side.
        state: finished, failed, interrupted, died, diverged, running.
        error: what it said when it ended.
        losses: step by step; one that is not finite stands as NaN.
        validation: losses on pictures kept out, in order.
        verdict: of ``proof.json``, if there is one.
        reasons: of the verdict.
        flaws: of the data; ``None`` where the data is not there.
        peak_bytes: predicted; 0 where it is not.
        free_bytes: of the device's memory; 0 where it is not known.
    """

    where: str
    spec: RunSpec
    native_size_px: int
    state: str = "finished"
    error: str = ""
    losses: Sequence[float] = ()
    validation: Sequence[float] = ()
    verdict: str | None = None
    reasons: Sequence[str] = ()
    flaws: Sequence[DataFlaw] | None = field(default=())
    peak_bytes: int = 0
    free_bytes: int = 0


def examine_run(facts: RunFacts) -> Iterator[Finding]:
    """Findings on a run."""
    yield from _ending(facts)
    yield from _curves(facts)
    yield from _settings(facts)
    yield from _data(facts)
    if facts.peak_bytes and facts.free_bytes and facts.peak_bytes > facts.free_bytes:
        peak, free = (count / 2**30 for count in (facts.peak_bytes, facts.free_bytes))
        yield MEMORY.found(f"the run is predicted to take {peak:.1f} GiB, and {free:.1f} GiB are free", facts.where)


def _ending(facts: RunFacts) -> Iterator[Finding]:
    if facts.state in ("failed", "interrupted", "died"):
        what = f"the run {'was interrupted' if facts.state == 'interrupted' else facts.state}"
        yield ENDED_BADLY.found(
            f"{what}: {facts.error}" if facts.error else what,
            facts.where,
            mend=f"Go on: detour train --resume {facts.where}.",
        )
    if facts.verdict is not None and facts.verdict not in ("learned", "inconclusive"):
        yield VERDICT.found(f"the verdict is {facts.verdict}. {' '.join(facts.reasons)}".rstrip(". "), facts.where)


def _curves(facts: RunFacts) -> Iterator[Finding]:
    where = f"{facts.where}/metrics.jsonl"
    rate = facts.spec.train.optim.lr
    mend = f"Train again with a third of the rate: --set train.optim.lr={float(rate) / 3:.1g}." if rate != "auto" else None
    if facts.state == "diverged" or not all(map(math.isfinite, facts.losses)):
        yield DIVERGED.found("the loss is not finite any more", where, mend=mend)
    elif (rise := _rise(facts.losses)) is not None:
        yield DIVERGED.found(f"the loss rose to {rise:.1f} times what it was in the beginning", where, mend=mend)
    lowest = min(facts.validation, default=0.0)
    if lowest > 0 and facts.validation[-1] > (1 + OVERFIT_RISE_MAX) * lowest and not facts.spec.validate_.keep_best:
        yield OVERFIT.found(
            f"the loss on pictures kept out was {lowest:.4f} and ended at {facts.validation[-1]:.4f}", where
        )


def _rise(losses: Sequence[float]) -> float | None:
    """Last fifth over first fifth, where it is large and surely no noise; else ``None``."""
    if len(losses) < FEWEST_LOSSES:
        return None
    num = len(losses) // 5
    first, last = losses[:num], losses[-num:]
    rise = fmean(last) / fmean(first) if fmean(first) > 0 else math.inf
    error = math.sqrt((variance(first) + variance(last)) / num)
    return rise if rise > LOSS_RISE and fmean(last) - fmean(first) > RISE_SIGMAS * error else None


def _settings(facts: RunFacts) -> Iterator[Finding]:
    spec, where = facts.spec, f"{facts.where}/resolved.toml"
    rate = spec.train.optim.lr
    if rate == 0:
        yield NO_RATE.found("train.optim.lr is 0", where)
    elif (
        rate != "auto"
        and spec.train.optim.name == "adamw"
        and spec.base.name != "pocket"
        and not USUAL_RATES[0] <= float(rate) <= USUAL_RATES[1]
    ):
        yield RATE_UNUSUAL.found(f"train.optim.lr is {rate:g}", where)
    side, native = spec.data.resolution, facts.native_size_px
    if isinstance(side, int) and not native / 1.5 <= side <= native * 1.5:
        yield RESOLUTION.found(f"data.resolution is {side}; the base's own size is {native}", where)
    if spec.base.device == "cuda" and spec.base.dtype == "fp32":
        yield TRAINED_IN_FP32.found("base.dtype is fp32", where)
    rank, alpha = spec.adapter.rank, spec.adapter.alpha
    if rank != "auto" and alpha != "auto":
        scale = alpha / (math.sqrt(rank) if spec.adapter.rslora else rank)
        if scale > 4:
            yield ALPHA_HIGH.found(f"alpha {alpha:g} at rank {rank} multiplies the change by {scale:g}", where)


def _data(facts: RunFacts) -> Iterator[Finding]:
    source = facts.spec.data.source or facts.where
    if facts.flaws is None:
        yield DATA_GONE.found("the pictures cannot be read from here", source)
    for flaw in facts.flaws or ():
        yield Finding(
            rule=f"data: {flaw.kind}",
            severity=flaw.severity,
            what=flaw.what + (f" ({', '.join(flaw.pictures[:3])})" if flaw.pictures else ""),
            where=source,
            why=DATA_WHYS.get(flaw.kind, "Said by detour data check."),
            mend=f"{flaw.next[:1].upper()}{flaw.next[1:]}.",
        )
