"""Grades of lab 3, train a style."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, Grader, near, right, wrong


def _means(values: Sequence[float], window: int) -> list[float]:
    return [
        sum(part) / len(part)
        for end in range(1, len(values) + 1)
        for part in [values[max(0, end - window) : end]]
    ]


def smoothed(answer: Any) -> Grade:
    """Running mean of the last values, with windows of one, of some and of more than there are."""
    return compare(
        answer,
        _means,
        [
            ([4.0, 2.0, 6.0, 0.0, 3.0], 3),
            ([1.0, 5.0, 2.0, 8.0], 2),
            ([3.0, 7.0, 1.5], 1),
            ([2.0, 9.0], 5),
            ([4.0], 2),
        ],
        [
            Mistake(
                formula=lambda values, window: values,
                what="you hand the values back as they are.",
                why="the jumps of single steps are what smoothing is to take out.",
                hint="return the mean of the last `window` values at each step.",
            ),
            Mistake(
                formula=lambda values, window: _means(values, len(values)),
                what="you take the mean of everything so far.",
                why="then the first steps weigh on the curve for ever.",
                hint="keep the last `window` values only.",
            ),
            Mistake(
                formula=lambda values, window: _means(values[::-1], window)[::-1],
                what="you look ahead: each value is the mean of what follows.",
                why="at a step, the losses of later steps are not known.",
                hint="end the window at the step, not start it there.",
            ),
            Mistake(
                formula=lambda values, window: [
                    sum(values[max(0, end - window) : end]) / window for end in range(1, len(values) + 1)
                ],
                what="at the start your means are too small.",
                why="there are fewer values than the window has places there, and you divide by the window.",
                hint="divide by the number of values that you added.",
            ),
            Mistake(
                formula=lambda values, window: _means(values, window)[window - 1 :],
                what="fewer values come out than go in.",
                why="the curve is drawn over the same steps, so every step needs a value.",
                hint="at the start take the mean of as many values as there are.",
            ),
            Mistake(
                formula=lambda values, window: [
                    sum(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)
                ],
                what="you give sums, not means.",
                why="a sum grows with the window, and the curve is drawn beside the losses themselves.",
                hint="divide by the number of values that you added.",
            ),
            Mistake(
                formula=lambda values, window: _means(values, window + 1),
                what="your window has one place too many.",
                why="it is the mean of the last `window` values, this one among them.",
                hint="begin the slice at end − window.",
            ),
            Mistake(
                formula=lambda values, window: [values[0], *_means(values, window)[:-1]],
                what="your curve lags by one step.",
                why="the window ends with the value of the step itself.",
                hint="let the slice go up to and with this step's value.",
            ),
        ],
        why="it is the mean of the last `window` values up to and with this one.",
        hint="values[max(0, end - window) : end] are they.",
        praise="Smoothing shows the trend; the luck of the timesteps is still in it.",
    )


def _curve(path: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line[key] for line in lines if key in line]


def fell_by(answer: Mapping[str, Any]) -> Grade:
    """Share by which the fixed-timestep loss fell."""
    validation, training = (_curve(Path(answer["metrics"]), key) for key in ("val_loss", "loss"))
    given, first, last = answer["share"], validation[0], validation[-1]
    if given is None:
        return wrong("there is no share yet.", why="the run has measured it.", hint="look at `validation`.")
    true = 1 - last / first
    if near(given, true, absolute=2e-3):
        return right(f"It fell by {true:.0%} on pictures that were not trained on.")
    if near(given, -true, absolute=2e-3) or near(given, last / first, absolute=2e-3):
        return wrong(
            f"{float(given):.3f} is what is left, or has the sign turned.",
            why="'fell by 0.25' means that three quarters are left.",
            hint="one minus last over first.",
        )
    if near(given, first - last, absolute=1e-4):
        return wrong(
            f"{float(given):.4f} is the difference of the two losses.",
            why="a loss has no scale of its own; a share can be compared between runs.",
            hint="divide by the first one.",
        )
    if near(given, 100 * true, relative=2e-2):
        return wrong(f"{float(given):.1f} are per cent.", why="a share is at most 1.", hint="divide by 100.")
    if near(given, 1 - training[-1] / training[0], absolute=2e-3):
        return wrong(
            f"{float(given):.3f} comes from the training loss.",
            why="its first and last steps had other timesteps, so their ratio is luck.",
            hint="use the values in `validation`.",
        )
    return wrong(
        f"{float(given):.3f} does not follow from {first:.4f} at first and {last:.4f} at last.",
        why="the share is that of the first validation, before any step.",
        hint="validation[0] and validation[-1] are pairs of step and loss.",
    )


def held_out(answer: Mapping[str, Any]) -> Grade:
    """Candidates that are no training captions."""
    folder = Path(answer["data"])
    captions = {file.read_text(encoding="utf-8").strip() for file in folder.glob("*.txt")}
    true = [one for one in answer["candidates"] if one not in captions]
    given = answer["prompts"]
    if given is None:
        return wrong(
            "there are no prompts yet.", why="the pictures below need them.", hint="fill in the TODO."
        )
    given = list(given)
    if given == true:
        return right(f"{len(true)} prompts that neither this training nor the base has seen.")
    trained = [one for one in given if one in captions]
    if trained:
        return wrong(
            f"{len(trained)} of your prompts are training captions, e.g. '{trained[0]}'.",
            why="what comes out for them may be learned by heart; it says nothing of new prompts.",
            hint="keep a prompt only if it is not in `captions`.",
        )
    left_out = [one for one in true if one not in given]
    if left_out:
        return wrong(
            f"you left out '{left_out[0]}'.",
            why="no training picture has that caption.",
            hint="compare whole captions, not single words.",
        )
    return wrong(
        "your prompts are not the candidates in their order.",
        why="pictures and true renders are laid side by side by position.",
        hint="filter the list of candidates, and change nothing else.",
    )


def style_share(answer: Any) -> Grade:
    """1 − adapter / base, where the adapter is nearer, as far, arrived, and further away than the base."""
    return compare(
        answer,
        lambda base, adapter: 1 - adapter / base,
        [(0.8, 0.2), (0.5, 0.5), (0.4, 0.0), (0.5, 0.75), (0.3, 0.9), (1.6, 0.4), (0.25, 0.2)],
        [
            Mistake(
                formula=lambda base, adapter: adapter / base,
                what="for base 0.8 and adapter 0.2 you get 0.25: what is left of the way.",
                why="0 was to be 'as far as the base', 1 'arrived'.",
                hint="one minus that.",
            ),
            Mistake(
                formula=lambda base, adapter: base - adapter,
                what="for base 0.8 and adapter 0.2 you get 0.6: the difference.",
                why="how much 0.6 is depends on how far the base was.",
                hint="divide by the base's distance.",
            ),
            Mistake(
                formula=lambda base, adapter: base / adapter,
                what="for base 0.8 and adapter 0.2 you get 4: the ratio is upside down.",
                why="the whole way is the base's distance.",
                hint="divide by the base's distance, not by the adapter's.",
            ),
            Mistake(
                formula=lambda base, adapter: max(0.0, 1 - adapter / base),
                what="where the adapter is further away than the base you get 0.",
                why="an adapter that leads away from the style must not look like one that does nothing.",
                hint="let the share be negative; cut nothing off.",
            ),
            Mistake(
                formula=lambda base, adapter: abs(1 - adapter / base),
                what="where the adapter is further away than the base you get a positive share.",
                why="it went the wrong way, and the sign is what says so.",
                hint="take no absolute value.",
            ),
            Mistake(
                formula=lambda base, adapter: 100 * (1 - adapter / base),
                what="your share is in per cent.",
                why="0 to 1 was asked for; the line below prints per cent of it.",
                hint="leave the 100 out.",
            ),
            Mistake(
                formula=lambda base, adapter: (base - adapter) / (base + adapter),
                what="you divide by the sum of both distances.",
                why="the whole way is the base's distance.",
                hint="divide by the base's distance.",
            ),
            Mistake(
                formula=lambda base, adapter: adapter / base - 1,
                what="your share has the other sign.",
                why="nearer is a positive share of the way.",
                hint="one minus what is left.",
            ),
        ],
        why="of a way of 0.8, 0.2 is left; where 0.75 of 0.5 is left, the adapter went back by a half.",
        hint="which share of the base's distance is done? Divide by the base's distance, not by the adapter's.",
        praise="A distance is shown beside the base's, or not at all.",
    )


def _beyond(first: float, again: float, second: float) -> bool:
    return min(abs(second - first), abs(second - again)) > abs(first - again)


def beyond_noise(answer: Any) -> Grade:
    """A difference counts only against the difference that the seed makes; better, worse, between, and no spread."""
    return compare(
        answer,
        _beyond,
        [
            (0.60, 0.70, 0.90),
            (0.60, 0.70, 0.65),
            (0.70, 0.60, 0.30),
            (0.60, 0.70, 0.76),
            (0.70, 0.60, 0.76),
            (0.60, 0.70, 0.54),
            (0.70, 0.60, 0.54),
            (0.50, 0.50, 0.50),
            (0.50, 0.50, 0.51),
            (0.25, 0.50, 0.75),
            (-0.30, 0.10, 0.40),
            (-0.30, 0.10, 0.60),
            (0.55, 0.57, 0.61),
        ],
        [
            Mistake(
                formula=lambda first, again, second: second not in (first, again),
                what="you call every difference one: 0.65 too, between two runs of the same rank at 0.60 and 0.70.",
                why="a change of the seed alone makes 0.1 here, so 0.05 is nothing.",
                hint="compute first how far the two runs of the same rank are apart.",
            ),
            Mistake(
                formula=lambda first, again, second: second != first,
                what="you call every difference one: 0.65 too, between two runs of the same rank at 0.60 and 0.70.",
                why="a change of the seed alone makes 0.1 here, so 0.05 is nothing.",
                hint="compute first how far the two runs of the same rank are apart.",
            ),
            Mistake(
                formula=lambda first, again, second: second - max(first, again) > abs(first - again),
                what="0.30 against 0.70 and 0.60 is no difference by your function.",
                why="worse is a difference too.",
                hint="take absolute values.",
            ),
            Mistake(
                formula=lambda first, again, second: (
                    max(abs(second - first), abs(second - again)) > abs(first - again)
                ),
                what="0.76 against 0.60 and 0.70 is a difference by your function.",
                why="it is 0.06 from the nearer run, and the seed alone makes 0.1.",
                hint="compare with the nearer of the two: the smaller of the two distances.",
            ),
            Mistake(
                formula=lambda first, again, second: abs(second - first) > abs(first - again),
                what="0.76 against 0.60 and 0.70 is a difference by your function.",
                why="it is 0.06 from the nearer run, and the seed alone makes 0.1.",
                hint="compare with the nearer of the two, not with the first alone.",
            ),
            Mistake(
                formula=lambda first, again, second: abs(second - again) > abs(first - again),
                what="0.76 against 0.70 and 0.60 is a difference by your function.",
                why="it is 0.06 from the nearer run, and the seed alone makes 0.1.",
                hint="compare with the nearer of the two, not with the second alone.",
            ),
            Mistake(
                formula=lambda first, again, second: abs(second - (first + again) / 2) > abs(first - again),
                what="you compare with the mean of both runs.",
                why="0.76 is 0.11 from their mean, but only 0.06 from the nearer of them, and the "
                "seed alone makes 0.1.",
                hint="compare with the nearer of the two.",
            ),
            Mistake(
                formula=lambda first, again, second: not _beyond(first, again, second),
                what="your answer is the opposite.",
                why="True was to mean that there is something to say.",
                hint="turn the comparison round.",
            ),
        ],
        why="it has to differ from both runs by more than these differ from each other.",
        hint="min(abs(…), abs(…)) > abs(…)",
        praise="The same rule, with more seeds and an interval, is behind the figures of the studies.",
    )


TASKS: Mapping[str, Grader] = {
    "smoothed": smoothed,
    "fell_by": fell_by,
    "held_out": held_out,
    "style_share": style_share,
    "beyond_noise": beyond_noise,
}
