"""What is wrong with a training run: how it ended, its curve, its settings, its data."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from detour.bases.embedded import EMBEDDED
from detour.bases.families import SD3_HIGHEST_RATE
from detour.data.finding import Finding as DataFlaw
from detour.data.finding import Kind as DataKind
from detour.evaluation.thresholds import OVERFIT_RISE_MAX
from detour.specs import OptimSpec, RunSpec
from detour.verbs.doctor.finding import Finding, Rule

LOSS_RISE = 1.25
"""Mean loss of the last fifth of the steps over that of the first fifth; 40 sound runs on ``pocket`` end below 0.9."""

RISE_SIGMAS = 4.0
"""Standard errors by which that rise must stand out: the loss of single timesteps scatters as widely as it is high."""

FEWEST_LOSSES = 50
"""Shorter curves say nothing of a rise."""

LOSS_OF_NOTHING = 0.8
"""Predicting zero in place of noise, or of velocity, costs 1; sound runs on ``pocket`` end below 0.16."""

FLOW_LOSS_OF_NOTHING = 1.6
"""Loss of a rectified flow that predicts nothing: the velocity, noise minus latents, has a variance of about 2."""

SHIFT_APART = 2.0
"""Times the base's own shift at the run's size, either way."""

VALIDATION_RISE = 1.25
"""Last loss on pictures kept out over the first one, that of the plain base; sound runs end below 1."""

USUAL_RATES = (1e-6, 1e-2)
"""AdamW on a published base; the embedded base and other optimizers have scales of their own."""

DIVERGED = Rule(
    name="rate-diverged",
    subject="run",
    severity="error",
    fires=f"a loss that is not finite; or its mean over the last fifth of the steps is above {LOSS_OF_NOTHING:g} "
    f"(plain squared error), or above {LOSS_RISE:g} times that over the first fifth by more than the scatter of the "
    f"losses; or the loss on pictures kept out ends above {VALIDATION_RISE:g} times the plain base's",
    cause="The learning rate was too high: steps overshot, and the adapter holds noise.",
    fix="Train again with a third of the rate: --set train.optim.lr=….",
)
ENDED_BADLY = Rule(
    name="run-not-finished",
    subject="run",
    severity="warning",
    fires="a run that failed, was interrupted, or died",
    cause="Its adapter is missing, or is from the middle of the schedule.",
    fix="Continue it: detour train --resume RUN.",
)
NO_RATE = Rule(
    name="rate-zero",
    subject="run",
    severity="error",
    fires="a learning rate of 0",
    cause="Nothing is learned.",
    fix="Leave train.optim.lr at auto, or name one: --set train.optim.lr=1e-4.",
)
RATE_UNUSUAL = Rule(
    name="rate-unusual",
    subject="run",
    severity="warning",
    fires=f"a rate of AdamW outside of {USUAL_RATES[0]:g} to {USUAL_RATES[1]:g}, on a base other than pocket",
    cause="Published recipes for such bases lie near 1e-4.",
    fix="Start at train.optim.lr=1e-4, and change it by a factor of three.",
)
FLOW_RATE_HIGH = Rule(
    name="flow-rate-high",
    subject="run",
    severity="note",
    fires=f"a rate of AdamW above {SD3_HIGHEST_RATE:g} on SD 3.5",
    cause="Trainers of SD 3.5 report that such rates can make pictures fall apart all at once; not measured here.",
    fix="Look at the samples early, or take the default: leave train.optim.lr at auto.",
)
SHIFT_FAR = Rule(
    name="shift-far",
    subject="run",
    severity="warning",
    fires=f"a rectified flow trained with a shift more than {SHIFT_APART:g} times the base's own at the run's size, "
    "either way",
    cause="Training then shows other noise levels than drawing asks for; Flux-dev's own shift moves with the size.",
    fix="Leave train.loss.shift at auto.",
)
OVERFIT = Rule(
    name="validation-rises",
    subject="run",
    severity="warning",
    fires=f"the loss on pictures kept out ends more than {OVERFIT_RISE_MAX:.0%} above its lowest value",
    cause="After the lowest value the run memorised its pictures instead of learning what they share.",
    fix="Ship the best weights: --set validate.ship=lowest_loss; or train fewer steps.",
)
VERDICT = Rule(
    name="verdict-bad",
    subject="run",
    severity="error",
    fires="a verdict other than learned or inconclusive in proof.json",
    cause="The proof measured it; report.html shows the pictures.",
    fix="Read docs/verdicts.md on what each verdict wants changed.",
)
RESOLUTION = Rule(
    name="resolution-far",
    subject="run",
    severity="warning",
    fires="training pictures more than 1.5 times larger or smaller than the base's own size",
    cause="The base was not trained at such sizes, so the adapter has to learn the size too.",
    fix="Leave data.resolution at auto.",
)
TRAINED_IN_FP32 = Rule(
    name="fp32-training-on-gpu",
    subject="run",
    severity="note",
    fires="a run in fp32 on a CUDA GPU",
    cause="Adapter weights are always fp32; a frozen base in bf16 takes half of the memory and less time.",
    fix="Leave base.dtype at auto.",
)
ALPHA_HIGH = Rule(
    name="alpha-high",
    subject="run",
    severity="warning",
    fires="alpha above 4 times the rank (above 4 times its root with rslora)",
    cause="The change is multiplied by alpha / rank, so the rate acts that many times as strongly.",
    fix="Leave adapter.alpha at auto (equal to the rank), and set the rate instead.",
)
MEMORY = Rule(
    name="memory-short",
    subject="run",
    severity="warning",
    fires="the predicted peak of the run is above the memory that is free",
    cause="The run would be killed, or swap.",
    fix="See what fits: detour plan.",
)
DATA_GONE = Rule(
    name="data-gone",
    subject="data",
    severity="note",
    fires="the run's pictures are not where they were",
    cause="Captions and repeated pictures cannot be looked at.",
    fix="Run it where the data is, or look at the data alone: detour data check.",
)
SCHEDULE = Rule(
    name="schedule-unfit",
    subject="run",
    severity="error",
    fires="a warm-up as long as the run or longer, or restarts with as many cycles as steps or more",
    cause="The rate never reaches train.optim.lr, or never falls, so the run learned little or ended unsteadily.",
    fix="Set train.schedule.warmup to a twentieth of the steps, and train.schedule.cycles to 1 or 2.",
)
LOG_DAMAGED = Rule(
    name="log-damaged",
    subject="run",
    severity="warning",
    fires="metrics.jsonl that is gone or has damaged lines",
    cause="The rules for curves and for losses on pictures kept out are applied without the lines that were lost.",
    fix="Restore the file. In newer runs run.json has the losses on pictures kept out too.",
)
RULES = (
    DIVERGED, SCHEDULE, LOG_DAMAGED, ENDED_BADLY, NO_RATE, RATE_UNUSUAL, FLOW_RATE_HIGH, SHIFT_FAR, OVERFIT, VERDICT,
    RESOLUTION,
    TRAINED_IN_FP32, ALPHA_HIGH, MEMORY, DATA_GONE,
)  # fmt: skip

DATA_WHYS: Mapping[DataKind, str] = {
    "unreadable": "Training stops at it.",
    "no caption": "Without a caption a picture teaches nothing that a prompt could ask for.",
    "not read": "What is not read is not learned.",
    "left out": "It takes no part in training.",
    "colours": "The adapter learns the colours that it is shown.",
    "same words": "Those words call the rest of the pictures up as well.",
    "cut away": "What is cut away is not learned, and what the caption says of it is learned wrongly.",
    "same caption": "Everything in the pictures is tied to the same words.",
    "long caption": "What stands at the end is never learned.",
    "unrelated": "What captions say is then not what their pictures teach.",
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
        highest_rate: rate of AdamW above which trainers of the base's family report trouble, if any.
        own_shift: of a rectified flow at the run's size; 0 of all others.
        state: finished, failed, interrupted, died, diverged, running.
        error: what it said when it ended.
        losses: step by step; one that is not finite stands as NaN.
        validation: losses on pictures kept out, in order.
        verdict: of ``proof.json``, if there is one.
        reasons: of the verdict.
        flaws: of the data; ``None`` where the data is not there.
        log_problem: a sentence on a log that is gone or damaged; empty of a whole one.
        schedule_fault: what makes the schedule of the rate miss the run; empty where it fits.
        peak_bytes: predicted; 0 where it is not.
        free_bytes: of the device's memory; 0 where it is not known.
    """

    where: str
    spec: RunSpec
    native_size_px: int
    highest_rate: float | None = None
    own_shift: float = 0.0
    state: str = "finished"
    error: str = ""
    losses: Sequence[float] = ()
    validation: Sequence[float] = ()
    verdict: str | None = None
    reasons: Sequence[str] = ()
    flaws: Sequence[DataFlaw] | None = ()
    log_problem: str = ""
    schedule_fault: str = ""
    peak_bytes: int = 0
    free_bytes: int = 0


def examine_run(facts: RunFacts) -> Iterator[Finding]:
    """Look for faults in a run."""
    yield from _ending(facts)
    yield from _curves(facts)
    yield from _settings(facts)
    yield from _data(facts)
    if facts.peak_bytes and facts.free_bytes and facts.peak_bytes > facts.free_bytes:
        peak, free = (count / 2**30 for count in (facts.peak_bytes, facts.free_bytes))
        yield MEMORY.found(
            f"the run is predicted to take {peak:.1f} GiB, and {free:.1f} GiB are free", facts.where
        )


def _ending(facts: RunFacts) -> Iterator[Finding]:
    if facts.state in ("failed", "interrupted", "died"):
        what = f"the run {'was interrupted' if facts.state == 'interrupted' else facts.state}"
        yield ENDED_BADLY.found(
            f"{what}: {facts.error}" if facts.error else what,
            facts.where,
            fix=f"Go on: detour train --resume {facts.where}.",
        )
    if facts.verdict is not None and facts.verdict not in ("learned", "inconclusive"):
        yield VERDICT.found(
            f"the verdict is {facts.verdict}. {' '.join(facts.reasons)}".rstrip(". "), facts.where
        )


def _curves(facts: RunFacts) -> Iterator[Finding]:
    where = f"{facts.where}/metrics.jsonl"
    if facts.log_problem:
        yield LOG_DAMAGED.found(facts.log_problem.rstrip("."), where)
    fix = _lower_rate(facts.spec.train.optim)
    if facts.state == "diverged" or not all(map(math.isfinite, facts.losses)):
        yield DIVERGED.found("the loss is not finite any more", where, fix=fix)
        return
    what = _how_it_rose(facts)
    if what:
        yield DIVERGED.found(what, where, fix=fix)
        return
    lowest = min(facts.validation, default=0.0)
    ships_the_last = facts.spec.validate_.ship in ("auto", "last") and not facts.spec.validate_.patience
    if lowest > 0 and facts.validation[-1] > (1 + OVERFIT_RISE_MAX) * lowest and ships_the_last:
        yield OVERFIT.found(
            f"the loss on pictures kept out was {lowest:.4f} and ended at {facts.validation[-1]:.4f}", where
        )


def _lower_rate(optim: OptimSpec) -> str | None:
    """What to set for smaller steps; ``None`` where the rate is not known. Prodigy's rate is a factor of its own."""
    if optim.name == "prodigy" and optim.d0 is not None:
        return (
            f"Train again with a third of Prodigy's first estimate: --set train.optim.d0={optim.d0 / 3:.1g}."
        )
    if optim.name == "prodigy":
        return "Train again with a lower first estimate: --set train.optim.d0=…."
    if optim.lr == "auto":
        return None
    return f"Train again with a third of the rate: --set train.optim.lr={float(optim.lr) / 3:.1g}."


def _how_it_rose(facts: RunFacts) -> str:
    """Say in words how the loss rose; empty where it did not rise beyond noise."""
    validation, losses, plain = facts.validation, facts.losses, facts.spec.train.loss
    if len(validation) > 1 and validation[-1] > VALIDATION_RISE * validation[0]:
        return f"the loss on pictures kept out rose from {validation[0]:.3f} to {validation[-1]:.3f}"
    num = len(losses) // 5
    if num < 2:
        return ""
    first, last = fmean(losses[:num]), fmean(losses[-num:])
    nothing, costs = (FLOW_LOSS_OF_NOTHING, "about 2") if facts.own_shift else (LOSS_OF_NOTHING, "1")
    if plain.distance == "mse" and plain.weighting == "uniform" and last > nothing:
        return f"the loss ended at {last:.2f}, and predicting nothing at all costs {costs}"
    error = math.sqrt((variance(losses[:num]) + variance(losses[-num:])) / num)
    if len(losses) >= FEWEST_LOSSES and last > LOSS_RISE * first and last - first > RISE_SIGMAS * error:
        return f"the loss rose from {first:.3f} to {last:.3f} (first and last fifth of the steps)"
    return ""


def _settings(facts: RunFacts) -> Iterator[Finding]:
    spec, where = facts.spec, f"{facts.where}/resolved.toml"
    rate = spec.train.optim.lr
    if facts.schedule_fault:
        yield SCHEDULE.found(facts.schedule_fault, where)
    if rate == 0:
        yield NO_RATE.found("train.optim.lr is 0", where)
    elif (
        rate != "auto"
        and spec.train.optim.name == "adamw"
        and spec.base.name not in EMBEDDED
        and not USUAL_RATES[0] <= float(rate) <= USUAL_RATES[1]
    ):
        yield RATE_UNUSUAL.found(f"train.optim.lr is {rate:g}", where)
    elif (
        rate != "auto"
        and facts.highest_rate is not None
        and spec.base.name not in EMBEDDED
        and spec.train.optim.name == "adamw"
        and float(rate) > facts.highest_rate
    ):
        yield FLOW_RATE_HIGH.found(f"train.optim.lr is {rate:g}", where)
    shift = spec.train.loss.shift
    if facts.own_shift and shift != "auto":
        apart = max(shift / facts.own_shift, facts.own_shift / shift)
        if apart > SHIFT_APART:
            yield SHIFT_FAR.found(
                f"train.loss.shift is {shift:g}; the base's own is {facts.own_shift:.3g}", where
            )
    side, native = spec.data.resolution, facts.native_size_px
    if isinstance(side, int) and not native / 1.5 <= side <= native * 1.5:
        yield RESOLUTION.found(f"data.resolution is {side}; the base's own size is {native}", where)
    if spec.base.device == "cuda" and spec.base.dtype == "fp32":
        yield TRAINED_IN_FP32.found("base.dtype is fp32", where)
    rank, alpha = spec.adapter.rank, spec.adapter.alpha
    if rank != "auto" and alpha != "auto":
        scale = alpha / (math.sqrt(rank) if spec.adapter.rslora else rank)
        if scale > 4:
            yield ALPHA_HIGH.found(
                f"alpha {alpha:g} at rank {rank} multiplies the change by {scale:g}", where
            )


def _data(facts: RunFacts) -> Iterator[Finding]:
    source = facts.spec.data.source or facts.where
    if facts.flaws is None:
        yield DATA_GONE.found("the pictures cannot be read from here", source)
    for flaw in facts.flaws or ():
        yield Finding(
            rule=f"data: {flaw.kind}",
            severity=flaw.severity,
            what=flaw.cause + flaw.some_names,
            where=source,
            cause=DATA_WHYS[flaw.kind],
            fix=f"{flaw.fix[:1].upper()}{flaw.fix[1:]}.",
        )
