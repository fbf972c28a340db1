"""Conditions such as ``--require style>=0.5`` on figures of an evaluation; a missing figure meets none."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detour.errors import ConfigError, nearest
from detour.evaluation.answers import Answers, ShareOfWay
from detour.evaluation.evaluation import Answer, Evaluation
from detour.evaluation.metric import Metric, all_metrics

Found = float | str | None

_CONDITION = re.compile(r"\s*([a-z_.]+)\s*(>=|<=|==|!=|=|>|<)\s*([^\s<>=!]\S*)\s*")
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda a, b: a >= b - 1e-9,  # shares of small counts are not exact in binary
    "<=": lambda a, b: a <= b + 1e-9,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    "==": lambda a, b: abs(a - b) <= 1e-9,
    "!=": lambda a, b: abs(a - b) > 1e-9,
}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure that a requirement can name.

    Attributes:
        name: as it is written in a condition.
        text: what it is, and what its scale says.
        read: its value; ``None`` where it was not measured.
        words: its values, where it has words instead of numbers.
    """

    name: str
    text: str
    read: Callable[[Evaluation], Found]
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """One condition on a figure."""

    text: str
    figure: Figure
    operator: str
    bound: float | str


def parse_requirement(text: str) -> Requirement:
    """Read ``NAME>=VALUE``; the operators are >= <= > < = !=, and 50% is 0.5.

    Raises:
        ConfigError: not a condition, a figure that does not exist (with the nearest name), or no value of it.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise ConfigError(f"--require {text}: not a condition. Write NAME>=VALUE, e.g. style>=0.5.")
    name, operator, value = match.groups()
    figure = next((one for one in FIGURES if one.name == name), None)
    if figure is None:
        known = [one.name for one in FIGURES]
        raise ConfigError(
            f"--require {text}: there is no figure '{name}'.{nearest(name, known)} There are: {', '.join(known)}."
        )
    operator = "==" if operator == "=" else operator
    return Requirement(
        text=text.strip(), figure=figure, operator=operator, bound=_bound(text, figure, operator, value)
    )


def answer(requirement: Requirement, evaluation: Evaluation) -> Answer:
    """Whether the evaluation meets the condition; a figure that was not measured does not."""
    found, bound = requirement.figure.read(evaluation), requirement.bound
    if found is None:
        met = False
    elif isinstance(found, str) or isinstance(bound, str):
        met = (found == bound) == (requirement.operator == "==")
    else:
        met = _COMPARE[requirement.operator](found, bound)
    return Answer(requirement=requirement.text, found=found, met=met)


def answer_text(one: Answer) -> str:
    """Result of a requirement as text, such as ``style>=0.5: not met, it is 0.31``."""
    if one.found is None:
        return f"{one.requirement}: not met, it was not measured"
    found = one.found if isinstance(one.found, str) else f"{one.found:.4g}"
    return f"{one.requirement}: {'met' if one.met else 'not met'}, it is {found}"


def _bound(text: str, figure: Figure, operator: str, value: str) -> float | str:
    if figure.words:
        if operator not in ("==", "!="):
            raise ConfigError(
                f"--require {text}: '{figure.name}' is a word. Write {figure.name}={figure.words[0]}."
            )
        if value not in figure.words:
            raise ConfigError(
                f"--require {text}: {figure.name} is never '{value}'.{nearest(value, list(figure.words))} "
                f"It is one of: {', '.join(figure.words)}."
            )
        return value
    try:
        number = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        number = float("nan")
    if number - number != 0:  # neither NaN nor infinite
        raise ConfigError(f"--require {text}: '{value}' is no number, e.g. {figure.name}{operator}0.5.")
    return number


def _style(one: Evaluation) -> Found:
    return None if one.fidelity is None else one.fidelity.style


def _clip_gain(one: Evaluation) -> Found:
    return None if one.prompt_keeping is None else one.prompt_keeping.clip_change.mean


def accuracy_drops(one: Evaluation) -> dict[str, float]:
    """Part of the prompt → fall of the adapter below the lower one of base and ceiling (negative: above)."""
    parts = one.prompt_keeping.parts if one.prompt_keeping is not None else None
    drops = {}
    for name, part in (parts or {}).items():
        share = part.share
        drops[name] = min(share.base, share.base if share.ceiling is None else share.ceiling) - share.adapter
    return drops


def _drop(part: str | None = None) -> Callable[[Evaluation], Found]:
    def read(one: Evaluation) -> Found:
        drops = accuracy_drops(one)
        return drops.get(part) if part is not None else max(drops.values(), default=None)

    return read


def _over_shuffled(one: Evaluation) -> Found:
    kept = one.prompt_keeping
    if kept is None or kept.clip_score.shuffled is None:
        return None
    return kept.clip_score.adapter - kept.clip_score.shuffled


def _drift(one: Evaluation) -> Found:
    return None if one.drift is None else one.drift.without_trigger.judge.adapter


def _drift_with_trigger(one: Evaluation) -> Found:
    both = one.drift
    return None if both is None or both.with_trigger is None else both.with_trigger.judge.adapter


def _drift_share(one: Evaluation) -> Found:
    return None if one.drift is None else one.drift.without_trigger.judge.share


def _diversity(one: Evaluation) -> Found:
    spread = None if one.diversity is None else one.diversity.within_prompt
    return None if spread is None else spread.kept()


def _diversity_across(one: Evaluation) -> Found:
    spread = None if one.diversity is None else one.diversity.across_prompts
    return None if spread is None else spread.kept()


_FIXED: Sequence[Figure] = (
    Figure(
        name="verdict",
        text="the verdict; only = and !=",
        read=lambda one: one.verdict,
        words=(
            "learned", "no_effect", "forgot_prompts", "overfit", "copies", "collapsed", "class_drifted", "inconclusive",
        ),
    ),
    Figure(
        name="style",
        text="share by which the style distance is less than the base's: 0 as far as the base, 1 no distance left",
        read=_style,
    ),
    Figure(
        name="similarity",
        text="mean cosine to the reference pictures, for subjects: -1 to 1",
        read=lambda one: None if one.fidelity is None else one.fidelity.similarity.adapter,
    ),
    Figure(
        name="nearer_p",
        text="chance that the adapter's pictures are no nearer to the references than the base's",
        read=lambda one: None if one.fidelity is None else one.fidelity.nearer_p,
    ),
    Figure(
        name="clip_score",
        text="mean cosine of picture and prompt, times 100",
        read=lambda one: None if one.prompt_keeping is None else one.prompt_keeping.clip_score.adapter,
    ),
    Figure(name="clip_gain", text="the adapter's CLIP score minus the base's", read=_clip_gain),
    Figure(
        name="clip_over_shuffled",
        text="the adapter's CLIP score minus that of the control trained on shuffled captions",
        read=_over_shuffled,
    ),
    Figure(
        name="accuracy_drop",
        text="largest fall of object, colour or place below the lower of base and true pictures",
        read=_drop(),
    ),
    Figure(name="accuracy_drop.object", text="the same of the object alone", read=_drop("object")),
    Figure(name="accuracy_drop.colour", text="the same of the colour alone", read=_drop("colour")),
    Figure(name="accuracy_drop.place", text="the same of the place alone", read=_drop("place")),
    Figure(
        name="drift",
        text="how far unrelated pictures move, without the trigger: 1 - cosine, 0 to 2",
        read=_drift,
    ),
    Figure(name="drift_with_trigger", text="the same with the trigger", read=_drift_with_trigger),
    Figure(
        name="drift_share",
        text="drift as a share of how far the base's own pictures of two seeds lie apart",
        read=_drift_share,
    ),
    Figure(
        name="diversity",
        text="share of the spread within a prompt that is left: 1 all of it",
        read=_diversity,
    ),
    Figure(name="diversity_across", text="the same across prompts", read=_diversity_across),
    Figure(
        name="copied",
        text="share of the pictures that copy a training picture, above the base's",
        read=lambda one: None if one.copies is None else one.copies.beyond_base,
    ),
    Figure(
        name="recited",
        text="the same, where the prompts are training captions: what is learned by heart",
        read=lambda one: None if one.recited is None else one.recited.beyond_base,
    ),
    Figure(
        name="reproduced",
        text="share of the pictures that copy one of --references, whether the base does too or not",
        read=lambda one: None if one.reproduced is None else one.reproduced.share.adapter,
    ),
    Figure(
        name="marked",
        text="1 where a mark stands in the same place of most pictures, else 0",
        read=lambda one: float(one.marks.mark is not None),
    ),
    Figure(
        name="pixels",
        text="mean change of a picture, steps of 255",
        read=lambda one: one.pixels.mean_abs_diff,
    ),
)  # fmt: skip


def _way(read: Callable[[Answers], ShareOfWay | None]) -> Callable[[Evaluation], Found]:
    def share(one: Evaluation) -> Found:
        way = None if one.answers is None else read(one.answers)
        return None if way is None else way.share

    return share


def _further(metric: Metric) -> Figure:
    def read(one: Evaluation) -> Found:
        found = one.metrics.get(metric.name)
        return None if found is None else found.adapter

    return Figure(name=metric.name, text=metric.text, read=read)


_OF_THE_WAY: Sequence[Figure] = (
    Figure(
        name="way",
        text="share of the way from the base's pictures to yours: 0 none of it, 1 all; for a style",
        read=_way(lambda answers: answers.way),
    ),
    Figure(
        name="subject",
        text="the same to the subject's own pictures, with its word in the prompt",
        read=_way(lambda answers: None if answers.subject is None else answers.subject.taken),
    ),
    Figure(
        name="class_moved",
        text="the same of pictures of the subject's class alone: 0 is kept",
        read=_way(lambda answers: None if answers.subject is None else answers.subject.own_class),
    ),
)

FIGURES: Sequence[Figure] = (*_FIXED, *_OF_THE_WAY, *(_further(one) for one in all_metrics()))
"""Every figure that can be required; ``docs/evaluation.md`` and the command's help list them."""
