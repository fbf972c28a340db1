"""Grades of lab 15, production settings."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, Grader, right, wrong
from detour.labs.hints import direction_of
from detour.labs.wording import Instead, described

NOTHING = Instead("None")
"""Answer where the task has no number, and asks for None."""

Row = Mapping[str, Any]


def _within(seconds: Sequence[float], share: float) -> float:
    return sorted(seconds)[math.ceil(share * len(seconds)) - 1]


def within_s(answer: Any) -> Grade:
    """Shares that fall on a request and between two, the whole, unsorted times and ties."""
    cases = [
        ([5.0, 1.0, 9.0, 3.0], 0.5),
        ([5.0, 1.0, 9.0, 3.0], 0.625),
        ([2.0, 8.0, 4.0, 6.0, 1.0, 7.0, 3.0, 50.0], 0.75),
        ([2.0, 8.0, 4.0, 6.0, 1.0, 7.0, 3.0, 50.0], 1.0),
        ([float(one) for one in range(20, 0, -1)], 0.95),
        ([7.0, 3.0, 3.0], 0.25),
        ([4.0], 0.5),
    ]
    return compare(
        answer,
        _within,
        cases,
        [
            Mistake(
                formula=lambda seconds, share: seconds[math.ceil(share * len(seconds)) - 1],
                what="you take the times in the order in which they were measured.",
                why="which request came first says nothing about how long it took.",
                hint="sorted(seconds).",
            ),
            Mistake(
                formula=lambda seconds, share: sorted(seconds)[
                    min(math.ceil(share * len(seconds)), len(seconds) - 1)
                ],
                what="you are one request too far.",
                why="a list counts from 0, so the third request has the index 2.",
                hint="subtract 1 from the number of requests.",
            ),
            Mistake(
                formula=lambda seconds, share: sorted(seconds)[math.ceil(share * len(seconds))],
                what="you are one request too far, and beyond the end where all have to be done.",
                why="a list counts from 0, so the third request has the index 2.",
                hint="subtract 1 from the number of requests.",
            ),
            Mistake(
                formula=lambda seconds, share: sorted(seconds)[math.floor(share * len(seconds)) - 1],
                what="fewer requests than asked for are done by then.",
                why="at least that share has to be done: part of a request does not count.",
                hint="math.ceil in place of rounding down.",
            ),
            Mistake(
                formula=lambda seconds, share: sorted(seconds, reverse=True)[
                    math.ceil(share * len(seconds)) - 1
                ],
                what="you begin with the slowest.",
                why="the quick ones are done first.",
                hint="sort upwards.",
            ),
            Mistake(
                formula=lambda seconds, share: float(np.quantile(seconds, share)),
                what="you give a time between two requests.",
                why="no request took that long; the smallest measured time that keeps the promise was asked for.",
                hint="one of the sorted times, without a mean of two.",
            ),
            Mistake(
                formula=lambda seconds, share: share * max(seconds),
                what="you take a share of the slowest time.",
                why="the share is one of the requests, not of the seconds.",
                hint="count requests: share · len(seconds).",
            ),
            Mistake(
                formula=lambda seconds, share: sum(seconds) / len(seconds),
                what="that is the mean.",
                why="a mean says nothing about those who wait longest.",
                hint="sort the times, and count as many as have to be done.",
            ),
        ],
        why="it is the time of that request, in order of time, with which the share is reached.",
        hint=direction_of(15, "within_s"),
        praise="A promise to nearly all is kept by the slow ones, not by the mean.",
    )


def _line(steps: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    each, fixed = np.polyfit(steps, seconds, 1)
    return float(fixed), float(each)


def line(answer: Any) -> Grade:
    """Points on a line, and points beside one."""
    cases = [
        ([4, 8, 12], [1.0, 1.6, 2.2]),
        ([2, 4, 8], [3.0, 5.0, 9.0]),
        ([10, 20, 50], [2.0, 7.0, 16.0]),
        ([1, 2, 3, 7], [0.9, 2.3, 2.8, 8.0]),
    ]

    def through_zero(steps: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
        x, y = np.asarray(steps, dtype=float), np.asarray(seconds)
        return 0.0, float((x * y).sum() / (x * x).sum())

    def by_ends(steps: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
        each = (seconds[-1] - seconds[0]) / (steps[-1] - steps[0])
        return seconds[0] - each * steps[0], each

    return compare(
        answer,
        _line,
        cases,
        [
            Mistake(
                formula=lambda steps, seconds: _line(steps, seconds)[::-1],
                what="the two numbers are exchanged.",
                why="polyfit gives the slope first; what costs the same whatever the steps was asked for first.",
                hint="each, fixed = np.polyfit(…), then return fixed, each.",
            ),
            Mistake(
                formula=through_zero,
                what="in your line nothing is fixed.",
                why="text encoders and VAE run once a picture, however few steps there are.",
                hint="a line with two numbers: np.polyfit(steps, seconds, 1).",
            ),
            Mistake(
                formula=by_ends,
                what="your line goes through the first and the last point alone.",
                why="each point was measured, and each is a little off.",
                hint="np.polyfit takes all of them.",
            ),
            Mistake(
                formula=lambda steps, seconds: _line(seconds, steps),
                what="your line says how many steps a second brings.",
                why="seconds were asked for, as they follow from the steps.",
                hint="steps come first in np.polyfit: they are what is chosen.",
            ),
            Mistake(
                formula=lambda steps, seconds: (
                    _line(steps, seconds)[0],
                    sum(seconds) / sum(steps),
                ),
                what="your price of a step has the fixed part in it.",
                why="all seconds over all steps shares the fixed part among the steps.",
                hint="the slope of the line.",
            ),
        ],
        why="seconds ≈ fixed + each · steps, for the line that comes closest to all points.",
        hint=direction_of(15, "line"),
        praise="With two numbers you know the time of any number of steps, and what fewer steps cannot make quicker.",
    )


def steps_within(answer: Any) -> Grade:
    """Whole and broken numbers of steps, a budget that is met exactly, and one below the fixed part."""
    cases = [
        (2.0, 0.5, 0.25),
        (2.0, 0.5, 0.4),
        (5.0, 1.0, 0.75),
        (0.25, 0.5, 0.25),
        (1.0, 1.0, 0.5),
        (9.0, 0.0, 2.0),
        (0.6, 0.5, 0.25),
    ]
    return compare(
        answer,
        lambda budget, fixed, each: max(0, math.floor((budget - fixed) / each)),
        cases,
        [
            Mistake(
                formula=lambda budget, fixed, each: math.floor(budget / each),
                what="you spend the fixed part on steps.",
                why="text encoders and VAE take their time, too.",
                hint="subtract fixed from the budget first.",
            ),
            Mistake(
                formula=lambda budget, fixed, each: math.floor((budget - fixed) / each),
                what="with too small a budget you get a negative number of steps.",
                why="none at all is the least.",
                hint="max(0, …).",
            ),
            Mistake(
                formula=lambda budget, fixed, each: max(0, (budget - fixed) / each),
                what="you give a part of a step.",
                why="a step is made or not.",
                hint="math.floor.",
            ),
            Mistake(
                formula=lambda budget, fixed, each: max(0, math.ceil((budget - fixed) / each)),
                what="your last step ends after the budget.",
                why="it has to be done within it.",
                hint="round down.",
            ),
            Mistake(
                formula=lambda budget, fixed, each: max(0, round((budget - fixed) / each)),
                what="you round to the nearest number, and so sometimes up.",
                why="a step that ends after the budget is one too many.",
                hint="math.floor.",
            ),
            Mistake(
                formula=lambda budget, fixed, each: max(0, math.ceil((budget - fixed) / each) - 1),
                what="where the last step ends exactly with the budget, you leave it out.",
                why="done at that moment is done within the budget.",
                hint="math.floor((budget_s - fixed) / each).",
            ),
            Mistake(
                formula=lambda budget, fixed, each: max(0, math.floor((budget + fixed) / each)),
                what="you add the fixed part to the budget.",
                why="it takes time, it does not give any.",
                hint="budget_s - fixed.",
            ),
            Mistake(
                formula=lambda budget, fixed, each: max(1, math.floor((budget - fixed) / each)),
                what="you make one step where there is no time for any.",
                why="the budget would not be kept; 0 says so.",
                hint="max(0, …).",
            ),
        ],
        why="what is left of the budget after the fixed part, in whole steps.",
        hint=direction_of(15, "steps_within"),
        praise="Where the fixed part alone takes the budget, no sampler helps: change the VAE or the encoders.",
    )


def _is_free(before: Row, after: Row, floor: float) -> bool:
    worse = after["seconds"] > before["seconds"] or after["bytes"] > before["bytes"]
    better = after["seconds"] < before["seconds"] or after["bytes"] < before["bytes"]
    return better and not worse and after["moved"] <= floor


def is_free(answer: Any) -> Grade:
    """Each of the three conditions broken alone, both at their edge, and both gains alone and together."""
    before = {"seconds": 4.0, "bytes": 100}

    def case(seconds: float, size: int, moved: float, floor: float = 1.0) -> tuple[Any, ...]:
        return before, {"seconds": seconds, "bytes": size, "moved": moved}, floor

    cases = [
        case(2.0, 50, 0.5), case(2.0, 100, 0.5), case(4.0, 50, 0.5), case(4.0, 100, 0.0), case(5.0, 50, 0.5),
        case(2.0, 120, 0.5), case(2.0, 50, 1.0), case(2.0, 50, 1.5), case(2.0, 50, 1.5, 2.0), case(5.0, 120, 0.0),
        case(4.0, 50, 3.0), case(5.0, 100, 0.0),
    ]  # fmt: skip

    def parts(before: Row, after: Row) -> tuple[bool, bool, bool, bool]:
        return (
            after["seconds"] < before["seconds"],
            after["bytes"] < before["bytes"],
            after["seconds"] > before["seconds"],
            after["bytes"] > before["bytes"],
        )

    def both(before: Row, after: Row, floor: float) -> bool:
        quicker, smaller, _, _ = parts(before, after)
        return quicker and smaller and bool(after["moved"] <= floor)

    def either(before: Row, after: Row, floor: float) -> bool:
        quicker, smaller, _, _ = parts(before, after)
        return (quicker or smaller) and bool(after["moved"] <= floor)

    def not_worse(before: Row, after: Row, floor: float) -> bool:
        _, _, slower, larger = parts(before, after)
        return not slower and not larger and bool(after["moved"] <= floor)

    return compare(
        answer,
        _is_free,
        cases,
        [
            Mistake(
                formula=both,
                what="you ask for both gains at once.",
                why="half of the memory at the same speed is free as well.",
                hint="one of them smaller, neither larger.",
            ),
            Mistake(
                formula=either,
                what="one gain pays for a loss in your answer.",
                why="quicker with more memory is a trade: somebody has to decide on it.",
                hint="neither seconds nor bytes may be larger.",
            ),
            Mistake(
                formula=not_worse,
                what="a change that brings nothing is free in your answer.",
                why="what changes nothing need not be switched on.",
                hint="seconds or bytes has to be smaller.",
            ),
            Mistake(
                formula=lambda before, after, floor: _is_free(before, {**after, "moved": 0.0}, floor),
                what="you do not look at the pictures.",
                why="ten steps fewer are quicker, too, and draw another picture.",
                hint='after["moved"] <= floor.',
            ),
            Mistake(
                formula=lambda before, after, floor: (
                    _is_free(before, after, floor) and after["moved"] < floor
                ),
                what="a change that moves exactly as far as the floor is not free in your answer.",
                why="no further than the floor includes it.",
                hint="<= in place of <.",
            ),
            Mistake(
                formula=lambda before, after, floor: parts(before, after)[0] and after["moved"] <= floor,
                what="you look at the seconds alone.",
                why="memory is what a card runs out of.",
                hint="bytes may not be larger, and smaller bytes at the same seconds are free.",
            ),
            Mistake(
                formula=lambda before, after, floor: not _is_free(before, after, floor),
                what="your answer is the opposite.",
                why="True was to mean that the change costs nothing.",
                hint="drop the not.",
            ),
            Mistake(
                formula=lambda before, after, floor: (
                    _is_free(before, {**after, "moved": 0.0}, floor) and after["moved"] > floor
                ),
                what="you want the pictures to move.",
                why="free is what leaves them as they are.",
                hint='after["moved"] <= floor.',
            ),
        ],
        why="neither larger, one of them smaller, and the pictures no further than the floor.",
        hint=direction_of(15, "is_free"),
        praise="What is free is switched on first; only what is left is a trade.",
    )


def activation_bytes(answer: Any) -> Grade:
    """Batches of one and more, odd sides, both widths of a number, whole and sliced."""
    cases = [
        (4, 8, 16, 4, False),
        (4, 8, 16, 4, True),
        (1, 3, 7, 2, False),
        (1, 3, 7, 2, True),
        (6, 5, 10, 2, False),
        (6, 5, 10, 2, True),
    ]

    def whole(pictures: int, channels: int, side: int, each: int) -> float:
        return pictures * channels * side * side * each

    def over(batch: int, change: Callable[[int], float], sliced: bool) -> float:
        return change(1 if sliced else batch)

    return compare(
        answer,
        lambda batch, channels, side, each, sliced: whole(1 if sliced else batch, channels, side, each),
        cases,
        [
            Mistake(
                formula=lambda batch, channels, side, each, sliced: whole(batch, channels, side, each),
                what="slicing changes nothing in your answer.",
                why="with it one picture of the batch is in memory at a time.",
                hint="1 in place of batch where sliced.",
            ),
            Mistake(
                formula=lambda batch, channels, side, each, sliced: whole(
                    batch if sliced else 1, channels, side, each
                ),
                what="you have the whole batch in memory where it is sliced.",
                why="slicing decodes the pictures one after the other.",
                hint="1 if sliced else batch.",
            ),
            Mistake(
                formula=lambda batch, channels, side, each, sliced: over(
                    batch, lambda pictures: pictures * channels * side * each, sliced
                ),
                what="your picture is one line of pixels.",
                why="it has a height and a width.",
                hint="side_px * side_px.",
            ),
            Mistake(
                formula=lambda batch, channels, side, each, sliced: over(
                    batch, lambda pictures: pictures * channels * side * side, sliced
                ),
                what="you count numbers, not bytes.",
                why="a number in float32 takes four bytes, in half precision two.",
                hint="times each.",
            ),
            Mistake(
                formula=lambda batch, channels, side, each, sliced: over(
                    batch, lambda pictures: pictures * 3 * side * side * each, sliced
                ),
                what="you count a picture's three colours.",
                why="inside the VAE a pixel has many channels; the three come with its last layer.",
                hint="channels in place of 3.",
            ),
            Mistake(
                formula=lambda batch, channels, side, each, sliced: over(
                    batch, lambda pictures: pictures * side * side * each, sliced
                ),
                what="the channels are missing.",
                why="each pixel has as many numbers as there are channels.",
                hint="times channels.",
            ),
            Mistake(
                formula=lambda batch, channels, side, each, sliced: over(
                    batch, lambda pictures: pictures * channels * side * side * 4, sliced
                ),
                what="each number has four bytes in your answer, whatever is asked for.",
                why="that is float32; in half precision it is two.",
                hint="times each.",
            ),
            Mistake(
                formula=lambda batch, channels, side, each, sliced: (
                    whole(batch, channels, side, each) / (2 if sliced else 1)
                ),
                what="slicing halves the batch in your answer.",
                why="one picture is left, however many there were.",
                hint="1 in place of batch where sliced.",
            ),
        ],
        why="numbers of one picture, times its bytes, times the pictures in memory at once.",
        hint=direction_of(15, "activation_bytes"),
        praise="It grows with the square of the side: what fits at 512 px may not fit at 1024 px.",
    )


def _batch(rows: Sequence[Row], budget_s: float) -> float | Instead:
    fitting = [row for row in rows if row["seconds"] <= budget_s]
    if not fitting:
        return NOTHING
    return float(max(fitting, key=lambda row: row["batch"] / row["seconds"])["batch"])


def batch_for(answer: Any) -> Grade:
    """Budgets below, at and above what batches take; larger batches that are no better; none that fits."""
    if not callable(answer):
        return compare(answer, max, [], why="", hint="")

    def rows(*pairs: tuple[int, float]) -> list[dict[str, Any]]:
        return [{"batch": batch, "seconds": seconds} for batch, seconds in pairs]

    growing = rows((1, 1.0), (2, 1.5), (4, 2.5), (8, 4.5))
    flat = rows((4, 4.0), (8, 9.0), (1, 0.5), (2, 1.25))
    cases = [
        (growing, 2.0), (growing, 2.5), (growing, 9.0), (growing, 0.5), (growing, 1.0),
        (flat, 9.0), (flat, 0.25), (rows((2, 3.0)), 3.0), (rows((8, 1.0), (4, 0.75)), 0.9),
    ]  # fmt: skip
    if all(answer(*case) is None for case in cases):
        return wrong(
            "your function returns nothing.",
            why="a function without `return` gives None, and so does its placeholder.",
            hint="fill in the TODO; None is right only where no batch fits.",
        )

    def marked(*given: Any) -> Any:
        found = answer(*given)
        return NOTHING if found is None else found

    def best(rows: Sequence[Row], budget_s: float, key: Callable[[Row], float]) -> float | Instead:
        fitting = [row for row in rows if row["seconds"] <= budget_s]
        return float(max(fitting, key=key)["batch"]) if fitting else NOTHING

    return compare(
        marked,
        _batch,
        cases,
        [
            Mistake(
                formula=lambda rows, budget_s: float(
                    max(rows, key=lambda row: row["batch"] / row["seconds"])["batch"]
                ),
                what="the budget is not in your answer.",
                why="everyone waits until the whole batch is done.",
                hint="leave out the rows whose seconds are above budget_s first.",
            ),
            Mistake(
                formula=lambda rows, budget_s: best(rows, budget_s, lambda row: row["batch"]),
                what="you take the largest batch that fits.",
                why="where a larger batch draws fewer pictures a second, it only makes people wait.",
                hint="compare batch / seconds.",
            ),
            Mistake(
                formula=lambda rows, budget_s: best(rows, budget_s, lambda row: -row["seconds"]),
                what="you take the quickest batch.",
                why="within the budget nobody gains by less; pictures a second pay the machine.",
                hint="compare batch / seconds.",
            ),
            Mistake(
                formula=lambda rows, budget_s: best(
                    rows, budget_s, lambda row: -row["batch"] / row["seconds"]
                ),
                what="you take the one with the fewest pictures a second.",
                why="the most were asked for.",
                hint="max of batch / seconds.",
            ),
            Mistake(
                formula=lambda rows, budget_s: _batch(
                    [
                        {**row, "seconds": row["seconds"] / row["batch"], "batch": row["batch"]}
                        for row in rows
                    ],
                    budget_s,
                ),
                what="you hold a picture's share of the time against the budget.",
                why="a batch is done as a whole: who asked for one picture waits for all of them.",
                hint='row["seconds"] <= budget_s, not divided by the batch.',
            ),
            Mistake(
                formula=lambda rows, budget_s: _batch(
                    [row for row in rows if row["seconds"] < budget_s], budget_s
                ),
                what="a batch that takes exactly the budget does not fit in your answer.",
                why="done at that moment is done within the budget.",
                hint="<= in place of <.",
            ),
        ],
        why="among the batches that are done within the budget, the one with the most pictures a second.",
        hint=direction_of(15, "batch_for"),
        praise="Throughput pays the machine, latency keeps the promise: first the promise, then the machine.",
    )


def choice(answer: Mapping[str, Any]) -> Grade:
    """The name of the nearest row among those within the budget."""
    table, budget_s, given = answer["table"], answer["budget_s"], answer["choice"]
    if given is None:
        return wrong("there is no name yet.", why="the table has it.", hint="the text in the first column.")
    rows = {row["settings"]: row for row in table}
    if not isinstance(given, str) or given not in rows:
        return wrong(
            f"{described(given)} is none of the settings.",
            why="only what was measured can be read from the table.",
            hint=f"one of: {'; '.join(rows)}.",
        )
    row = rows[given]
    if row["seconds"] > budget_s:
        return wrong(
            f"{given} takes {row['seconds']:.2f} s, and the budget is {budget_s:.2f} s.",
            why="a promise that is not kept is no setting to serve.",
            hint="leave out the rows above the budget.",
        )
    best = min((one for one in table if one["seconds"] <= budget_s), key=lambda one: one["distance"])
    if row["distance"] > best["distance"]:
        return wrong(
            f"within the budget something comes nearer than {given} ({row['distance']:.2f} from the long walk).",
            why="time that is left in the budget is worth nothing to who waits.",
            hint=f"there is a row with {best['distance']:.2f} in it.",
        )
    return right("Nearest within the budget. What it draws of your own prompts, look at before you serve it.")


TASKS: Mapping[str, Grader] = {
    "within_s": within_s,
    "line": line,
    "steps_within": steps_within,
    "is_free": is_free,
    "activation_bytes": activation_bytes,
    "batch_for": batch_for,
    "choice": choice,
}
