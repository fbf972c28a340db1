"""Grades of lab 17, cost."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detour.labs.comparing import Mistake, compare
from detour.labs.grading import Grade, Grader, right, wrong
from detour.labs.hints import direction_of
from detour.labs.wording import Instead, described

NOTHING = Instead("None")
"""Answer where the task has no number, and asks for None."""


def _seconds(times: Sequence[float], pictures: int) -> float:
    return statistics.median(times[1:]) / pictures


def seconds_a_picture(answer: Any) -> Grade:
    """Median without the first time, with even and odd counts, an outlier, and a first time that is not the largest."""
    cases = [
        ([9.0, 2.0, 2.5, 6.0], 4),
        ([1.0, 3.0, 2.0, 40.0, 2.5], 2),
        ([5.0, 1.5, 2.5], 1),
        ([0.5, 4.0, 8.0, 6.0], 8),
        ([7.0, 7.5], 3),
    ]
    return compare(
        answer,
        _seconds,
        cases,
        [
            Mistake(
                formula=lambda times, pictures: statistics.median(times) / pictures,
                what="the first time is still among them.",
                why="the first batch warms the process up, and no later one is like it.",
                hint="begin with the second time: seconds[1:].",
            ),
            Mistake(
                formula=lambda times, pictures: statistics.mean(times[1:]) / pictures,
                what="you take the mean.",
                why="one batch that the computer was kept from moves a mean as far as it likes, and a median hardly.",
                hint="statistics.median.",
            ),
            Mistake(
                formula=lambda times, pictures: statistics.median(times[1:]),
                what="that is the time of a batch.",
                why="a batch has several pictures, which share its time.",
                hint="divide by the pictures of a batch.",
            ),
            Mistake(
                formula=lambda times, pictures: min(times[1:]) / pictures,
                what="you take the quickest batch.",
                why="that says what the machine can do when nothing disturbs it, and no bill is written for that.",
                hint="statistics.median.",
            ),
            Mistake(
                formula=lambda times, pictures: sum(times[1:]) / pictures,
                what="you share the time of all batches among the pictures of one.",
                why="the other batches drew pictures of their own.",
                hint="take the median batch, then divide by its pictures.",
            ),
            Mistake(
                formula=lambda times, pictures: sum(times) / (len(times) * pictures),
                what="that is all of the time over all of the pictures, the first batch with it.",
                why="the first batch warms the process up; in a service it is drawn once a day.",
                hint="leave the first out, and take the median of the others.",
            ),
        ],
        why="it is the median of the times without the first, shared among a batch's pictures.",
        hint=direction_of(17, "seconds_a_picture"),
        praise="Busy machines give single times that are far off; the median lets them be.",
    )


def cost_drawn(answer: Any) -> Grade:
    """The price of a second, the seconds, and the waiting that is paid beside them."""
    return compare(
        answer,
        lambda seconds, price, busy: seconds * price / 3600 / busy,
        [(600.0, 36.0, 1.0), (90.0, 12.0, 0.25), (1800.0, 2.5, 0.5), (36.0, 400.0, 0.9), (720.0, 7.0, 0.1)],
        [
            Mistake(
                formula=lambda seconds, price, busy: seconds * price / 3600 * busy,
                what="you multiply by the busy share.",
                why="waiting makes a picture dearer, not cheaper: the hours in which nothing is drawn are paid too.",
                hint="divide by busy.",
            ),
            Mistake(
                formula=lambda seconds, price, busy: seconds * price / 3600,
                what="the waiting is not paid.",
                why="the machine is rented by the hour, and it draws only a share of it.",
                hint="divide by busy.",
            ),
            Mistake(
                formula=lambda seconds, price, busy: seconds * price / 60 / busy,
                what="your hour has 60 seconds.",
                why="the price is one of an hour, the time is in seconds.",
                hint="an hour has 3600 seconds.",
            ),
            Mistake(
                formula=lambda seconds, price, busy: seconds * price / busy,
                what="you take the price of an hour for that of a second.",
                why="the price is one of an hour, the time is in seconds.",
                hint="divide the price by 3600.",
            ),
            Mistake(
                formula=lambda seconds, price, busy: (
                    seconds * price / 3600 / (1 - busy) if busy < 1 else math.inf
                ),
                what="you divide by the share in which nothing is drawn.",
                why="busy is the share that draws.",
                hint="divide by busy itself.",
            ),
            Mistake(
                formula=lambda seconds, price, busy: seconds * price / 3600 * (2 - busy),
                what="you add the idle share on top.",
                why="at a quarter busy, one paid hour brings a quarter of the pictures: each costs four times as much.",
                hint="divide by busy.",
            ),
        ],
        why="seconds · price of an hour / 3600, over the share of the time that draws.",
        hint=direction_of(17, "cost_drawn"),
        praise="An idle machine is paid as well: the busy share counts as much as the sampler.",
    )


def cost_accepted(answer: Any) -> Grade:
    """What is paid for all, shared among those that are kept; no acceptance, no finite cost."""
    if not callable(answer):
        return compare(answer, max, [], why="", hint="")
    endless = Instead("inf")

    def marked(*given: float) -> Any:
        found = answer(*given)
        return endless if isinstance(found, int | float) and math.isinf(found) and found > 0 else found

    return compare(
        marked,
        lambda drawn, review, accepted: (drawn + review) / accepted if accepted else endless,
        [(3.0, 1.0, 0.5), (2.0, 0.0, 1.0), (1.5, 4.0, 0.25), (7.0, 0.5, 0.9), (2.0, 3.0, 0.0)],
        [
            Mistake(
                formula=lambda drawn, review, accepted: (
                    (drawn + review) * (2 - accepted) if accepted else endless
                ),
                what="you add the rejected share on top.",
                why="to keep one of two, two have to be drawn: that is twice, not half as much again.",
                hint="divide by the share that is kept.",
            ),
            Mistake(
                formula=lambda drawn, review, accepted: (drawn + review) * accepted if accepted else endless,
                what="you multiply by the accepted share.",
                why="rejects make an accepted picture dearer.",
                hint="divide by the share that is kept.",
            ),
            Mistake(
                formula=lambda drawn, review, accepted: drawn / accepted + review if accepted else endless,
                what="you review the accepted pictures only.",
                why="somebody has to look at a picture before it is thrown away.",
                hint="review is paid for every picture: it goes into the sum that is divided.",
            ),
            Mistake(
                formula=lambda drawn, review, accepted: drawn / accepted if accepted else endless,
                what="nobody is paid for looking.",
                why="review is often the larger part of the bill.",
                hint="add review to drawn first.",
            ),
            Mistake(
                formula=lambda drawn, review, accepted: drawn + review,
                what="rejects cost nothing in your sum.",
                why="what was thrown away was drawn and looked at as well.",
                hint="divide by the share that is kept.",
            ),
            Mistake(
                formula=lambda drawn, review, accepted: (drawn + review) / accepted if accepted else 0.0,
                what="where nothing is accepted, your picture is free.",
                why="no money buys an accepted picture there, so no finite cost is right.",
                hint='return float("inf") for a share of 0.',
            ),
            Mistake(
                formula=lambda drawn, review, accepted: (drawn + review) / accepted,
                what="your function divides by zero where nothing is accepted.",
                why="a share of 0 happens: a sampler with too few steps, a prompt that is too hard.",
                hint='return float("inf") for a share of 0.',
            ),
        ],
        why="what is paid for every picture, shared among those that are kept.",
        hint=direction_of(17, "cost_accepted"),
        praise="A picture that is cheap to draw and seldom kept is a dear one.",
    )


def cheapest(answer: Mapping[str, Any]) -> Grade:
    """The number of steps of the row with the smallest cost."""
    table, given = answer["table"], answer["cheapest"]
    if given is None:
        return wrong("there is no number yet.", why="the table has it.", hint="look at the last column.")
    rows = {row["steps"]: row for row in table}
    if given not in rows:
        return wrong(
            f"{described(given)} is none of the numbers of steps.",
            why="only what was drawn can be read from the table.",
            hint=f"one of {', '.join(map(str, rows))}.",
        )
    best = min(table, key=lambda row: row["cost"])
    if rows[given]["cost"] == best["cost"]:
        return right("The cheapest to accept; whether also the cheapest to draw, the second column says.")
    reasons = {
        max(table, key=lambda row: row["cost"])["steps"]: "that is the dearest.",
        max(table, key=lambda row: row["accepted"])["steps"]: "that is the one that is accepted most.",
        min(table, key=lambda row: row["drawn"])["steps"]: "that is the cheapest to draw.",
    }
    return wrong(
        reasons.get(given, f"an accepted picture of {given} steps costs {rows[given]['cost']:.4g}."),
        why="what counts is what somebody can use: the last column.",
        hint=direction_of(17, "cheapest"),
    )


def _break_even(training: float, own: float, bought: float) -> float | Instead:
    return math.ceil(training / (bought - own)) if bought > own else NOTHING


def break_even(answer: Any) -> Grade:
    """Whole and broken numbers of pictures, nothing saved, and a loss with every picture."""
    if not callable(answer):
        return compare(answer, max, [], why="", hint="")
    cases = [
        (3.0, 0.25, 0.75),
        (5.0, 0.5, 2.0),
        (7.0, 1.0, 1.0),
        (4.0, 3.0, 1.0),
        (10.0, 0.0, 4.0),
        (0.5, 1.0, 9.0),
    ]
    if all(answer(*case) is None for case in cases):
        return wrong(
            "your function returns nothing.",
            why="a function without `return` gives None, and so does its placeholder.",
            hint="fill in the TODO; None is right only where a picture saves nothing.",
        )

    def marked(*given: float) -> Any:
        found = answer(*given)
        return NOTHING if found is None else found

    return compare(
        marked,
        _break_even,
        cases,
        [
            Mistake(
                formula=lambda training, own, bought: math.ceil(training / bought),
                what="you forget that your own pictures cost something too.",
                why="only the difference to the bought price pays the training back.",
                hint="divide by bought − own.",
            ),
            Mistake(
                formula=lambda training, own, bought: training / (bought - own) if bought > own else NOTHING,
                what="you give a part of a picture.",
                why="after 3 pictures the bill is still larger, after 4 it is not: the answer is 4.",
                hint="round up to a whole number.",
            ),
            Mistake(
                formula=lambda training, own, bought: (
                    math.floor(training / (bought - own)) if bought > own else NOTHING
                ),
                what="you round down.",
                why="at that number the training is not paid back yet.",
                hint="round up.",
            ),
            Mistake(
                formula=lambda training, own, bought: (
                    math.floor(training / (bought - own)) + 1 if bought > own else NOTHING
                ),
                what="where it comes out even, you give one picture too many.",
                why="no larger than the bill of buying is enough.",
                hint="math.ceil or np.ceil, not a floor and one more.",
            ),
            Mistake(
                formula=lambda training, own, bought: math.ceil(training / (bought - own)),
                what="your function has no answer where a picture saves nothing.",
                why="with nothing saved no number of pictures pays the training; with a loss a negative one comes out.",
                hint="return None unless bought − own is above 0.",
            ),
            Mistake(
                formula=lambda training, own, bought: (
                    math.ceil(training / abs(bought - own)) if bought != own else NOTHING
                ),
                what="a loss with every picture counts as a gain.",
                why="where your own picture is dearer than a bought one, more of them make it worse.",
                hint="return None unless bought − own is above 0.",
            ),
            Mistake(
                formula=lambda training, own, bought: (
                    math.ceil(training / (bought + own)) if bought > own else NOTHING
                ),
                what="you add the two prices.",
                why="what a picture saves is the difference of the two.",
                hint="divide by bought − own.",
            ),
        ],
        why="the training over what a picture saves, rounded up; None where it saves nothing.",
        hint=direction_of(17, "break_even"),
        praise="Below that number the training was a loss, whatever it learned.",
    )


def choose(answer: Callable[..., Any]) -> Grade:
    """The smallest bill among two and three options, at several volumes."""
    if not callable(answer):
        return compare(answer, max, [], why="", hint="")
    two = {"buying": (0.0, 2.0), "own": (30.0, 0.5)}
    three = {"hour": (1.0, 3.0), "month": (50.0, 1.0), "year": (400.0, 0.25)}
    odd = {"a": (9.0, 1.0), "b": (2.0, 6.0), "c": (5.0, 4.0)}
    steep = {"x": (1.0, 9.0), "y": (3.0, 1.0)}
    cases = [
        (steep, 0),
        (steep, 4),
        (two, 5),
        (two, 100),
        (three, 2),
        (three, 100),
        (three, 5000),
        (odd, 0),
        (odd, 1),
        (odd, 3),
    ]
    for options, pictures in cases:
        found = answer(dict(options), pictures)
        if not isinstance(found, str) or found not in options:
            return wrong(
                f"your function returns {described(found)}, which is no option's name.",
                why="the task asks for the name of the cheapest option.",
                hint="go over the names, and return that with the smallest bill.",
            )

    def bill(options: Mapping[str, tuple[float, float]], name: str, pictures: float) -> float:
        return options[name][0] + pictures * options[name][1]

    def place(name: Any, options: Mapping[str, Any]) -> float:
        return float(list(options).index(name))

    return compare(
        lambda options, pictures: place(answer(options, pictures), options),
        lambda options, pictures: place(
            min(options, key=lambda name: bill(options, name, pictures)), options
        ),
        cases,
        [
            Mistake(
                formula=lambda options, pictures: place(
                    min(options, key=lambda name: options[name][1]), options
                ),
                what="you compare the price of a picture alone.",
                why="for few pictures the fixed price is most of the bill.",
                hint="fixed + pictures · each.",
            ),
            Mistake(
                formula=lambda options, pictures: place(
                    min(options, key=lambda name: options[name][0]), options
                ),
                what="you compare the fixed price alone.",
                why="for many pictures it is a small part of the bill.",
                hint="fixed + pictures · each.",
            ),
            Mistake(
                formula=lambda options, pictures: place(
                    min(options, key=lambda name: sum(options[name])), options
                ),
                what="the number of pictures is not in your bill.",
                why="it is what decides between the options.",
                hint="fixed + pictures · each.",
            ),
            Mistake(
                formula=lambda options, pictures: place(
                    max(options, key=lambda name: bill(options, name, pictures)), options
                ),
                what="you choose the dearest.",
                why="the smallest bill was asked for.",
                hint="min in place of max.",
            ),
        ],
        why="the bill is the fixed price and that of all pictures together.",
        hint=direction_of(17, "choose"),
        praise="There is no cheapest option, only a cheapest one for a number of pictures.",
    )


TASKS: Mapping[str, Grader] = {
    "seconds_a_picture": seconds_a_picture,
    "cost_drawn": cost_drawn,
    "cost_accepted": cost_accepted,
    "cheapest": cheapest,
    "break_even": break_even,
    "choose": choose,
}
