"""Grades of lab 3, train a style."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detour.labs.grading import Grade, Grader, near, right, wrong

CURVE, WINDOW = (4.0, 2.0, 6.0, 0.0, 3.0), 3


def _means(values: Sequence[float], window: int) -> list[float]:
    return [
        sum(part) / len(part)
        for end in range(1, len(values) + 1)
        for part in [values[max(0, end - window) : end]]
    ]


def smoothed(answer: Any) -> Grade:
    """Running mean of the last values."""
    given = answer(list(CURVE), WINDOW)
    if given is None:
        return wrong(
            "your function returns nothing.", why="it still has its placeholder.", hint="fill in the TODO."
        )
    mine = [float(value) for value in given]
    if len(mine) != len(CURVE):
        return wrong(
            f"{len(CURVE)} values go in, {len(mine)} come out.",
            why="the curve is drawn over the same steps, so every step needs a value.",
            hint="at the start take the mean of as many values as there are.",
        )
    if all(map(near, mine, _means(CURVE, WINDOW))):
        return right("Smoothing shows the trend; the luck of the timesteps is still in it.")
    if all(map(near, mine, _means(CURVE, len(CURVE)))):
        return wrong(
            "you take the mean of everything so far.",
            why="then the first steps weigh on the curve for ever.",
            hint="keep the last `window` values only.",
        )
    ahead = [sum(part) / len(part) for start in range(len(CURVE)) for part in [CURVE[start : start + WINDOW]]]
    if all(map(near, mine, ahead)):
        return wrong(
            "you look ahead: each value is the mean of what follows.",
            why="at a step, the losses of later steps are not known.",
            hint="end the window at the step, not start it there.",
        )
    if near(mine[0], CURVE[0] / WINDOW):
        return wrong(
            f"the first value is {mine[0]:.3f}, and {CURVE[0]:g} went in.",
            why="at the start there are fewer values than the window has places, and you divide by the window.",
            hint="divide by the number of values that you added.",
        )
    off = next(
        index for index, pair in enumerate(zip(mine, _means(CURVE, WINDOW), strict=True)) if not near(*pair)
    )
    return wrong(
        f"of {list(CURVE)} with window {WINDOW} you make {mine[off]:.3f} at place {off + 1}.",
        why="it is the mean of the last `window` values up to and with this one.",
        hint="values[max(0, end - window) : end] are they.",
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
    """1 − adapter / base."""
    given = answer(0.8, 0.2)
    if given is None:
        return wrong(
            "your function returns nothing.", why="it still has its placeholder.", hint="fill in the TODO."
        )
    value = float(given)
    if near(value, 0.75):
        return right("A distance is shown beside the base's, or not at all.")
    if near(value, 0.25):
        return wrong(
            "for base 0.8 and adapter 0.2 you get 0.25: what is left of the way.",
            why="0 was to be 'as far as the base', 1 'arrived'.",
            hint="one minus that.",
        )
    if near(value, 0.6):
        return wrong(
            "for base 0.8 and adapter 0.2 you get 0.6: the difference.",
            why="how much 0.6 is depends on how far the base was.",
            hint="divide by the base's distance.",
        )
    if near(value, 4.0) or near(value, -3.0):
        return wrong(
            f"for base 0.8 and adapter 0.2 you get {value:g}: the ratio is upside down.",
            why="the whole way is the base's distance.",
            hint="divide by the base's distance, not by the adapter's.",
        )
    return wrong(
        f"for base 0.8 and adapter 0.2 you get {value:.3f}.",
        why="of a way of 0.8, 0.2 is left.",
        hint="which share of 0.8 is done?",
    )


def beyond_noise(answer: Any) -> Grade:
    """A difference counts only against the difference that the seed makes."""
    if answer(0.6, 0.7, 0.9) is None:
        return wrong(
            "your function returns nothing.", why="it still has its placeholder.", hint="fill in the TODO."
        )
    cases = {
        (0.60, 0.70, 0.90): True,
        (0.60, 0.70, 0.65): False,
        (0.70, 0.60, 0.30): True,
        (0.60, 0.70, 0.76): False,
    }
    mine = {case: bool(answer(*case)) for case in cases}
    if mine == cases:
        return right("The same rule, with more seeds and an interval, is behind the figures of the studies.")
    if mine[0.60, 0.70, 0.65] and mine[0.60, 0.70, 0.76]:
        return wrong(
            "you call every difference one: 0.65 too, between two runs of the same rank at 0.60 and 0.70.",
            why="a change of the seed alone makes 0.1 here, so 0.05 is nothing.",
            hint="compute first how far the two runs of the same rank are apart.",
        )
    if not mine[0.70, 0.60, 0.30]:
        return wrong(
            "0.30 against 0.70 and 0.60 is no difference by your function.",
            why="worse is a difference too.",
            hint="take absolute values.",
        )
    if mine[0.60, 0.70, 0.76]:
        return wrong(
            "0.76 against 0.60 and 0.70 is a difference by your function.",
            why="it is 0.06 from the nearer run, and the seed alone makes 0.1.",
            hint="compare with the nearer of the two, not with the first or the mean alone.",
        )
    failed = next(case for case, true in cases.items() if mine[case] != true)
    return wrong(
        f"{failed[2]} against {failed[0]} and {failed[1]} should be {cases[failed]}.",
        why="it has to differ from both runs by more than these differ from each other.",
        hint="min(abs(…), abs(…)) > abs(…)",
    )


TASKS: Mapping[str, Grader] = {
    "smoothed": smoothed,
    "fell_by": fell_by,
    "held_out": held_out,
    "style_share": style_share,
    "beyond_noise": beyond_noise,
}
