"""Answers to lab 17, on a table that stands in for a measured one."""

import math
import statistics
from fractions import Fraction
from typing import Any

import numpy as np

from tests.labs.answers import AlsoRight, Answers

TABLE = [
    {"steps": 2, "accepted": 0.1, "drawn": 0.001, "cost": 0.03},
    {"steps": 4, "accepted": 0.8, "drawn": 0.002, "cost": 0.005},
    {"steps": 8, "accepted": 0.9, "drawn": 0.004, "cost": 0.0067},
    {"steps": 16, "accepted": 1.0, "drawn": 0.008, "cost": 0.01},
]


def read(steps: Any) -> dict[str, Any]:
    return {"table": TABLE, "cheapest": steps}


def by_bill(options: Any, pictures: Any) -> str:
    bills = sorted((fixed + pictures * each, name) for name, (fixed, each) in options.items())
    return str(bills[0][1])


ANSWERS: Answers = {
    "seconds_a_picture": (
        lambda times, pictures: statistics.median(times[1:]) / pictures,
        [
            (lambda times, pictures: statistics.median(times) / pictures, "first time is still"),
            (lambda times, pictures: sum(times[1:]) / len(times[1:]) / pictures, "the mean"),
            (lambda times, pictures: statistics.median(times[1:]), "time of a batch"),
            (lambda times, pictures: min(times[1:]) / pictures, "quickest"),
            (lambda times, pictures: sum(times[1:]) / pictures, "all batches"),
            (lambda times, pictures: sum(times) / (len(times) * pictures), "all of the time"),
            (lambda times, pictures: 0.5, "whatever it is given"),
            (lambda times, pictures: times[1:], "one number"),
        ],
    ),
    "cost_drawn": (
        lambda seconds, price, busy: seconds * price / 3600 / busy,
        [
            (lambda seconds, price, busy: seconds * price / 3600 * busy, "multiply by the busy share"),
            (lambda seconds, price, busy: seconds * price / 3600, "waiting is not paid"),
            (lambda seconds, price, busy: seconds * price / 60 / busy, "60 seconds"),
            (lambda seconds, price, busy: seconds * price / busy, "price of an hour"),
            (lambda seconds, price, busy: seconds * price / 3600 * (2 - busy), "idle share on top"),
            (lambda seconds, price, busy: round(seconds * price / 3600 / busy), "was expected"),
            (lambda seconds, price: seconds * price, "3 arguments"),
            (lambda seconds, price, busy: f"{seconds}", "one number"),
        ],
    ),
    "cost_accepted": (
        lambda drawn, review, accepted: (drawn + review) / accepted if accepted else math.inf,
        [
            (lambda d, r, a: (d + r) * (2 - a) if a else math.inf, "rejected share on top"),
            (lambda d, r, a: (d + r) * a if a else math.inf, "multiply by the accepted share"),
            (lambda d, r, a: d / a + r if a else math.inf, "review the accepted pictures only"),
            (lambda d, r, a: d / a if a else math.inf, "nobody is paid"),
            (lambda d, r, a: d + r, "rejects cost nothing"),
            (lambda d, r, a: (d + r) / a if a else 0.0, "free"),
            (lambda d, r, a: (d + r) / a, "divides by zero"),
            (lambda d, r, a: (d + r) / a if a else None, "returns nothing"),
        ],
    ),
    "cheapest": (
        read(4),
        [
            (read(2), "cheapest to draw"),
            (read(16), "accepted most"),
            (read(8), "an accepted picture of 8 steps"),
            (read(0.005), "none of the numbers of steps"),
            (read(None), "no number yet"),
            (read("four"), "none of the numbers of steps"),
            (read(3), "none of the numbers of steps"),
            (read(50), "none of the numbers of steps"),
        ],
    ),
    "break_even": (
        lambda training, own, bought: math.ceil(training / (bought - own)) if bought > own else None,
        [
            (lambda training, own, bought: math.ceil(training / bought), "cost something too"),
            (
                lambda training, own, bought: training / (bought - own) if bought > own else None,
                "part of a picture",
            ),
            (
                lambda training, own, bought: training // (bought - own) if bought > own else None,
                "round down",
            ),
            (
                lambda training, own, bought: training // (bought - own) + 1 if bought > own else None,
                "one picture too",
            ),
            (lambda training, own, bought: math.ceil(training / (bought - own)), "no answer where"),
            (
                lambda training, own, bought: (
                    math.ceil(training / abs(bought - own)) if bought != own else None
                ),
                "counts as a gain",
            ),
            (
                lambda training, own, bought: math.ceil(training / (bought + own)) if bought > own else None,
                "add the two",
            ),
            (lambda training, own, bought: None, "returns nothing"),
        ],
    ),
    "choose": (
        by_bill,
        [
            (
                lambda options, pictures: min(options, key=lambda name: options[name][1]),
                "price of a picture alone",
            ),
            (lambda options, pictures: min(options, key=lambda name: options[name][0]), "fixed price alone"),
            (
                lambda options, pictures: min(options, key=lambda name: sum(options[name])),
                "number of pictures is not",
            ),
            (
                lambda options, pictures: max(
                    options, key=lambda name: options[name][0] + pictures * options[name][1]
                ),
                "dearest",
            ),
            (lambda options, pictures: 3.0, "no option's name"),
            (lambda options, pictures: min(fixed for fixed, _ in options.values()), "no option's name"),
            (lambda options, pictures: next(iter(options)), "whatever it is given"),
            (lambda options, pictures: None, "no option's name"),
        ],
    ),
}

ALSO_RIGHT: AlsoRight = {
    "seconds_a_picture": [
        lambda times, pictures: float(np.median(times[1:])) / pictures,
        lambda times, pictures: np.float32(statistics.median([one / pictures for one in times[1:]])),
    ],
    "cost_drawn": [
        lambda seconds, price, busy: seconds / 3600 * price * (1 / busy),
        lambda seconds, price, busy: float(Fraction(seconds) * Fraction(price) / 3600) / busy,
    ],
    "cost_accepted": [
        lambda drawn, review, accepted: (
            float("inf") if accepted == 0 else drawn / accepted + review / accepted
        ),
        lambda drawn, review, accepted: (
            np.float64(drawn + review) * (1 / accepted) if accepted > 0 else np.inf
        ),
    ],
    "cheapest": [read(4.0), read(np.int64(4))],
    "break_even": [
        lambda training, own, bought: (
            None if own >= bought else next(n for n in range(1000) if training + n * own <= n * bought)
        ),
        lambda training, own, bought: int(np.ceil(training / (bought - own))) if bought - own > 0 else None,
    ],
    "choose": [
        lambda options, pictures: min(
            (fixed + each * pictures, name) for name, (fixed, each) in options.items()
        )[1],
    ],
}
