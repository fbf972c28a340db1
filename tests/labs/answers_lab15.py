"""Answers to lab 15, on a table that stands in for a measured one."""

import math
from typing import Any

import numpy as np

from tests.labs.answers import AlsoRight, Answers

TABLE = [
    {"settings": "dpm++, 2 steps", "seconds": 0.4, "distance": 12.0},
    {"settings": "dpm++, 4 steps", "seconds": 0.6, "distance": 3.5},
    {"settings": "dpm++, 8 steps", "seconds": 1.2, "distance": 1.0},
    {"settings": "euler, 4 steps", "seconds": 0.6, "distance": 5.0},
]


def read(name: Any) -> dict[str, Any]:
    return {"table": TABLE, "budget_s": 0.9, "choice": name}


def within(seconds: Any, share: Any) -> float:
    return float(sorted(seconds)[math.ceil(share * len(seconds)) - 1])


def fit(steps: Any, seconds: Any) -> tuple[float, float]:
    each, fixed = np.polyfit(steps, seconds, 1)
    return fixed, each


def whole_steps(budget: float, fixed: float, each: float) -> int:
    return max(0, math.floor((budget - fixed) / each))


def free(before: Any, after: Any, floor: float) -> bool:
    worse = after["seconds"] > before["seconds"] or after["bytes"] > before["bytes"]
    better = after["seconds"] < before["seconds"] or after["bytes"] < before["bytes"]
    return bool(better and not worse and after["moved"] <= floor)


def tensor(batch: int, channels: int, side: int, each: int, sliced: bool) -> int:
    return (1 if sliced else batch) * channels * side * side * each


def by_rate(rows: Any, budget: float) -> Any:
    fitting = [row for row in rows if row["seconds"] <= budget]
    return max(fitting, key=lambda row: row["batch"] / row["seconds"])["batch"] if fitting else None


def counted(rows: Any, budget: float) -> Any:
    best, batch = 0.0, None
    for row in rows:
        if row["seconds"] <= budget and row["batch"] / row["seconds"] > best:
            best, batch = row["batch"] / row["seconds"], row["batch"]
    return batch


ANSWERS: Answers = {
    "within_s": (
        within,
        [
            (lambda seconds, share: seconds[math.ceil(share * len(seconds)) - 1], "order in which they"),
            (lambda seconds, share: sorted(seconds)[math.ceil(share * len(seconds))], "one request too far"),
            (lambda seconds, share: sorted(seconds)[int(share * len(seconds)) - 1], "fewer requests"),
            (lambda seconds, share: within([-one for one in seconds], share) * -1, "begin with the slowest"),
            (lambda seconds, share: float(np.quantile(seconds, share)), "between two requests"),
            (lambda seconds, share: share * max(seconds), "share of the slowest"),
            (lambda seconds, share: sum(seconds) / len(seconds), "the mean"),
            (lambda seconds, share: seconds, "one number"),
        ],
    ),
    "line": (
        fit,
        [
            (lambda steps, seconds: np.polyfit(steps, seconds, 1), "exchanged"),
            (lambda steps, seconds: (0.0, np.dot(steps, seconds) / np.dot(steps, steps)), "nothing is fixed"),
            (
                lambda steps, seconds: (
                    seconds[0] - steps[0] * (seconds[-1] - seconds[0]) / (steps[-1] - steps[0]),
                    (seconds[-1] - seconds[0]) / (steps[-1] - steps[0]),
                ),
                "first and the last point",
            ),
            (lambda steps, seconds: fit(seconds, steps), "how many steps a second"),
            (lambda steps, seconds: (fit(steps, seconds)[0], sum(seconds) / sum(steps)), "fixed part in it"),
            (lambda steps, seconds: np.polyfit(steps, seconds, 2), "2 values; 3 came back"),
            (lambda steps, seconds: fit(steps, seconds)[1], "2 values"),
            (lambda steps, seconds: (1.0, 1.0), "each · steps"),
        ],
    ),
    "steps_within": (
        whole_steps,
        [
            (lambda budget, fixed, each: math.floor(budget / each), "fixed part on steps"),
            (lambda budget, fixed, each: math.floor((budget - fixed) / each), "negative number"),
            (lambda budget, fixed, each: max(0, (budget - fixed) / each), "part of a step"),
            (lambda budget, fixed, each: max(0, math.ceil((budget - fixed) / each)), "ends after the budget"),
            (lambda budget, fixed, each: max(0, round((budget - fixed) / each)), "nearest number"),
            (
                lambda budget, fixed, each: max(0, math.ceil((budget - fixed) / each) - 1),
                "exactly with the budget",
            ),
            (lambda budget, fixed, each: max(0, math.floor((budget + fixed) / each)), "add the fixed part"),
            (lambda budget, fixed, each: max(1, whole_steps(budget, fixed, each)), "no time for any"),
        ],
    ),
    "is_free": (
        free,
        [
            (
                lambda before, after, floor: (
                    after["seconds"] < before["seconds"]
                    and after["bytes"] < before["bytes"]
                    and after["moved"] <= floor
                ),
                "both gains at once",
            ),
            (
                lambda before, after, floor: (
                    (after["seconds"] < before["seconds"] or after["bytes"] < before["bytes"])
                    and after["moved"] <= floor
                ),
                "one gain pays for a loss",
            ),
            (
                lambda before, after, floor: (
                    after["seconds"] <= before["seconds"]
                    and after["bytes"] <= before["bytes"]
                    and after["moved"] <= floor
                ),
                "brings nothing",
            ),
            (
                lambda before, after, floor: free(before, {**after, "moved": 0}, floor),
                "do not look at the pictures",
            ),
            (
                lambda before, after, floor: free(before, after, floor) and after["moved"] < floor,
                "exactly as far as the floor",
            ),
            (
                lambda before, after, floor: after["seconds"] < before["seconds"] and after["moved"] <= floor,
                "seconds alone",
            ),
            (lambda before, after, floor: not free(before, after, floor), "opposite"),
            (lambda before, after, floor: "yes", "True or False"),
        ],
    ),
    "activation_bytes": (
        tensor,
        [
            (
                lambda batch, channels, side, each, sliced: batch * channels * side**2 * each,
                "changes nothing",
            ),
            (
                lambda batch, channels, side, each, sliced: tensor(batch, channels, side, each, not sliced),
                "whole batch in memory",
            ),
            (
                lambda batch, channels, side, each, sliced: (
                    tensor(batch, channels, side, each, sliced) // side
                ),
                "one line of pixels",
            ),
            (
                lambda batch, channels, side, each, sliced: tensor(batch, channels, side, 1, sliced),
                "count numbers",
            ),
            (
                lambda batch, channels, side, each, sliced: tensor(batch, 3, side, each, sliced),
                "three colours",
            ),
            (
                lambda batch, channels, side, each, sliced: tensor(batch, 1, side, each, sliced),
                "channels are missing",
            ),
            (
                lambda batch, channels, side, each, sliced: tensor(batch, channels, side, 4, sliced),
                "four bytes",
            ),
            (
                lambda batch, channels, side, each, sliced: (
                    tensor(batch, channels, side, each, False) / (2 if sliced else 1)
                ),
                "halves the batch",
            ),
        ],
    ),
    "batch_for": (
        by_rate,
        [
            (lambda rows, budget: by_rate(rows, math.inf), "budget is not in"),
            (
                lambda rows, budget: max(
                    (row["batch"] for row in rows if row["seconds"] <= budget), default=None
                ),
                "largest batch that fits",
            ),
            (
                lambda rows, budget: min(
                    ((row["seconds"], row["batch"]) for row in rows if row["seconds"] <= budget),
                    default=(0, None),
                )[1],
                "quickest batch",
            ),
            (
                lambda rows, budget: min(
                    (
                        (row["batch"] / row["seconds"], row["batch"])
                        for row in rows
                        if row["seconds"] <= budget
                    ),
                    default=(0, None),
                )[1],
                "fewest pictures a second",
            ),
            (
                lambda rows, budget: by_rate(
                    [{**row, "seconds": row["seconds"] / row["batch"]} for row in rows], budget
                ),
                "share of the time",
            ),
            (
                lambda rows, budget: by_rate([row for row in rows if row["seconds"] < budget], budget),
                "takes exactly",
            ),
            (lambda rows, budget: None, "returns nothing"),
            (lambda rows, budget: rows, "one number"),
        ],
    ),
    "choice": (
        read("dpm++, 4 steps"),
        [
            (read("dpm++, 8 steps"), "takes 1.20 s"),
            (read("dpm++, 2 steps"), "comes nearer than dpm++, 2 steps"),
            (read("euler, 4 steps"), "comes nearer than euler, 4 steps"),
            (read(None), "no name yet"),
            (read(4), "none of the settings"),
            (read("4 steps"), "none of the settings"),
            (read("dpm++"), "none of the settings"),
            (read(["dpm++, 4 steps"]), "none of the settings"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "within_s": [
        lambda seconds, share: min(
            one for one in seconds if sum(other <= one for other in seconds) >= share * len(seconds)
        ),
        lambda seconds, share: np.quantile(seconds, share, method="inverted_cdf"),
    ],
    "line": [
        lambda steps, seconds: list(
            np.linalg.lstsq(np.stack([np.ones(len(steps)), steps], axis=1), np.array(seconds), rcond=None)[0]
        ),
        lambda steps, seconds: np.polynomial.Polynomial.fit(steps, seconds, 1).convert().coef,
    ],
    "steps_within": [
        lambda budget, fixed, each: int((budget - fixed) // each) if budget > fixed else 0,
        lambda budget, fixed, each: sum(fixed + (one + 1) * each <= budget for one in range(100)),
    ],
    "is_free": [
        lambda before, after, floor: (
            all(after[name] <= before[name] for name in before)
            and any(after[name] < before[name] for name in before)
            and not after["moved"] > floor
        ),
        lambda before, after, floor: np.bool_(free(before, after, floor)),
    ],
    "activation_bytes": [
        lambda batch, channels, side, each, sliced: each * channels * side**2 * (batch, 1)[sliced],
        lambda batch, channels, side, each, sliced: (
            np.zeros((1 if sliced else batch, channels, side, side), dtype=f"f{each}").nbytes
        ),
    ],
    "batch_for": [counted, lambda rows, budget: by_rate(rows[::-1], budget)],
    "choice": [read("".join(["dpm++", ", ", "4 steps"]))],
}
